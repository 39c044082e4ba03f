"""What a study would run and what that would cost: Snakemake's jobs with reasons, and hours from what runs took."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ofq.config.params import load
from ofq.config.resolve import resolve
from ofq.measure.pace import evaluations
from ofq.measure.shape import Shape
from ofq.runs.paths import Run
from ofq.workflow.finished import Made
from ofq.workflow.forecast import paces, table
from ofq.workflow.forecast.jobs import Job, jobs_of
from ofq.workflow.forecast.records import finished_here, kind_of
from tests.conftest import ROOT, Project

PARAMS = load(ROOT / "params.yaml")
SHAPE = Shape(train=1200, evaluated=597, classes=10, channels=1, size=(8, 8))
STATSQ = Run("digits", "vit_micro", "w2a2", "statsq", 0)
TOTAL = re.compile(r"total: (\d+) runs?, ([\d,]+) steps, ([\d,]+) MiB on disk, ([\d.e-]+) CPU-hours")


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder of a project but compiled Python, with time and size."""
    found = {path: path.stat() for path in root.rglob("*") if "__pycache__" not in path.parts}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in found.items() if not path.is_dir()}


def rows(output: str) -> dict[str, list[str]]:
    """The jobs of the table, each with its further cells."""
    lines = [re.split(r"  +", line) for line in output.splitlines()[1:]]
    return {cells[0]: cells[1:] for cells in lines if re.match(r"(data|teacher|qat|cga|noise|probe) ", cells[0])}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("project"))
    made.params["studies"]["digits"] |= {"variants": ["statsq", "statsq-cga"], "seeds": [0]}
    made.params["studies"]["digits"] |= {"groups": {"others": {"variants": ["lsq"]}}}
    made.write_params()
    source = made.root / "src/ofq/workflow/forecast/paces.py"
    shorter = source.read_text().replace("_TRIAL, _LEAST = 20.0, 1.0", "_TRIAL, _LEAST = 0.9, 0.3")
    assert shorter != source.read_text()
    source.write_text(shorter)
    return made


def test_a_new_study_is_tried_and_nothing_of_it_is_made(project: Project) -> None:
    before = files(project.root)
    done = project.ofq("plan", "digits")
    assert done.returncode == 0, done.stderr
    assert files(project.root) == before and not (project.root / ".snakemake").exists()
    found = rows(done.stdout)
    assert list(found) == [
        "data digits",
        f"teacher {STATSQ.teacher}",
        f"qat {STATSQ}",
        f"cga {STATSQ.sibling('statsq-cga')}",
    ]
    assert {cells[0] for cells in found.values()} == {"missing"}
    assert [cells[1:3] for cells in found.values()][1:] == [["0", "24"], ["0", "24"], ["0", "12"]]
    assert "digits: kinds of run: 3 from a trial" in done.stdout
    total = TOTAL.fullmatch(done.stdout.splitlines()[-1])
    assert total and total[1] == "3" and total[2] == "60"
    assert 5 < 3600 * float(total[4]) < 500
    memory = [int(cells[4]) for cells in list(found.values())[1:]]
    assert all(200 < mib < 2000 for mib in memory)


def test_a_finished_study_has_nothing_to_do_and_an_edit_says_what_runs_again_and_why(project: Project) -> None:
    done = project.run("snakemake")
    assert done.returncode == 0, done.stderr
    done = project.ofq("plan", "digits")
    assert done.stdout == "nothing to do\ntotal: 0 runs, 0 CPU-hours\n", done.stderr
    annealing = project.root / "src/ofq/remedies/cga.py"
    annealing.write_text(f"{annealing.read_text()}\n_MORE = 1\n")
    done = project.ofq("plan", "digits")
    assert rows(done.stdout)[f"cga {STATSQ.sibling('statsq-cga')}"][:3] == ["code", "0", "12"]
    assert done.stdout.splitlines()[-1].startswith("total: 1 run, 12 steps, ")
    project.params["recipes"]["digits"]["qat"]["lr"] = 1e-3
    project.write_params()
    (project.root / STATSQ.teacher.files.logits).unlink()
    done = project.ofq("plan", "digits")
    assert done.returncode == 0, done.stderr
    assert {job: cells[0] for job, cells in rows(done.stdout).items()} == {
        f"teacher {STATSQ.teacher}": "missing: logits.safetensors",
        f"qat {STATSQ}": "qat.lr 0.002 -> 0.001; after teacher",
        f"cga {STATSQ.sibling('statsq-cga')}": "after qat and teacher",
    }
    assert "kinds of run: 3 from finished runs here" in done.stdout, "another rate takes as long"
    done = project.ofq("plan", "digits", "other")
    assert done.returncode == 2
    assert done.stderr == "ofq: error: unknown group of study 'digits': 'other'; did you mean 'others'?\n"


def test_a_run_that_was_stopped_goes_on_from_its_saved_step(project: Project) -> None:
    run = STATSQ.sibling("lsq")
    state = project.root / "runs" / str(run)
    script = (
        "from ofq.config.params import load\nfrom ofq.config.resolve import resolve\nfrom ofq.runs import states\n"
        "from ofq.runs.code_digest import code_digest\nfrom ofq.runs.paths import Run\n"
        "from ofq.runs.provenance import file_digest\nfrom ofq.workflow.plan import ENTRIES\n"
        f"run = Run.named('{run}')\nconfig = resolve(load(), run)\n"
        "read = {str(path): file_digest(path) for path in (states.Path('results/digits/data/manifest.json'),"
        " *run.teacher.files.taught)}\n"
        "origin = states.Origin(config.canonical(), read, code_digest(ENTRIES['qat'], *config.modules))\n"
        "states.State(run.state('key'), origin).begin()\n(run.state('key') / 'checkpoint-000000016.pt').touch()\n"
    )
    assert project.run("snakemake", *map(str, STATSQ.teacher.files.taught)).returncode == 0
    assert project.run("python", "-c", script).returncode == 0
    done = project.ofq("plan", "digits", "others")
    assert rows(done.stdout)[f"qat {run}"][:3] == ["missing", "16", "8"], done.stdout + done.stderr
    (state / "key/state.json").write_text(
        (state / "key/state.json").read_text().replace('\\"lr\\": 0.001', '\\"lr\\": 1')
    )
    done = project.ofq("plan", "digits", "others")
    assert rows(done.stdout)[f"qat {run}"][:3] == ["missing", "0", "24"], "the state of other settings"


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ("digits/vit_micro/w2a2/statsq/seed1", True),
        ("digits/vit_micro/w4a4/statsq/seed0", True),
        ("digits/vit_micro/w2a2/statsq-k3/seed0", True),
        ("digits-lr/vit_micro/w2a2/statsq-lr0.004/seed0", False),  # as many images are not evaluated
        ("digits/vit_micro/w2a2/lsq/seed0", False),
        ("digits/vit_micro/w2a2/statsq-qkr/seed0", False),
        ("digits/vit_micro/w2a2/statsq-cga/seed0", False),
        ("digits/vit_micro/w2a2/statsq-dampening/seed0", False),
        ("digits/vit_micro_distilled/w2a2/statsq/seed0", False),
    ],
)
def test_runs_take_as_long_where_only_seed_rate_width_or_bits_differ(other: str, alike: bool) -> None:
    kinds = [kind_of(resolve(PARAMS, run).shown()) for run in (STATSQ, Run.named(other))]
    assert (kinds[0] == kinds[1]) == alike


def test_a_run_whose_activations_are_not_quantized_takes_another_time() -> None:
    kinds = []
    for bits in (2, 6, 32):
        shown = resolve(PARAMS, STATSQ).shown()
        shown["quantization"]["input_bits"] = bits
        kinds.append(kind_of(shown))
    assert kinds[0] == kinds[1] != kinds[2]


def test_a_run_is_evaluated_as_often_as_the_loop_does() -> None:
    recipe = resolve(PARAMS, STATSQ).train
    for steps, first in ((1200, 0), (1200, 250), (1201, 0), (1200, 1200), (7, 3)):
        held = recipe.held(1e-3, steps)
        interval = max(1, steps // recipe.evaluations)
        looped = [step for step in range(first + 1, steps + 1) if step % interval == 0 or step == steps]
        assert evaluations(held, first) == len(looped) + 1


def finished(run: Run, **more: Any) -> None:
    """What a finished run tells of its cost."""
    run.files.root.mkdir(parents=True)
    run.files.model.write_bytes(bytes(1000))
    run.files.trainer.write_bytes(bytes(3000))
    info = {
        "cpu_seconds": 20.0,
        "peak_memory_mib": 500.0,
        "config": resolve(PARAMS, run).shown(),
        "machine": {"cpu": "x"},
    }
    run.files.metrics.write_text(json.dumps({"steps": 1200}))
    run.files.info.write_text(json.dumps(info | more))


def test_what_a_finished_run_took_is_told_with_its_steps_and_not_of_a_part_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ofq.workflow.forecast.records.machine", lambda: {"cpu": "x"})
    finished(STATSQ)
    finished(STATSQ.sibling("lsq"), resumed_after=300, cpu_seconds=15.0)
    finished(STATSQ.sibling("statsq-qkr"), resumed_after=1100)
    finished(STATSQ.sibling("lsq-midrise"), machine={"cpu": "another"})
    found = finished_here()
    kinds = {name: kind_of(resolve(PARAMS, STATSQ.sibling(name)).shown()) for name in ("statsq", "lsq")}
    assert set(found) == {*kinds.values()}, "of another machine, or of the last steps alone, it would mislead"
    (whole,), (resumed,) = (found[kind] for kind in kinds.values())
    assert (whole.steps, whole.seconds, whole.state) == (1200, 20.0, 4000)
    assert resumed.seconds == pytest.approx(20.0)
    config = resolve(PARAMS, STATSQ)
    pace = whole.pace(config.train, "qat", SHAPE)
    assert pace.seconds(1200, evaluations(config.train) * 597) == pytest.approx(20.0)
    assert whole.pace(config.train, "qat", None).seconds(1200, 0) == pytest.approx(20.0)


def of_a_card(monkeypatch: pytest.MonkeyPatch, *, here: int = 0) -> Any:
    """The project's parameters with ``digits`` on a card, of which there are so many here."""
    study = PARAMS.studies["digits"]
    hardware = study.hardware.model_copy(update={"device": "cuda"})
    monkeypatch.setattr(paces, "cards", lambda: here)
    return PARAMS.model_copy(update={"studies": {"digits": study.model_copy(update={"hardware": hardware})}})


def test_without_the_card_the_committed_record_tells_or_the_hours_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = of_a_card(monkeypatch)
    jobs = [Job(Made("qat", STATSQ.sibling(name)), "missing", 0) for name in ("statsq", "lsq")]
    monkeypatch.setattr(table, "jobs_of", lambda *given: (jobs, 3))
    monkeypatch.setattr(table, "shape_of", lambda *given: SHAPE)
    lines = table.forecast(params, "digits", None).splitlines()
    assert lines[-1] == "total: 2 runs, 2,400 steps, 0 MiB on disk, hours of 2 jobs unknown, at least 0 GPU-hours"
    assert "digits: kinds of run: 2 unknown, no card here to try them on" in lines
    kind = kind_of(resolve(params, STATSQ).shown())
    took = {"steps": 1200, "seconds": 7200.0, "memory_mib": 9000, "published": 2**20, "state": 2**21}
    (tmp_path / "results/reference/digits").mkdir(parents=True)
    (tmp_path / "results/reference/digits/record.json").write_text(json.dumps({"took": {kind: took}}))
    output = table.forecast(params, "digits", None)
    assert rows(output)[f"qat {STATSQ}"] == ["missing", "0", "1,200", "2", "9,000", "5.0"]
    assert "kinds of run: 1 from the committed records, 1 unknown, no card here" in output
    assert output.endswith("hours of 1 job unknown, at least 2 GPU-hours")


def test_images_that_are_not_here_are_told_and_leave_the_hours_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    study = "fashion"
    run = Run(study, "vit_small28", "w2a2", "lsq", 0)
    jobs = [Job(Made("data", study), "missing", 0), Job(Made("teacher", run.teacher), "missing", 0)]
    monkeypatch.setattr(table, "jobs_of", lambda *given: (jobs, 0))
    monkeypatch.setattr(paces, "recorded", dict)
    output = table.forecast(PARAMS, study, None)
    assert "\nstudy fashion: data/fashion-mnist/" in output
    assert "fashion: kinds of run: 1 unknown, their images are not here" in output
    assert rows(output)[f"teacher {run.teacher}"] == ["missing", "0", "4,000", "?"]
    assert "hours of 1 job unknown" in output.splitlines()[-1]


def test_all_of_a_study_that_has_no_groups_is_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("ofq.workflow.forecast.due.due", lambda target: asked.append(target) or [])
    assert jobs_of(PARAMS, "digits-lr", "everything") == ([], 0) and asked == ["digits-lr"]


def test_a_model_that_cannot_be_built_is_one_line(project: Project) -> None:
    project.params["models"]["vit_micro"]["arguments"]["num_heads"] = 3  # of a width of 32
    project.write_params()
    done = project.ofq("plan", "digits")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("ofq: error: timm cannot build vit_tiny_patch16_224 with {")
