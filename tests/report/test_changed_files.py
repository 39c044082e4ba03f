"""A result that was changed by hand, or is of another form, stands in no table, figure or verdict."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.config.resolve import resolve
from ofq.errors import UserError
from ofq.report.agreement import AGREES, DIFFERS
from ofq.report.claims.quantities import Records, Side, quantity
from ofq.report.parts.annealing import write_annealing
from ofq.report.parts.figures import write_figures
from ofq.report.parts.noise_table import write_noise_table
from ofq.report.parts.probes import write_probes
from ofq.report.parts.tables import write_tables
from ofq.report.record import settings_of, step_of
from ofq.report.why import trace
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from ofq.runs.published import digests_of, problems, read_info, seal, sealed
from ofq.workflow.cost import table as cost
from ofq.workflow.forecast.records import kind_of, recorded
from ofq.workflow.reference import record
from ofq.workflow.verify import verify
from tests.report.conftest import Made

ONE = Run("digits", "vit_micro", "w2a2", "statsq", 0)
REPORT = Path("results/digits/report")


def publish(params: Params, run: Run) -> None:
    """Write the run's ``run.json``, with digests of the files that there are."""
    files = [path for path in sorted(run.files.root.iterdir()) if path.stem not in ("probe", "noise", "run")]
    write_json(
        run.files.info,
        {"run": str(run), "finished": "2026-01-02T03:04:05+00:00", "seconds": 1.0, "cpu_seconds": 1.0, "state": "x"}
        | {"peak_memory_mib": 1.0, "machine": {"cpu": "one"}, "versions": {"torch": "2"}, "threads": 1, "device": "cpu"}
        | {"config": resolve(params, run).model_dump(mode="json")}
        | {"digests": {"code": "c0de", "inputs": {}, "outputs": digests_of(files)}},
    )


@pytest.fixture
def params(made: Made) -> Params:
    """Finished runs that say what they published; noise and probes say it themselves."""
    params = made(variants=["statsq", "lsq", "statsq-cga"], groups={})
    grid = Grid(params, "digits")
    for run in (*grid.runs, *grid.teachers):
        publish(params, run)
    for run in grid.trained:
        frame = pd.read_parquet(run.files.noise)
        seal(frame)
        frame.to_parquet(run.files.noise)
        write_json(run.files.probe, sealed(read_json(run.files.probe)))
    return params


def in_json(path: Path) -> None:
    path.write_text(path.read_text().replace("9", "8", 1))


def in_parquet(path: Path) -> None:
    frame = pd.read_parquet(path)
    name = "top1" if "top1" in frame else "share" if "share" in frame else "weights"
    frame[name] = frame[name] + 1
    frame.to_parquet(path)


def claim(measure: str, **options: Any) -> Callable[[Grid], Any]:
    return lambda grid: quantity(Records(), grid.runs[0], Side(measure, "statsq", **options))


READERS: list[tuple[str, str, Callable[[Grid], Any]]] = [
    ("statsq", "metrics.json", write_tables),
    ("statsq", "oscillation.parquet", write_tables),
    ("lsq", "weights.parquet", write_figures),
    ("statsq-cga", "annealing.parquet", write_annealing),
    ("statsq", "noise.parquet", write_noise_table),
    ("statsq", "probe.json", write_probes),
    ("statsq", "metrics.json", claim("top1")),
    ("statsq", "oscillation.parquet", claim("osc_share", layers=["q"])),
    ("statsq", "weights.parquet", claim("threshold_density")),
    ("statsq", "noise.parquet", claim("noise_top1", where="random")),
    ("statsq", "probe.json", claim("band_kept")),
]


@pytest.mark.parametrize(("variant", "file", "reader"), READERS)
def test_a_changed_file_is_named_by_what_reads_it(
    params: Params, variant: str, file: str, reader: Callable[[Grid], Any]
) -> None:
    reader(Grid(params, "digits"))
    path = ONE.sibling(variant).files.root / file
    (in_json if file.endswith("json") else in_parquet)(path)
    with pytest.raises(UserError, match=rf"{path} was changed since .*; delete it and run snakemake again"):
        reader(Grid(params, "digits"))
    with pytest.raises(UserError, match="1 problem in the runs"):
        verify(params, "digits")


def test_runs_of_an_earlier_version_are_read_and_said_to_be_unknown(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    info = read_json(ONE.files.info)
    del info["digests"]["outputs"]
    write_json(ONE.files.info, info)
    in_json(ONE.files.metrics)
    write_tables(Grid(params, "digits"))
    verify(params, None)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("unknown")] == [
        f"unknown {ONE}  not verified: run.json has no digests of its files, as of an earlier version"
    ]
    assert f"ok      {ONE.sibling('lsq')}" in said
    origin, stale = trace(REPORT / "tables/main.csv", "w2a2")
    assert origin.count("not verified") == 1 and origin.count("as published") == 5 and stale == []


def test_every_problem_of_a_run_is_found(params: Params) -> None:
    assert problems(ONE.files.root) == []
    in_json(ONE.files.metrics)
    ONE.files.weights.unlink()
    in_parquet(ONE.files.noise)
    write_json(ONE.files.probe, {"digests": []})
    assert [str(error).split()[0] for error in problems(ONE.files.root) or []] == [
        str(path) for path in (ONE.files.metrics, ONE.files.weights, ONE.files.noise, ONE.files.probe)
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../../data/manifest.json", "nul\0", "probe"])
def test_a_probe_that_names_what_is_no_file_beside_it_is_one_line(params: Params, name: str) -> None:
    content = read_json(ONE.files.probe)
    del content["sha256"]
    write_json(ONE.files.probe, sealed(content | {"digests": {"code": "0", "inputs": {}, "outputs": {name: "0" * 64}}}))
    (error,) = problems(ONE.files.root) or []
    assert re.search("cannot be read|cannot read|does not exist", str(error)) and "digests" not in str(error)
    assert "\n" not in str(error)


def test_a_table_or_figure_that_is_older_than_its_runs_says_so(params: Params) -> None:
    grid = Grid(params, "digits")
    write_tables(grid)
    write_figures(grid)
    shown = [REPORT / "tables/main.csv", REPORT / "tables/ablation.csv", REPORT / "figures/accuracy.png"]
    shown.append(REPORT / "figures/accuracy.svg")
    assert [trace(path)[1] for path in shown] == [[]] * 4
    write_json(ONE.files.metrics, read_json(ONE.files.metrics) | {"top1": 50.0})
    publish(params, ONE)
    for path in shown:
        path.touch()  # its age alone says nothing, as after `dvc pull`
        (stale,) = trace(path)[1]
        assert str(path) in stale and f"make it anew: snakemake {path}" in stale
    assert trace(REPORT / "tables/main.csv", "w2a2", "lsq")[1] == []
    assert str(ONE.seed) in trace(REPORT / "tables/main.csv", "w2a2", "statsq")[1][0]


def test_why_does_not_explain_a_cell_with_files_that_were_changed(params: Params) -> None:
    write_tables(Grid(params, "digits"))
    in_parquet(ONE.files.oscillation)
    with pytest.raises(UserError, match=f"{ONE.files.oscillation} was changed"):
        trace(REPORT / "tables/main.csv", "w2a2", "statsq")


def agreement(params: Params) -> dict[str, str]:
    write_tables(Grid(params, "digits"))
    cells = pd.read_csv(REPORT / "tables/agreement.csv")
    top1 = cells[cells["quantity"] == "top1"]
    return dict(zip(top1["variant"], top1["verdict"], strict=True))


def test_runs_that_repeat_the_recorded_ones_must_equal_them(params: Params) -> None:
    grid = Grid(params, "digits")
    write_tables(grid)
    folder = Path("results/reference/digits")
    (folder / "tables").mkdir(parents=True)
    for name in ("main.csv", "main.runs.json"):
        (folder / "tables" / name).write_bytes((REPORT / "tables" / name).read_bytes())
    infos = {run: read_info(run.files.info) for run in grid.runs}
    note = {
        **{name: infos[ONE][name] for name in ("machine", "device", "threads", "versions")},  # type: ignore[literal-required]
        "code": {step_of(resolve(params, run)): "c0de" for run in grid.runs},
        "settings": {str(run): settings_of(info) for run, info in infos.items()},
    }
    write_json(folder / "record.json", note)
    assert set(agreement(params).values()) == {AGREES}
    saved = read_json(ONE.files.metrics)
    write_json(ONE.files.metrics, saved | {"top1": saved["top1"] + 1e-6})
    publish(params, ONE)
    assert agreement(params) == {"statsq": DIFFERS, "lsq": AGREES, "statsq-cga": AGREES}
    for change in ({"settings": {}}, {"versions": {"torch": "3"}}, {"code": {}}, {"machine": {"cpu": "other"}}):
        write_json(folder / "record.json", note | change)
        assert agreement(params)["statsq"] == AGREES, "within chance of other code, settings or machine"


def test_a_record_is_of_files_that_were_not_changed_and_leaves_what_a_person_put_there(params: Params) -> None:
    write_tables(Grid(params, "digits"))
    (REPORT / "figures").mkdir()
    record(params, "digits")
    folder = Path("results/reference/digits")
    kind = kind_of(resolve(params, ONE).model_dump(mode="json"))
    assert read_json(folder / "record.json")["took"][kind]["seconds"] == recorded()[kind][0].seconds == 1.0
    mine = [folder / "NOTES.md", folder / "tables/mine.csv", folder / "own/plot.png"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (folder / "tables/noise.csv").write_text("of an earlier report")
    record(params, "digits")
    assert [path.read_text() for path in mine] == ["mine"] * 3 and not (folder / "tables/noise.csv").exists()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    in_parquet(ONE.files.weights)
    with pytest.raises(UserError, match=f"{ONE.files.weights} was changed"):
        record(params, "digits")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


ODD = [[], 3, {}, "text", None]
SHAPES: list[tuple[str, Any, Callable[[Params], Any]]] = [
    *(("run.json", odd, lambda params: trace(REPORT / "tables/main.csv")) for odd in ODD),
    *(("run.json", odd, lambda params: cost(params, "digits")) for odd in ODD),
    ("run.json", {"cpu_seconds": "1", "peak_memory_mib": 1.0}, lambda params: cost(params, "digits")),
    ("run.json", {"digests": []}, lambda params: write_tables(Grid(params, "digits"))),
    *(("metrics.json", odd, lambda params: trace(REPORT / "tables/main.csv")) for odd in ODD),
    *(("metrics.json", odd, lambda params: write_tables(Grid(params, "digits"))) for odd in ODD),
    *(("metrics.json", odd, lambda params: claim("top1")(Grid(params, "digits"))) for odd in ODD),
    ("metrics.json", {"top1": 1.0, "loss": 1.0, "seed": 0}, lambda params: write_tables(Grid(params, "digits"))),
    ("metrics.json", {"top1": 1.0, "seed": 0, "x": "y"}, lambda params: trace(REPORT / "tables/main.csv")),
    *(("probe.json", odd, lambda params: write_probes(Grid(params, "digits"))) for odd in ODD),
    *(("probe.json", odd, lambda params: claim("band_kept")(Grid(params, "digits"))) for odd in ODD),
    ("probe.json", {"coupling": [{"q": 1.0}]}, lambda params: claim("coupling")(Grid(params, "digits"))),
    ("probe.json", {"boundary": {"left": "0"}}, lambda params: claim("band_kept")(Grid(params, "digits"))),
]


@pytest.mark.parametrize(("file", "content", "read"), SHAPES)
def test_json_of_another_form_is_one_line(params: Params, file: str, content: Any, read: Callable[..., Any]) -> None:
    write_tables(Grid(params, "digits"))
    path = ONE.files.root / file
    if file == "metrics.json":  # of an earlier version
        publish(params, ONE)
        write_json(ONE.files.info, read_json(ONE.files.info) | {"digests": {"code": "c0de", "inputs": {}}})
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{path}.*; delete it and run snakemake again") as error:
        read(params)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[], 3, {}, {"store": 1, "runs": {}}, {"store": "s", "runs": []}])
def test_a_stamp_of_another_form_is_one_line(params: Params, content: Any) -> None:
    write_tables(Grid(params, "digits"))
    write_json(Path("results/digits/mlflow.json"), content)
    with pytest.raises(UserError, match=r"mlflow\.json cannot be read .*python -m ofq track"):
        trace(REPORT / "tables/main.csv")


@pytest.mark.parametrize("content", [[], {}, [["a"]], [1, 2, 3]])
def test_names_of_runs_of_another_form_are_one_line(params: Params, content: Any) -> None:
    write_tables(Grid(params, "digits"))
    write_json(REPORT / "tables/main.runs.json", content)
    with pytest.raises(UserError, match=r"main\.runs\.json"):
        trace(REPORT / "tables/main.csv")


@pytest.mark.parametrize("content", [[], 3, {}])
def test_a_note_of_another_form_is_one_line(params: Params, content: Any) -> None:
    write_json(Path("results/reference/digits/record.json"), content)
    with pytest.raises(UserError, match=r"record\.json cannot be read .*python -m ofq reference digits"):
        write_tables(Grid(params, "digits"))


RECORDS: list[tuple[str, str, Callable[[Grid], Any]]] = [
    ("oscillation.parquet", "share", write_tables),
    ("oscillation.parquet", "group", claim("osc_share", layers=["q"])),
    ("oscillation.parquet", "share", claim("osc_share", layers=["q"])),
    ("weights.parquet", "bin_left", write_figures),
    ("weights.parquet", "weights", claim("threshold_density")),
    ("noise.parquet", "train_loss", write_noise_table),
    ("noise.parquet", "range", write_noise_table),
]


@pytest.mark.parametrize("damage", ["column", "rows", "text"])
@pytest.mark.parametrize(("file", "column", "reader"), RECORDS)
def test_a_record_without_what_it_should_hold_is_one_line(
    params: Params, damage: str, file: str, column: str, reader: Callable[[Grid], Any]
) -> None:
    path = ONE.files.root / file
    frame = pd.read_parquet(path)
    frame.attrs = {}
    frame = {
        "column": frame.drop(columns=column),
        "rows": frame.iloc[:0],
        "text": frame.assign(**dict.fromkeys(frame.columns.drop(["group"], errors="ignore"), "x")),
    }[damage]
    frame.to_parquet(path)
    publish(params, ONE)
    with pytest.raises(UserError, match=rf"{path}.*; delete it and run snakemake again") as error:
        reader(Grid(params, "digits"))
    assert "\n" not in str(error.value)
