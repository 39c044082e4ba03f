"""A small finished study, made once, and copies of it."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from ofq.cli.main import main
from tests.conftest import Project
from tests.inputs.settings import BASE

STUDY = "digits"
RUN = f"{STUDY}/vit_micro/w2a2/statsq/seed0"
STEPS = [
    ["data", STUDY],
    ["teacher", f"{STUDY}/vit_micro/fp/teacher/seed0"],
    ["qat", RUN],
    ["qat", f"{STUDY}/vit_micro/w2a2/lsq/seed0"],
    ["cga", f"{STUDY}/vit_micro/w2a2/statsq-cga/seed0"],
    ["tables", STUDY],
    ["figures", STUDY],
    ["reference", STUDY],
    ["tables", STUDY],  # again: one of them compares with the record
]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing was made."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a study in which everything is made, for all workers; not to be written."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "finished"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "results" / "reference").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            project = Project(root)
            phase = {"lr": 3e-3, "min_lr": 1e-4, "batch_size": 16, "steps": 2}
            project.params["recipes"]["digits"] = {"teacher": phase, "qat": {**phase}, "cga": {"steps": 1}}
            project.params["studies"][STUDY]["seeds"] = [0]
            project.write_params()
            with chdir(root):
                for step in STEPS:
                    assert main(step) == 0, step
    return root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished study, which is also the current directory; what is finished must not be lost in it."""
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    before = digests(root / "results")
    with chdir(root):
        yield root
    assert before.items() <= digests(root / "results").items(), "lost what was finished"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What a step says that is refused: one line on standard error, exit code 2."""

    def refusal(*argv: str) -> str:
        capsys.readouterr()
        try:
            code = main(list(argv))
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        said = capsys.readouterr().err
        assert code == 2, said
        assert said.startswith("ofq: error: ") and said.count("\n") == 1 and said.strip().isprintable(), said
        return said.removeprefix("ofq: error: ").rstrip("\n")

    return refusal
