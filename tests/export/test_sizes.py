"""Sizes count everything, and the tables of them are made by name only."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ofq.cli.main import main
from ofq.config import params
from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.errors import UserError
from ofq.export.sizes import FORMAT, REST, read_sizes
from ofq.report.parts.sizes import write_sizes
from ofq.runs.paths import Run
from ofq.workflow.targets import targets_of
from tests.conftest import Project
from tests.docs.pages import explained
from tests.training.trained import STATSQ

VARIANTS = ["statsq", "statsq-qkr"]
KINDS = ["float", "checkpoint", "packed", "onnx"]


@pytest.fixture
def grid(here: Params, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Grid:
    """Two exported runs, and the grid that they are."""
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["studies"] = {"digits": content["studies"]["digits"] | {"bits": ["w2a2"], "variants": VARIANTS}}
    del content["studies"]["digits"]["groups"], content["studies"]["digits"]["learning_rates"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    for variant in VARIANTS:
        run = STATSQ.sibling(variant)
        assert main(["export", str(run), "--format", "all"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said == [f"{path}: {path.stat().st_size:,} bytes" for path in run.files.exported]
    return Grid(params.load(tmp_path / "params.yaml"), "digits")


def test_every_byte_of_every_file_is_in_the_tables(grid: Grid) -> None:
    assert grid.exported == [STATSQ.sibling(variant) for variant in VARIANTS], "of three seeds the first"
    for run in grid.exported:
        sizes, metrics = read_sizes(run.files.sizes), json.loads(run.files.metrics.read_text())
        paths = [run.teacher.files.model, run.files.model, run.files.packed, run.files.onnx]
        for kind, path in zip(KINDS, paths, strict=True):
            assert sizes.files[kind] == path.stat().st_size == sum(layer.bytes[kind] for layer in sizes.layers)
        teacher = json.loads(run.teacher.files.metrics.read_text())["top1"]
        assert [sizes.top1[kind] for kind in KINDS[:3]] == [teacher, metrics["top1"], metrics["top1"]]
        assert sizes.top1["onnx"] == pytest.approx(metrics["top1"], abs=100 * sizes.apart / 597 + 1e-9)
        assert sizes.images == 597 and sizes.apart <= 5
        # 2-bit codes of the blocks, 8-bit ones of the first and the last layer.
        assert sizes.weights == 2 * (3 * 32**2 + 32**2 + 2 * 32 * 64) + 4 * 32 + 32 * 10
        blocks = [layer for layer in sizes.layers if layer.name.startswith("blocks")]
        for layer in blocks:
            assert layer.bits == 2 and layer.bytes["packed"] > layer.weights / 4
            assert layer.bytes["onnx"] >= layer.bytes["packed"]
        assert [layer.name for layer in sizes.layers[-2:]] == [REST, FORMAT]


def test_tables_have_a_row_a_run_and_a_row_a_layer(grid: Grid) -> None:
    write_sizes(grid)
    for name in ("sizes", "sizes_by_layer"):
        path = grid.directory / f"tables/{name}.csv"
        table = pd.read_csv(path)
        assert explained(path.name) == list(table)
        assert set(table["variant"]) == set(VARIANTS)
    table = pd.read_csv(grid.directory / "tables/sizes.csv")
    size = grid.exported[0].files.packed.stat().st_size
    assert table["packed_bytes"][0] == size and table["packed_bits"][0] == pytest.approx(8 * size / table["weights"][0])
    assert (table["packed_bytes"] < table["float_bytes"] / 2).all()
    page = (grid.directory / "tables/sizes.md").read_text()
    assert f"{size:,}" in page and " % are codes." in page
    grid.exported[1].files.sizes.write_text("{}")
    with pytest.raises(UserError, match=r"export/sizes\.json cannot be read"):
        write_sizes(grid)


def test_the_target_asks_for_exported_runs_of_the_first_seed_and_the_study_does_not() -> None:
    loaded = params.load(Path(__file__).parents[2] / "params.yaml")
    asked = [str(path) for path in targets_of(loaded, "digits", "exports")]
    runs = {Run.parse(path) for path in asked if "/export/" in path}
    assert len(runs) == 18 and {run.seed for run in runs if run} == {0}
    assert "results/digits/report/tables/sizes_by_layer.csv" in asked
    for group in (None, "everything", "components"):
        assert not any("export" in str(path) or "sizes" in str(path) for path in targets_of(loaded, "digits", group))


def test_snakemake_exports_what_is_asked_for_only(project: Project) -> None:
    project.params["studies"]["digits"] |= {"variants": ["statsq-qkr"], "seeds": [0]}
    project.write_params()
    assert not {"export", "sizes"} & set(project.plan())
    plan = project.plan("exports")
    assert plan.pop("exports") == 1 and plan == {
        "data": 1,
        "teacher": 1,
        "qat": 1,
        "export": 1,
        "sizes": 1,
        "track_group": 1,
    }
    done = project.run("snakemake", "exports")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = project.root / "results/digits/vit_micro/w2a2/statsq-qkr/seed0/export"
    assert {path.name for path in folder.iterdir()} == {"packed.safetensors", "model.onnx", "sizes.json"}
    assert (project.root / "results/digits/report/tables/sizes.md").exists()
    assert set(project.plan("exports")) <= {"exports"}, "nothing is left to do"
