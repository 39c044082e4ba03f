"""What jobs may use together: no more than the machine, or the container, has."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ofq.config.params import load
from ofq.config.settings import PROCESSOR, Hardware
from ofq.workflow import internals, limits
from ofq.workflow.plan import Plan
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


@pytest.mark.parametrize("place", ["docker/inner", "docker", "."])
def test_limits_of_version_1_count(group: Path, place: str) -> None:
    top = group.parents[1]
    (top / "own").write_text("9:name=systemd:/\n4:memory:/docker/inner\n1:cpu,cpuacct:/docker/inner\n0::/\n")
    files = {}
    for controller, name in [
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("memory", "memory.limit_in_bytes"),
    ]:
        files[name] = top / controller / place / name
        files[name].parent.mkdir(parents=True, exist_ok=True)

    def limit(quota: int, memory: int) -> None:
        for file, value in zip(files.values(), (quota, 100_000, memory), strict=True):
            file.write_text(f"{value}\n")

    limit(-1, 2**63 - 4096)
    assert limits.processors(64) == 64 and limits.memory_mb() == 8 * GIB // 10**6
    limit(250_000, 2 * GIB)
    assert limits.processors(64) == 3 and limits.memory_mb() == 2 * GIB // 10**6


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that gives the machine a number of cards."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(limits, "_DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    def has(cards: int) -> None:
        program = tmp_path / "nvidia-smi"
        lines = "".join(f"echo 'GPU {card}: NVIDIA H (UUID: GPU-{card})'\n" for card in range(cards))
        program.write_text(f"#!/bin/sh\n{lines}echo '  MIG 1g.10gb Device 0: (UUID: MIG-0)'\n")
        program.chmod(0o755)

    return has


@pytest.mark.parametrize(
    ("visible", "seen"),
    [(None, 4), ("", 0), ("-1", 0), ("2", 1), ("0,3", 2), ("GPU-1,GPU-2,GPU-3", 3), ("1,-1,2", 1), ("0,1,2,3,4,5", 4)],
)
def test_cards_are_those_that_are_visible(
    machine: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: int
) -> None:
    machine(4)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert limits.cards() == seen


def test_without_nvidia_smi_the_devices_are_counted(machine: object, tmp_path: Path) -> None:
    assert limits.cards() == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert limits.cards() == 2


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


TEACHER = "results/digits/vit_micro/fp/teacher/seed0/metrics.json"


def test_places_on_cards_are_offered_to_local_jobs_unless_their_number_was_given() -> None:
    given: dict[str, int] = {}
    workflow = SimpleNamespace(local_exec=True, global_resources=given, register_resource=given.__setitem__)
    internals.offer_cards(workflow, 6)
    internals.offer_cards(workflow, 8)
    assert given == {"gpu": 6}
    given.clear()
    workflow.local_exec = False
    internals.offer_cards(workflow, 6)
    assert given == {}


def test_a_study_trains_on_the_cards_that_are_there_or_is_refused(project: Project) -> None:
    (project.root / "bin").mkdir()
    program = project.root / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{project.env['PATH']}"}
    project.params["studies"]["digits"]["hardware"] = {"device": "cuda", "runs_per_gpu": 3}
    project.write_params()
    plan, wildcards = Plan(load(project.root / "params.yaml")), SimpleNamespace(study="digits")
    assert (plan.gpu(wildcards), plan.mem_mb(wildcards)) == (1, 6000)
    plan.params.studies["digits"] = plan.params.studies["digits"].model_copy(update={"hardware": PROCESSOR})
    assert (plan.gpu(wildcards), plan.mem_mb(wildcards)) == (0, 1500)
    several = {"hardware": Hardware(device="cuda", devices=4)}
    plan.params.studies["digits"] = plan.params.studies["digits"].model_copy(update=several)
    assert (plan.of_all(plan.gpu)(wildcards), plan.of_all(plan.mem_mb)(wildcards)) == (4, 24000)
    done = project.run("snakemake", TEACHER, env=env)
    assert done.returncode == 2 and not (project.root / "results").exists()
    assert "study digits trains on cuda, and there is no card here that nvidia-smi lists; start" in done.stderr
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H'\necho 'GPU 1: NVIDIA H'\n")
    done = project.run("snakemake", TEACHER, env=env)
    assert done.returncode == 1 and '"gpu", 6' in done.stderr
    last = done.stderr.splitlines()[-2]
    assert last.startswith("ofq: error: the study's hardware is cuda, and there is no card to be found (")
    project.params["studies"]["digits"]["hardware"] = {"device": "cuda", "devices": 4}
    project.write_params()
    done = project.run("snakemake", TEACHER, env=env)
    assert done.returncode == 2
    assert "a run of study digits takes 4 cards, and there are 2 here; lower studies.digits.hardware.dev" in done.stderr
    begun = [path.name for path in (project.root / "runs").rglob("*") if path.is_file()]
    assert begun == ["failed.json"], "nothing was begun"
