"""The descriptions of the environment agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXACT = (ROOT / "envs/constraints.txt").read_text().splitlines()


def test_the_exact_versions_are_versions_and_no_addresses() -> None:
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9a-z.+]+", line) for line in EXACT)


def test_every_dependency_has_an_exact_version() -> None:
    named = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PROJECT["optional-dependencies"]["export"],
    ]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in named}  # type: ignore[index]
    assert names <= {line.split("==")[0] for line in EXACT}


def test_conda_gets_the_same_versions() -> None:
    environment = yaml.safe_load((ROOT / "envs/ofq.yaml").read_text())
    pinned = environment["dependencies"][-1]["pip"]
    assert set(pinned) <= set(EXACT)
    assert len(pinned) == len(PROJECT["dependencies"]) + len(PROJECT["optional-dependencies"]["export"])


def test_the_container_gets_the_same_versions() -> None:
    assert "--constraint envs/constraints.txt" in (ROOT / "Dockerfile").read_text()
