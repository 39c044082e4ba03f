"""The descriptions of the environment agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml

from ofq.errors import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXACT = (ROOT / "envs/constraints.txt").read_text().splitlines()


def test_the_exact_versions_are_versions_and_no_addresses() -> None:
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9a-z.+]+", line) for line in EXACT)


def test_every_dependency_has_an_exact_version() -> None:
    for named in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert packages(named) <= {line.split("==")[0] for line in EXACT}


def test_what_is_said_to_be_in_an_extra_is_what_it_brings() -> None:
    modules = {
        extra: {{"sklearn": "scikit-learn"}.get(name, name) for name in names} for extra, names in EXTRAS.items()
    }
    of_no_import = {"snakemake-executor-plugin-slurm", "cyclonedx-bom"}
    assert modules == {extra: packages(PROJECT["optional-dependencies"][extra]) - of_no_import for extra in modules}


def packages(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line)[0].lower() for line in requirements}  # type: ignore[index]


def test_conda_gets_the_same_versions() -> None:
    environment = yaml.safe_load((ROOT / "envs/ofq.yaml").read_text())
    pinned = environment["dependencies"][-1]["pip"]
    assert set(pinned) <= set(EXACT)
    extras = PROJECT["optional-dependencies"]
    assert len(pinned) == sum(map(len, (PROJECT["dependencies"], extras["export"], extras["pipeline"])))


def test_the_container_gets_the_same_versions() -> None:
    assert "--constraint envs/constraints.txt" in (ROOT / "Dockerfile").read_text()
