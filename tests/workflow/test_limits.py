"""What jobs may use together: no more than the machine, or the container, has."""

import re
from pathlib import Path

import pytest

from ofq.workflow import limits
from tests.conftest import Project

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control group of this process, in another one, on a machine with 8 GiB."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path)
    monkeypatch.setattr(limits, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 8 * GIB}))
    (tmp_path / "own").write_text("0::/outer/inner\n")
    (tmp_path / "outer/inner").mkdir(parents=True)
    return tmp_path / "outer/inner"


def test_without_limits_it_is_the_machine(group: Path) -> None:
    assert limits.processors(64) == 64 and limits.memory_mb() == 8 * GIB // 10**6
    (group / "cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text("max\n")
    assert limits.processors(64) == 64 and limits.memory_mb() == 8 * GIB // 10**6
    (group.parents[1] / "own").unlink()
    assert limits.processors(64) == 64 and limits.memory_mb() == 8 * GIB // 10**6


@pytest.mark.parametrize("place", ["outer/inner", "outer", "."])
def test_the_least_limit_of_a_group_counts(group: Path, place: str) -> None:
    limited = group.parents[1] / place
    (limited / "cpu.max").write_text("250000 100000\n")
    (limited / "memory.max").write_text(f"{2 * GIB}\n")
    assert limits.processors(64) == 3 and limits.processors(2) == 2
    assert limits.memory_mb() == 2 * GIB // 10**6
    (limited / "cpu.max").write_text("50000 100000\n")
    (limited / "memory.max").write_text(f"{2**63 - 4096}\n")
    assert limits.processors(64) == 1 and limits.memory_mb() == 8 * GIB // 10**6


def provided(project: Project, *arguments: str) -> list[int]:
    """Cores and megabytes that Snakemake gives its jobs."""
    done = project.run("snakemake", "--forceall", *arguments, "--", "results/toy/trace.csv")
    assert done.returncode == 0, done.stderr
    return [int(re.search(text, done.stderr)[1]) for text in (r"Provided cores: (\d+)", r'"mem_mb", (\d+)')]


def test_snakemake_bounds_memory_always_and_processors_where_all_were_asked_for(project: Project) -> None:
    # As in a container: its files of limits cannot be made here.
    path = project.root / "src/ofq/workflow/limits.py"
    code = path.read_text()
    path.write_text(
        f"{code}\n\ndef processors(available: int) -> int:\n    return 1\n\n\ndef memory_mb() -> int:\n    return 1200\n"
    )
    assert provided(project) == [1, 1200], "less than some jobs ask for is no error"
    assert provided(project, "--cores", "64") == [64, 1200], "a number is taken at its word"
    assert provided(project, "--resources", "mem_mb=5000") == [1, 5000]
