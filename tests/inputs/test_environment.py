"""A machine that refuses: no home, nothing can be written, something else stands in the way. Nothing is lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import Project
from tests.inputs.conftest import RUN, STUDY, Refusal, digests
from tests.inputs.machine import Outcome, namespaces, steps_on, without_permission

WRITING = [["data", STUDY], ["tables", STUDY], ["figures", STUDY], ["reference", STUDY]]
TEACHER = f"{STUDY}/vit_micro/fp/teacher/seed0"

# Where a user may mount disks, real ones; where not, the same promise with what every machine has.
DISKS = {"full": "full" if namespaces() else "file-size", "read-only": "read-only" if namespaces() else "permission"}
# To clean makes room on a full disk, and works there. MLflow takes seconds to import: once is enough.
MORE = {DISKS["full"]: [["track", STUDY]], "permission": [["clean", "--yes"]], "read-only": [["clean", "--yes"]]}


@pytest.mark.parametrize("machine", sorted({"file-size", "permission", *DISKS.values()}))
def test_a_step_that_cannot_write_is_one_line(copy: Path, machine: str) -> None:
    """The fixture holds that every finished file is as it was."""
    steps = [*WRITING, *MORE.get(machine, [])]
    for step, outcome in zip(steps, steps_on(machine, copy, steps), strict=True):
        (line,) = refusals(outcome, step)
        assert "cannot write results/" in line or step[0] in ("clean", "track"), line
        assert "; " in line
    assert not [path for path in (copy / "results").rglob(".*") if path.is_file()], "temporary files are left"


def test_a_full_disk_can_be_cleaned(finished: Path, tmp_path: Path) -> None:
    root = shutil.copytree(finished, tmp_path / "project")
    (outcome,) = steps_on("file-size", root, [["clean", "--yes"]])
    assert outcome.code == 0 and outcome.said == ""
    assert [path.name for path in (root / "results").iterdir()] == ["reference"]


def test_no_room_even_for_temporary_files_is_one_line(copy: Path) -> None:
    (outcome,) = steps_on("no-temporary", copy, [["figures", STUDY]])
    assert refusals(outcome, ["figures"])


def refusals(outcome: Outcome, step: list[str]) -> list[str]:
    """The last line of a refusal, which is the only one of ours; libraries may have warned before it."""
    lines = [line for line in outcome.said.splitlines() if line.startswith("ofq: ")]
    assert outcome.code == 2 and "Traceback" not in outcome.said, (step, outcome)
    assert lines == outcome.said.splitlines()[-1:] and lines[0].startswith("ofq: error: "), (step, outcome)
    return lines


def blocked(path: str, block: Callable[[Path], None]) -> Callable[[Path], None]:
    """Move a file or folder aside and put something else in its place."""

    def arrange(root: Path) -> None:
        if (root / path).exists():
            (root / path).rename(root / "aside")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        block(root / path)

    return arrange


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


def a_circle(path: Path) -> None:
    path.symlink_to(path.name)


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


OBSTACLES = {
    "results is a file": (blocked("results", a_file), ["data", STUDY]),
    "results leads nowhere": (blocked("results", a_dangling_link), ["data", STUDY]),
    "results leads to itself": (blocked("results", a_circle), ["data", STUDY]),
    "the data's folder is a file": (blocked("results/digits/data", a_file), ["data", STUDY]),
    "the data are a folder": (blocked("results/digits/data/train.safetensors", a_folder), ["data", STUDY]),
    "the manifest is a folder": (blocked("results/digits/data/manifest.json", a_folder), ["data", STUDY]),
    "the manifest to be read is a folder": (blocked("results/digits/data/manifest.json", a_folder), ["teacher", TEACHER]),
    "the manifest leads to itself": (blocked("results/digits/data/manifest.json", a_circle), ["teacher", TEACHER]),
    "the data to be read are a folder": (blocked("results/digits/data/train.safetensors", a_folder), ["teacher", TEACHER]),
    "the report is a file": (blocked("results/digits/report", a_file), ["tables", STUDY]),
    "the report leads nowhere": (blocked("results/digits/report", a_dangling_link), ["tables", STUDY]),
    "the report leads to itself": (blocked("results/digits/report", a_circle), ["figures", STUDY]),
    "a table is a folder": (blocked("results/digits/report/tables/main.csv", a_folder), ["tables", STUDY]),
    "a figure is a folder": (blocked("results/digits/report/figures/accuracy.png", a_folder), ["figures", STUDY]),
    "metrics are a folder": (blocked(f"results/{RUN}/metrics.json", a_folder), ["tables", STUDY]),
    "metrics lead to themselves": (blocked(f"results/{RUN}/metrics.json", a_circle), ["tables", STUDY]),
    "a run is a file": (blocked(f"results/{RUN}", a_file), ["tables", STUDY]),
    "a record is a folder": (blocked(f"results/{RUN}/oscillation.parquet", a_folder), ["tables", STUDY]),
    "a record is missing": (blocked(f"results/{RUN}/oscillation.parquet", a_dangling_link), ["tables", STUDY]),
    "a record is no record": (blocked(f"results/{RUN}/weights.parquet", a_file), ["figures", STUDY]),
    "the reference is a file": (blocked("results/reference", a_file), ["reference", STUDY]),
    "the reference leads nowhere": (blocked("results/reference", a_dangling_link), ["reference", STUDY]),
    "the state's folder is a file": (blocked("runs", a_file), ["teacher", TEACHER]),
    "the state leads nowhere": (blocked("runs", a_dangling_link), ["teacher", TEACHER]),
    "the state leads to itself": (blocked("runs", a_circle), ["teacher", TEACHER]),
    "the run's state is a file": (blocked(f"runs/{TEACHER}", a_file), ["teacher", TEACHER]),
    "the settings are a folder": (blocked("params.yaml", a_folder), ["data", STUDY]),
    "the settings lead to themselves": (blocked("params.yaml", a_circle), ["tables", STUDY]),
}  # fmt: skip


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_stands_in_the_way_is_one_line_and_stays(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, obstacle: str
) -> None:
    root = shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(root)
    arrange, step = OBSTACLES[obstacle]
    arrange(root)
    before = {path: content for path, content in digests(root).items() if not path.startswith("logs")}
    said = refusal(*step)
    assert "; " in said
    after = digests(root)
    # Tables and figures that were made anew before the obstacle was met are the same again.
    assert before.items() <= after.items(), said


def test_a_directory_whose_name_is_as_long_as_can_be_is_one_line(
    finished: Path, refusal: Refusal, tmp_path: Path
) -> None:
    root = tmp_path
    while len(os.fsencode(root)) < 3800:
        root = root / ("d" * 200)
    root.mkdir(parents=True)
    shutil.copy(finished / "params.yaml", root)
    back = Path.cwd()
    os.chdir(root)
    try:
        (root / "results").symlink_to("x" * 200 + "/" + "y" * 100)
        assert "cannot write results/digits/data/train.safetensors: " in refusal("data", STUDY)
    finally:
        os.chdir(back)


# -- end to end, each in a process of its own


HOMELESS = """
import os, pwd, sys

def nobody(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
os.environ.pop("HOME", None)
from ofq.cli.main import main

print([main(step.split()) for step in sys.argv[1:]])
"""


def test_a_user_without_a_home_can_make_everything_and_is_told_that_mlflow_wants_one(copy: Path) -> None:
    steps = [f"teacher {TEACHER}", f"tables {STUDY}", f"figures {STUDY}", f"track {STUDY}"]
    info = (copy / "results" / TEACHER / "run.json").read_bytes()
    done = subprocess.run([sys.executable, "-c", HOMELESS, *steps], capture_output=True, text=True)
    (copy / "results" / TEACHER / "run.json").write_bytes(info)  # times differ, all else is the same again
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 2]" and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("ofq: error: MLflow store"), done.stderr


@pytest.mark.parametrize("home", [None, "params.yaml/home"], ids=["unset", "impossible"])
def test_steps_and_workflow_need_no_home(copy: Path, tmp_path: Path, home: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_", "MPL"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(copy / "src")}
    if home:  # Snakemake itself wants a folder for its cache
        environment |= {"HOME": str(copy / home), "XDG_CACHE_HOME": str(tmp_path)}
    for command in (
        ["python", "-m", "ofq", "figures", STUDY],
        ["snakemake", "-n", f"results/{STUDY}/data/manifest.json"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_a_data_folder_of_a_home_that_nobody_has_is_one_line(copy: Path, refusal: Refusal) -> None:
    settings = yaml.safe_load((copy / "params.yaml").read_text())
    settings["studies"][STUDY]["data"] = {"name": "fashion-mnist", "root": "~no-such-user/images"}
    (copy / "params.yaml").write_text(yaml.safe_dump(settings))
    assert "data.root '~no-such-user/images': no such home directory; write the whole path" in refusal("data", STUDY)


@pytest.mark.parametrize(
    ("command", "arrange", "said"),
    [
        ("python -m ofq tables digitz", None, "unknown study 'digitz'; did you mean 'digits'?"),
        ("python -m ofq qat digits/vit_micro/w2a2/statsq/seed007", None, "names no run"),
        ("python -m ofq qats", None, "unknown command 'qats'; did you mean 'qat'?"),
        ("python -m ofq data digits", ("params.yaml", "studies: [\n"), "params.yaml: cannot be read: "),
        ("snakemake -n", ("params.yaml", "studies: [\n"), "params.yaml: cannot be read: "),
        ("snakemake -n", ("params.yaml", ""), "params.yaml: Input should be a mapping, not null"),
        ("snakemake -n results/digits/vit_micro/w2a2/statsq/seed007/metrics.json", None, "names no run"),
        ("snakemake -n teacher", None, "'teacher' is a step of many jobs; ask for a file"),
        ("snakemake results/digits/data/manifest.json", ("results", "mine"), "results is no directory; move it away"),
    ],
)
def test_it_ends_with_code_2_and_no_traceback(
    tmp_path: Path, command: str, arrange: tuple[str, str] | None, said: str
) -> None:
    project = Project(tmp_path)
    if arrange:
        (tmp_path / arrange[0]).write_text(arrange[1])
    done = project.run(*command.split())
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ofq: error: ")]
    assert said in line and "Traceback" not in done.stdout + done.stderr


def test_a_workflow_whose_results_cannot_be_written_is_one_line(copy: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(copy / "src")}
    target = f"results/{STUDY}/report/tables/main.csv"
    done = without_permission(["snakemake", "--forcerun", "tables", "--", target], copy, os.environ | environment)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ofq: error: ")]
    assert "cannot write results: " in line and "Traceback" not in done.stdout + done.stderr
    done = without_permission(["snakemake", "-n", "--", target], copy, os.environ | environment)
    assert done.returncode == 0, done.stderr
