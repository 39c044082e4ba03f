"""Shared fixtures: a project directory with the real Snakefile, and a study so small that it trains in seconds."""

import copy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tools.scratch import copy_workflow, environment

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "teacher": {"lr": 3e-3, "min_lr": 1e-4, "batch_size": 64, "steps": 24, "warmup": 0.1},
    "qat": {"lr": 2e-3, "min_lr": 1e-4, "batch_size": 64, "steps": 24, "constant_steps": 4},
    "cga": {"steps": 12},
}
# Files that take minutes begin first, so that none is left for the end with the other processes idle.
LONG = (
    "workflow/test_slurm.py",
    "workflow/test_imagenet.py",
    "reliability/test_snakemake.py",
    "docs/test_guides.py",
    "reliability/test_resume.py",
    "workflow/test_reruns.py",
    "workflow/test_groups.py",
    "workflow/test_start.py",
    "workflow/test_forecast.py",
    "tools/test_drill.py",
    "workflow/test_warm.py",
    "cli/test_ranks.py",
)


class Project:
    """A copy of the workflow and the package in its own directory, with small recipes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.params["recipes"]["digits"] = copy.deepcopy(SMALL)
        digits = self.params["studies"]["digits"]
        del digits["groups"], digits["learning_rates"], digits["measure"]
        self.params["studies"] = {
            "digits": digits | {"bits": ["w2a2"], "variants": ["statsq", "statsq-cga", "lsq"], "seeds": [0, 1]}
        }
        copy_workflow(ROOT, root, self._text)

    @property
    def env(self) -> dict[str, str]:
        """This environment's programs, the copied package, and no warm process of another run."""
        return environment(self.root)

    @property
    def _text(self) -> str:
        return yaml.safe_dump(self.params, sort_keys=False)

    def write_params(self) -> None:
        (self.root / "params.yaml").write_text(self._text)

    def run(self, *command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's directory; ``python`` and ``snakemake`` are those of this environment."""
        return subprocess.run(command, cwd=self.root, env=self.env | (env or {}), capture_output=True, text=True)

    def plan(self, *targets: str) -> dict[str, int]:
        """What ``snakemake -n`` would run, by Snakemake's own table: jobs by rule."""
        done = self.run("snakemake", "-n", *targets, "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        text = done.stdout + done.stderr
        if "Nothing to be done" in text:
            return {}
        table = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
        jobs = {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}
        return {rule: count for rule, count in jobs.items() if rule not in self._gathering}

    @property
    def _gathering(self) -> set[str]:
        """Rules that make nothing themselves."""
        studies = self.params["studies"]
        groups = {name for study in studies.values() for name in (*study.get("groups", {}), "everything", "crate")}
        return {"all", *studies, *groups, *(f"{study}-{group}" for study in studies for group in groups)}

    def ofq(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m ofq``."""
        return self.run("python", "-m", "ofq", *arguments)

    @contextmanager
    def served(self, address: Path) -> Iterator[dict[str, str]]:
        """Run a warm process at an address and give the environment that leads jobs to it; it must end well."""
        server = subprocess.Popen([sys.executable, "-m", "ofq", "warm", str(address)], cwd=self.root, env=self.env)
        try:
            while not address.exists():
                assert server.poll() is None
                time.sleep(0.01)
            yield {"OFQ_WARM_SOCKET": str(address)}
        finally:
            server.terminate()
            code = server.wait(timeout=30)
        assert code == 0 and not address.exists()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh small project."""
    return Project(tmp_path)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a switch for what is too long for every day."""
    parser.addoption("--whole", action="store_true", help="train every variant of every model of ImageNet's study")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first, and keep the order of all others."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))
