"""One small study, run for real: what comes out, what reruns after a change and what does not."""

import json
import re
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from ofq.runs.registry import FOLDERS
from tests.conftest import Project

RUN = Path("results/digits/vit_micro/w2a2")
TOY = {"toy": 1, "toy_figure": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small study, complete."""
    project = Project(tmp_path_factory.mktemp("study"))
    done = project.run("snakemake")
    assert done.returncode == 0, done.stdout + done.stderr
    project.output = done.stdout + done.stderr  # type: ignore[attr-defined]
    return project


@pytest.fixture
def restored(finished: Project) -> Project:
    """The complete study; what a test edits is put back, with its modification time."""
    kept = {
        path: (path.read_bytes(), path.stat().st_mtime)
        for pattern in ("params.yaml", "src/ofq/**/*.py")
        for path in finished.root.glob(pattern)
    }
    params = json.loads(json.dumps(finished.params))
    yield finished
    finished.params = params
    for path, (content, _) in kept.items():
        path.write_bytes(content)


def test_a_second_run_has_nothing_to_do(finished: Project) -> None:
    assert finished.plan() == {}


def test_the_run_ends_with_its_cost(finished: Project) -> None:
    text = finished.output  # type: ignore[attr-defined]
    assert "Trained 8 runs in" in text and "outside training" in text and "peak memory of a job" in text


def test_no_resumable_state_is_left_of_finished_runs(finished: Project) -> None:
    assert not [path for path in (finished.root / "runs" / "digits").rglob("*") if path.is_file()]


def test_metrics_hold_what_is_deterministic(finished: Project) -> None:
    metrics = json.loads((finished.root / RUN / "statsq/seed0/metrics.json").read_text())
    assert set(metrics) == {"top1", "top1_best", "loss", "osc_share", "reversals", "seed", "steps"}
    assert metrics["seed"] == 0 and metrics["steps"] == 24
    info = json.loads((finished.root / RUN / "statsq/seed0/run.json").read_text())
    assert {"seconds", "cpu_seconds", "versions", "threads", "device", "digests", "peak_memory_mib"} <= set(info)


def test_tables_agree_with_the_runs(finished: Project) -> None:
    table = pd.read_csv(finished.root / "results/digits/report/tables/main.csv")
    columns = "model,bits,variant,n,top1_mean,top1_sd,osc_share_mean,osc_share_sd,reversals_mean,reversals_sd,paper_top1,paper_mark"
    assert ",".join(table.columns) == columns
    assert list(table["variant"]) == ["statsq", "statsq-cga", "lsq"]
    for row in table.itertuples():
        runs = [
            json.loads((finished.root / RUN / row.variant / f"seed{seed}/metrics.json").read_text()) for seed in (0, 1)
        ]
        top1 = [run["top1"] for run in runs]
        assert row.n == 2
        assert row.top1_mean == pytest.approx(sum(top1) / 2)
        assert row.top1_sd == pytest.approx(abs(top1[0] - top1[1]) / 2**0.5)
        assert row.reversals_mean == pytest.approx(sum(run["reversals"] for run in runs) / 2)


def test_the_record_of_a_run_is_written_by_command_only(finished: Project) -> None:
    done = finished.ofq("reference", "digits")
    assert done.returncode == 0, done.stderr
    record = finished.root / "results/reference/digits"
    report = finished.root / "results/digits/report"
    for name in ("tables/main.csv", "figures/accuracy.png"):
        assert (record / name).read_bytes() == (report / name).read_bytes()
    note = json.loads((record / "record.json").read_text())
    assert note["seeds"] == [0, 1] and note["runs"] == 6
    kinds = [("qat", "statsq"), ("qat", "lsq"), ("cga", "statsq")]
    vit = "ofq.quant.families.vit"
    assert set(note["code"]) == {f"{step} ofq.quant.quantizers.{weight} {vit}" for step, weight in kinds}
    assert finished.plan() == {"tables": 1, "track": 1}, "the agreement with the record is to be said anew"
    shutil.rmtree(record)
    assert finished.plan() == {}


def test_the_report_is_one_file_that_needs_no_network_and_opens_on_the_answer(finished: Project) -> None:
    recorded = finished.root / "results/reference/digits/figures/verdicts.svg"
    recorded.parent.mkdir(parents=True)
    recorded.write_text("<svg class='verdicts'></svg>")
    done = finished.run("snakemake", "--report", "report.html")
    shutil.rmtree(finished.root / "results/reference")
    assert done.returncode == 0, done.stderr
    page = (finished.root / "report.html").read_text()
    for part in (
        "main.html",
        "agreement.html",
        "ablation.html",
        "oscillation.html",
        "accuracy.png",
        "layer_groups.png",
    ):
        assert f"digits/report/{'figures' if part.endswith('png') else 'tables'}/{part}" in page
    (opens,) = re.findall(r"var workflow_desc = (.*);", page)
    for part in ("<svg class='verdicts'></svg>", "verdicts of the committed record", ">toy<", "CPU-hours<"):
        assert part in json.loads(opens)
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']*\.(?:js|css|png|svg|woff2?)""", page)


def test_rows_of_tables_and_figures_lead_back_to_their_runs(finished: Project) -> None:
    done = finished.ofq("why", "results/digits/report/tables/main.csv", "w2a2", "statsq")
    assert done.returncode == 0, done.stderr
    assert "seeds: 0, 1" in done.stdout and "digits/vit_micro/w2a2/statsq/seed1" in done.stdout
    for table in (finished.root / "results/digits/report/tables").glob("*.csv"):
        runs = json.loads(table.with_suffix(".runs.json").read_text())
        assert len(runs) == len(pd.read_csv(table))
        assert all([name.rsplit("/", 1)[1] for name in names] == ["seed0", "seed1"] for names in runs), table


def test_oscillation_is_recorded_by_layer_at_intervals(finished: Project) -> None:
    record = pd.read_parquet(finished.root / RUN / "statsq/seed0/oscillation.parquet")
    assert set(record["group"]) == {"q", "k", "v", "proj", "fc1", "fc2"}
    assert record["layer"].nunique() == 12
    assert list(record["step"].unique()) == list(range(0, 25, 2))
    weights = record.groupby("layer")["weights"].first()
    assert (record["distance_histogram"].map(sum) == record["layer"].map(weights)).all()


def test_the_event_log_is_the_run_in_json_lines(finished: Project) -> None:
    lines = (finished.root / RUN / "statsq/seed0/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["start"] + ["step"] * 12 + ["end"]
    assert [event["step"] for event in events[1:-1]] == list(range(2, 25, 2))
    assert {"train/loss", "train/lr", "val/top1", "val/loss", "osc/share"} <= set(events[1])


def test_annealing_moves_only_few_weights(finished: Project) -> None:
    shares = [
        json.loads(line)["cga/free_share"]
        for line in (finished.root / RUN / "statsq-cga/seed0/events.jsonl").read_text().splitlines()[1:-1]
    ]
    assert all(0 < share < 5 for share in shares)


def test_a_comment_or_docstring_reruns_nothing(restored: Project) -> None:
    path = restored.root / "src/ofq/quant/quantizers/lsq.py"
    path.write_text("# a comment\n" + path.read_text() + "\n# and another\n")
    assert restored.plan() == {}


def test_code_of_the_figures_reruns_the_figures(restored: Project) -> None:
    path = restored.root / "src/ofq/report/parts/figures.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert restored.plan() == {"figures": 1, "track": 1}


def test_code_of_the_quantizers_reruns_every_student_and_no_teacher(restored: Project) -> None:
    path = restored.root / "src/ofq/quant/quantizers/lsq.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert restored.plan() == {"qat": 4, "cga": 2, "tables": 1, "figures": 1, "annealing": 1, **TOY, "track": 1}


def test_code_of_one_weight_quantizer_reruns_its_own_students(restored: Project) -> None:
    path = restored.root / "src/ofq/quant/quantizers/statsq.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert restored.plan() == {"qat": 2, "cga": 2, "tables": 1, "figures": 1, "annealing": 1, **TOY, "track": 1}


def test_another_message_anywhere_reruns_nothing(restored: Project) -> None:
    for name, old, new in (
        ("runs/files.py", "what was there before is kept", "the old file is kept"),
        ("quant/quantizers/lsq.py", "must name neighbouring axes", "should name neighbouring axes"),
        ("errors.py", "did you mean", "do you mean"),
    ):
        path = restored.root / "src/ofq" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    assert restored.plan() == {}


def test_a_file_for_a_further_name_reruns_nothing(restored: Project) -> None:
    folders = [restored.root / "src/ofq" / folder.replace(".", "/") for folder in FOLDERS.values()]
    added = [folder / "further.py" for folder in folders]
    for path in added:
        path.write_text('from ofq.runs.registry import register\n\n\n@register("further")\nclass Further:\n    pass\n')
    plan = restored.plan()
    for path in added:
        path.unlink()
    assert plan == {}


def test_code_of_annealing_reruns_annealing(restored: Project) -> None:
    path = restored.root / "src/ofq/remedies/cga.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert restored.plan() == {"cga": 2, "tables": 1, "figures": 1, "annealing": 1, "track": 1}


def test_one_learning_rate_reruns_the_runs_that_use_it(restored: Project) -> None:
    restored.params["variants"]["lsq"]["lr"] = 1e-3
    restored.write_params()
    assert restored.plan() == {"qat": 2, "tables": 1, "figures": 1, "track": 1}


def test_a_dry_run_says_why_and_what_is_replaced_in_one_line_a_kind(restored: Project) -> None:
    restored.params["variants"]["lsq"]["lr"] = 1e-3
    restored.params["variants"]["statsq-cga"]["cga"]["boundary_range"] = 0.01
    restored.write_params()
    model = restored.root / RUN / "statsq/seed1/model.safetensors"
    aside = model.rename(restored.root / "aside")
    done, told = restored.run("snakemake", "-n"), restored.run("snakemake", "-n", "--verbose").stdout
    aside.rename(model)
    runs = [f"digits/vit_micro/w2a2/{name}/seed{seed}" for name in ("lsq", "statsq-cga") for seed in (0, 1)]
    said = [re.split("  +", line) for line in done.stdout.splitlines()[3:]]
    rates = "qat.lr 0.002 -> 0.001, qat.min_lr 0.0001 -> 5e-05"
    assert said[:4] == [
        ["2", "qat", f"{rates.replace(', ', '; ')}, replacing 2 earlier results", ", ".join(runs[:2])],
        ["1", "qat", "missing: model.safetensors", "digits/vit_micro/w2a2/statsq/seed1"],
        ["1", "cga", "cga.boundary_range 0.005 -> 0.01, replacing 1 earlier result", runs[2]],
        ["1", "cga", "cga.boundary_range 0.005 -> 0.01; after qat, replacing 1 earlier result", runs[3]],
    ]
    assert said[4] == ["and then: annealing, figures, tables, track"] and len(said) == 6
    assert f"Params have changed since last execution: {rates} (the earlier result is replaced)\n" in told
    assert "Union of exclusive params" not in told
    lines = [line for line in told.splitlines() if line.startswith("Job ")]
    assert lines and not [line for line in lines if line != line.rstrip()]


def test_the_boundary_range_reruns_annealing(restored: Project) -> None:
    restored.params["variants"]["statsq-cga"]["cga"]["boundary_range"] = 0.01
    restored.write_params()
    assert restored.plan() == {"cga": 2, "tables": 1, "figures": 1, "annealing": 1, "track": 1}


def test_a_teachers_learning_rate_reruns_everything_that_learns_from_it(restored: Project) -> None:
    restored.params["recipes"]["digits"]["teacher"]["lr"] = 2e-3
    restored.write_params()
    assert restored.plan() == {"teacher": 2, "qat": 4, "cga": 2, "tables": 1, "figures": 1, "annealing": 1, "track": 1}


def test_another_study_or_an_unused_variant_reruns_nothing(restored: Project) -> None:
    restored.params["studies"]["other"] = restored.params["studies"]["digits"] | {"seeds": [7]}
    restored.params["variants"]["statsq-cga-wide"] = {"parent": "statsq", "cga": {"boundary_range": 0.1}}
    restored.write_params()
    assert restored.plan() == {}


def test_a_deleted_run_reruns_alone_and_comes_out_the_same(restored: Project) -> None:
    directory = restored.root / RUN / "statsq/seed1"
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "run.json"}
    untouched = restored.root / RUN / "lsq/seed0/metrics.json"
    modified = untouched.stat().st_mtime
    time.sleep(0.01)
    for path in directory.iterdir():
        path.unlink()
    assert restored.plan() == {"qat": 1, "cga": 1, "tables": 1, "figures": 1, "annealing": 1, "track": 1}
    done = restored.run("snakemake")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "run.json"}
    assert {name: after[name] == before[name] for name in before} == dict.fromkeys(before, True)
    assert untouched.stat().st_mtime == modified
    assert restored.plan() == {}
