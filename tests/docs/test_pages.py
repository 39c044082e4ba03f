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


def test_clean_refuses_while_snakemake_works_and_outside_a_project(tmp_path: Path) -> None:
    assert "run from the project's root" in clean(tmp_path).stderr
    files = project(tmp_path)
    file, _ = locks.shared(tmp_path / ".snakemake/ofq.lock")
    with file:
        done = clean(tmp_path, "--yes")
    assert done.returncode == 2 and "snakemake works in this directory" in done.stderr
    assert all(path.exists() for path in files.values())
