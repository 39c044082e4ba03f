"""Pages that are written by a command, help texts, and links between pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ofq.cli import main as cli
from ofq.cli.run import commands
from ofq.config import params_page
from ofq.config.params import Params
from ofq.runs import locks

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_page_of_parameters_is_the_one_of_the_types() -> None:
    assert (ROOT / "docs/params.md").read_text() == params_page.markdown(), (
        "renew it with: python -m ofq schema --markdown > docs/params.md"
    )


def test_every_key_of_the_parameters_has_a_row() -> None:
    schema = Params.model_json_schema()
    used = {name for name in schema["$defs"] if f'"#/$defs/{name}"' in str(schema).replace("'", '"')}
    keys = [*schema["properties"], *(key for name in used for key in schema["$defs"][name]["properties"])]
    # The phases of teacher and qat are one type and share a section.
    rows = re.findall(r"^\| `(\w+)` \|", params_page.markdown(), re.MULTILINE)
    assert sorted(rows) == sorted(keys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("step", commands())
def test_the_help_of_each_step_has_an_example_that_it_would_accept(
    step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([step, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    examples = re.findall(r"python -m ofq (.*)", text.split("example", 1)[1].split("positional arguments")[0])
    assert examples
    for example in examples:
        name, *arguments = example.split(" > ")[0].split()
        assert name in (step, "report")
        commands()[name].parse(arguments)


def project(directory: Path) -> dict[str, Path]:
    """One file for each kind of thing that lies in a project."""
    names = ["params.yaml", "mlflow.db", "results/digits/data/manifest.json", "results/reference/digits/record.json"]
    names += [
        "runs/digits/a/checkpoint.pt",
        "logs/digits/data.log",
        ".snakemake/metadata/x",
        "src/ofq/__pycache__/a.pyc",
    ]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("x")
    return {name: directory / name for name in names}


def clean(directory: Path, *options: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ofq", "clean", *options]
    return subprocess.run(command, cwd=directory, input=answer, capture_output=True, text=True)


@pytest.mark.parametrize("answer", ["", "n\n", "maybe\n"])
def test_clean_removes_nothing_without_a_yes(tmp_path: Path, answer: str) -> None:
    files = project(tmp_path)
    done = clean(tmp_path, answer=answer)
    assert done.returncode == 0 and "Nothing was removed." in done.stdout
    assert all(path.exists() for path in files.values())


@pytest.mark.parametrize(("options", "runs_stay"), [([], True), (["--yes"], False)])
def test_clean_leaves_the_reference_the_store_and_unless_told_the_runs(
    tmp_path: Path, options: list[str], runs_stay: bool
) -> None:
    files = project(tmp_path)
    done = clean(tmp_path, *options, answer="y\n")
    assert done.returncode == 0
    left = {name for name, path in files.items() if path.exists()}
    kept = {"params.yaml", "mlflow.db", "results/reference/digits/record.json"}
    assert left == kept | ({"runs/digits/a/checkpoint.pt"} if runs_stay else set())
    assert clean(tmp_path, *options).stdout == "Nothing to remove.\n"
    (tmp_path / "runs/digits/vit_micro/w2a2/statsq/seed1").mkdir(parents=True)
    clean(tmp_path, "--yes")
    assert not (tmp_path / "runs").exists(), "not even empty folders"


def test_clean_leaves_what_the_pipeline_did_not_make(tmp_path: Path) -> None:
    run, report = "results/digits/vit_micro/w2a2/statsq/seed0", "results/digits/report"
    state = "runs/digits/vit_micro/w2a2/statsq/seed0"
    made = [f"{run}/metrics.json", f"{run}/probe-5.json", f"{run}/noise.parquet", f"{run}/.tmp-model-x.safetensors"]
    made += [f"{run}/export/{name}" for name in ("packed.safetensors", "sizes.json", "hub/.eval_results/digits.yaml")]
    made += [f"{report}/tables/main.csv", f"{report}/controls/figures/accuracy.png", f"{report}/controls/tracked"]
    made += ["results/digits/mlflow.json", "results/toy/toy.png", f"{state}/lock", f"{state}/a1/state.json"]
    made += [f"{state}/probe/a1/checkpoint-000000001.pt", f"{state}/a1/events.jsonl", "logs/digits/data.tsv"]
    mine = [
        "results/notes.md",
        "results/digits/notes.md",
        f"{run}/plot.png",
        f"{run}/export/mine.onnx",
        f"{report}/tables/mine.csv",
    ]
    mine += ["results/paper/main.tex", "results/digits/metrics.json", "results/digits/data/extra.npz"]
    mine += [f"{state}/a1/backup.pt", "runs/events.out.tfevents.1", "logs/plots/index.html", "build/site/index.html"]
    project(tmp_path)
    for name in (*made, *mine):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/model").write_text("x")
    (tmp_path / "results/shared").symlink_to(tmp_path / "elsewhere")
    done = clean(tmp_path, "--yes")
    assert done.returncode == 0, done.stderr
    assert [name for name in made if (tmp_path / name).exists()] == []
    assert [name for name in (*mine, "elsewhere/model") if not (tmp_path / name).exists()] == []
    assert "results/digits (without 6 files of other origin)" in done.stdout


def test_clean_refuses_while_snakemake_works_and_outside_a_project(tmp_path: Path) -> None:
    assert "run from the project's root" in clean(tmp_path).stderr
    files = project(tmp_path)
    file, _ = locks.shared(tmp_path / ".snakemake/ofq.lock")
    with file:
        done = clean(tmp_path, "--yes")
    assert done.returncode == 2 and "snakemake works in this directory" in done.stderr
    assert all(path.exists() for path in files.values())
