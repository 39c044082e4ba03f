"""A study that another machine made, one without Snakemake, DVC and MLflow, comes home: checked, copied, not run again."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from ofq.config.params import Params, load
from ofq.data.manifest import read_manifest, write_manifest
from ofq.errors import UserError
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import Run
from ofq.runs.states import only_trainer
from ofq.workflow import adopt as module
from ofq.workflow.adopt import adopt
from ofq.workflow.finished import Finished
from tests.conftest import Project

ABSENT = ("snakemake", "dvc", "mlflow", "ofq", "__editable__")
RUNS = "results/digits/vit_micro"
PARTS = ("tables", "figures", "comparison", "annealing", "noise-table", "probes", "claims")
# Every command in one process, which imports the libraries once.
ALONE = f"""
import contextlib, io, sys
from ofq.cli.main import main

def must(*command):
    assert main([*command]) == 0, command

told = io.StringIO()
with contextlib.redirect_stdout(told):
    must("runs", "digits")
print(told.getvalue(), file=sys.stderr)
for line in told.getvalue().splitlines():
    must(*line.split())
for part in {PARTS}:
    must("report", part, "digits")
for command in ("toy", "toy-figure"):
    must(command)
for command in ("reference", "verify", "cost"):
    must(command, "digits")
must("why", "results/digits/report/tables/main.csv")
must("track", "--keep-going", "digits")
assert main(["track", "digits"]) == 2
assert main(["adopt", "src"]) == 2
print("THEN")
must("runs", "digits")
"""


def environment_without(root: Path, *names: str) -> dict[str, str]:
    """The environment of a Python that has the libraries of this one but some, whose metadata are not there either."""
    site = Path(torch.__file__).parents[1]
    root.mkdir()
    for path in site.iterdir():
        if not path.name.lower().startswith(names):
            (root / path.name).symlink_to(path)
    return {"PYTHONPATH": os.pathsep.join(["src", str(root)])}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small study, complete, on a machine that has neither Snakemake nor DVC nor MLflow."""
    project = Project(tmp_path_factory.mktemp("elsewhere"))
    project.params["studies"]["digits"] |= {"variants": ["statsq", "statsq-cga"], "seeds": [0]}
    project.params["studies"]["digits"] |= {"measure": ["noise", "probe"], "compare": [["statsq-cga", "statsq"]]}
    project.write_params()
    env = environment_without(tmp_path_factory.mktemp("python") / "site", *ABSENT)
    done = project.run(sys.executable, "-S", "-c", ALONE, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    project.output = done.stdout  # type: ignore[attr-defined]
    project.told = done.stderr  # type: ignore[attr-defined]
    return project


def test_a_whole_study_needs_neither_snakemake_nor_dvc_nor_mlflow(elsewhere: Project) -> None:
    assert elsewhere.output.endswith("THEN\n"), "and then nothing is left to run"  # type: ignore[attr-defined]
    info = read_json(elsewhere.root / RUNS / "w2a2/statsq-cga/seed0/run.json")
    assert {"snakemake", "ofq", "git"}.isdisjoint({*info["versions"], *info})
    assert "commit    unknown: git did not know the project" in elsewhere.output  # type: ignore[attr-defined]
    refused = [line for line in elsewhere.told.splitlines() if line.startswith("ofq: error")]  # type: ignore[attr-defined]
    assert "MLflow store sqlite:///mlflow.db: No module named 'mlflow'; the runs are safe" in refused[0]
    assert refused[1].startswith("ofq: error: snakemake is not installed here, and should know")


STUDENT, ANNEALED = (Run("digits", "vit_micro", "w2a2", name, 0) for name in ("statsq", "statsq-cga"))
EVERYTHING = [
    "data digits",
    f"teacher {STUDENT.teacher}",
    f"qat {STUDENT}",
    f"cga {ANNEALED}",
    f"noise {STUDENT}",
    f"probe {STUDENT}",
]


def test_what_was_taken_is_not_run_again_and_a_change_still_reruns_it(elsewhere: Project, tmp_path: Path) -> None:
    home = Project(tmp_path)
    home.params = json.loads(json.dumps(elsewhere.params))
    home.write_params()
    quantizer = home.root / "src/ofq/quant/quantizers/statsq.py"
    text = quantizer.read_text()
    quantizer.write_text(f"{text}\n_MORE = 1\n")
    done = home.ofq("adopt", str(elsewhere.root))
    assert done.returncode == 2, done.stderr
    assert done.stderr == "ofq: error: 2 refused, each in a line above; nothing of them was taken\n"
    assert done.stdout.splitlines()[-1] == "2 taken, 0 were here, 2 refused"
    assert f"refused qat {STUDENT}: other code made it: its digest is " in done.stdout
    assert f"refused cga {ANNEALED}: it needs qat {STUDENT}, which is not right here" in done.stdout
    assert not (home.root / RUNS / "w2a2").exists(), "nothing of them"
    quantizer.write_text(text)
    done = home.ofq("adopt", str(elsewhere.root / "results"), "digits")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "4 taken, 2 were here, 0 refused"
    assert home.plan().keys().isdisjoint({"data", "teacher", "qat", "cga", "noise", "probe"})
    home.params["variants"]["statsq"]["lr"] = 1e-3
    home.write_params()
    planned = home.plan()
    assert {"qat", "cga", "noise", "probe"} <= planned.keys() and "teacher" not in planned


@pytest.fixture
def params(elsewhere: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """An empty project with the parameters of the other one, whose results lie in ``there``; Snakemake is not called."""
    shutil.copytree(elsewhere.root / "results", tmp_path / "there/results")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy(elsewhere.root / "params.yaml", "params.yaml")
    monkeypatch.setattr(module, "_note", lambda finished, right: None)
    return load()


THERE = Path("../there/results")
Change = Callable[[Path], None]


def rewritten(name: str, change: Callable[[dict], None]) -> Change:  # type: ignore[type-arg]
    def rewrite(root: Path) -> None:
        content = json.loads((root / name).read_text())
        change(content)
        (root / name).write_text(json.dumps(content, indent=2) + "\n")

    return rewrite


def flipped(name: str) -> Change:
    def flip(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[-1] ^= 1
        (root / name).write_bytes(content)

    return flip


def link_out(root: Path) -> None:
    shutil.move(root / "model.safetensors", root.parents[6] / "elsewhere.safetensors")
    (root / "model.safetensors").symlink_to(root.parents[6] / "elsewhere.safetensors")


def pipe(root: Path) -> None:
    (root / "model.safetensors").unlink()
    os.mkfifo(root / "model.safetensors")


def whole_link(root: Path) -> None:
    shutil.move(root, root.parents[6] / "elsewhere")
    root.symlink_to(root.parents[6] / "elsewhere")


REFUSED: dict[str, tuple[Change, str]] = {
    "weights": (flipped("model.safetensors"), "model.safetensors was changed since it was published (sha256)"),
    "metrics": (rewritten("metrics.json", lambda m: m.update(top1=99.0)), "metrics.json was changed since it was"),
    "missing": (lambda root: (root / "weights.parquet").unlink(), "weights.parquet is missing"),
    "unfinished": (lambda root: (root / "metrics.json").unlink(), "metrics.json is missing"),
    "settings": (
        rewritten("run.json", lambda info: info["config"]["train"].update(lr=0.5)),
        "its settings are not those of params.yaml here: qat.lr 0.5 -> 0.002",
    ),
    "new setting": (rewritten("run.json", lambda info: info["config"].update(hidden=1)), "params.yaml here: hidden"),
    "code": (rewritten("run.json", lambda info: info["digests"].update(code="0" * 16)), "other code made it: "),
    "inputs": (
        rewritten("run.json", lambda info: info["digests"]["inputs"].update({"../../../etc/passwd": "0"})),
        "it was made from another ../../../etc/passwd than the one here",
    ),
    "no digests": (rewritten("run.json", lambda info: info["digests"].pop("outputs")), "it does not say what "),
    "digests of others": (
        rewritten("run.json", lambda info: info["digests"].update(outputs={"../../x": "0"})),
        "it does not say what events.jsonl was",
    ),
    "another run": (rewritten("run.json", lambda info: info.update(run="digits/x")), "run.json is that of digits/x"),
    "no JSON": (lambda root: (root / "run.json").write_text("{"), "cannot be read"),
    "a link out": (link_out, "model.safetensors leads out of ../there/results"),
    "a folder that leads out": (whole_link, "metrics.json leads out of ../there/results"),
    "a pipe": (pipe, "model.safetensors is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_right_is_refused_by_name(params: Params, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, reason = REFUSED[case]
    change((THERE / str(STUDENT)).absolute())
    with pytest.raises(UserError, match="2 refused, each in a line above; nothing of them was taken"):
        adopt(params, Path("../there"), [])
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"taken {name}" for name in EVERYTHING[:2]], "what it was made from is right"
    assert said[2].startswith(f"refused qat {STUDENT}: ") and reason in said[2]
    assert said[3] == f"refused cga {ANNEALED}: it needs qat {STUDENT}, which is not right here"
    assert said[4] == "2 taken, 0 were here, 2 refused"
    assert not STUDENT.files.root.exists() and not ANNEALED.files.root.exists()
    assert sorted(path.name for path in Path("..").iterdir() if "elsewhere" not in path.name) == ["here", "there"]


@pytest.mark.parametrize(
    ("step", "change", "reason"),
    [
        ("noise", flipped("noise.parquet"), "cannot be read"),
        ("probe", rewritten("probe.json", lambda probe: probe.update(lr=1.0)), "probe.json was changed since"),
        ("probe", flipped("probe.parquet"), "probe.parquet was changed since it was published (sha256)"),
    ],
)
def test_a_measurement_that_was_changed_stays_away_from_its_run(
    params: Params, capsys: pytest.CaptureFixture[str], step: str, change: Change, reason: str
) -> None:
    change(THERE / str(STUDENT))
    with pytest.raises(UserError, match="1 refused"):
        adopt(params, Path("../there"), ["digits"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("refused"))
    assert line.startswith(f"refused {step} {STUDENT}: ") and reason in line
    assert STUDENT.files.metrics.exists() and not list(STUDENT.files.root.glob(f"{step}*"))


def test_a_file_here_that_differs_stays(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    adopt(params, Path("../there"), [])
    assert capsys.readouterr().out.splitlines()[:-1] == [f"taken {name}" for name in EVERYTHING]
    ANNEALED.files.model.unlink()
    rewritten("run.json", lambda info: info.update(finished="2026-01-02T03:04:05+00:00"))(STUDENT.files.root)
    kept = STUDENT.files.info.read_bytes()
    with pytest.raises(UserError, match="1 refused"):
        adopt(params, Path("../there"), [])
    said = capsys.readouterr().out.splitlines()
    assert f"refused qat {STUDENT}: {STUDENT.files.info} here is another file, and stays; to take this" in said[2]
    assert said[3:] == [f"taken cga {ANNEALED}", *(f"here {name}" for name in EVERYTHING[4:]), said[-1]]
    assert STUDENT.files.info.read_bytes() == kept and ANNEALED.files.model.exists(), "what was missing is there again"


def test_runs_of_other_data_and_of_unknown_studies_are_refused(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(THERE / "digits", THERE / "other")
    shutil.copytree(THERE / "digits/data", "results/digits/data")
    write_manifest("digits", read_manifest("digits").model_copy(update={"terms": "other"}))
    with pytest.raises(UserError, match="8 refused"):
        adopt(params, Path("../there"), [])
    said = capsys.readouterr().out
    assert f"refused {STUDENT.teacher}".replace("digits", "other", 1) + ": unknown study 'other'" in said
    assert "refused data digits: results/digits/data/manifest.json here is another file" in said
    assert "seed0: it was made from another results/digits/data/manifest.json than the one here" in said


def test_a_manifest_that_names_another_file_is_refused_with_all_that_was_made_from_it(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir("../there"):
        manifest = read_manifest("digits")
        named = manifest.files.model_copy(
            update={"eval": manifest.files.eval.model_copy(update={"name": "x.safetensors"})}
        )
        write_manifest("digits", manifest.model_copy(update={"files": named}))
    with pytest.raises(UserError, match="4 refused"):
        adopt(params, Path("../there"), [])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "refused data digits: x.safetensors is not what manifest.json says (sha256)"
    assert said[1] == f"refused teacher {STUDENT.teacher}: it needs data digits, which is not right here"
    assert not Path("results").exists()


def test_a_long_study_that_stays_under_other_code_takes_runs_of_other_code(params: Params) -> None:
    change, _ = REFUSED["code"]
    change(THERE / str(STUDENT))
    keeps = params.studies["digits"].model_copy(update={"rerun_on_code": False})
    adopt(params.model_copy(update={"studies": {"digits": keeps}}), Path("../there"), [])
    assert STUDENT.files.metrics.exists() and ANNEALED.files.metrics.exists()


def test_a_run_that_is_trained_here_is_left_alone(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    with only_trainer(STUDENT.state("")), pytest.raises(UserError, match="2 refused"):
        adopt(params, Path("../there"), [])
    assert f"refused qat {STUDENT}: runs/{STUDENT} is being trained by process" in capsys.readouterr().out
    assert not STUDENT.files.root.exists()


def test_a_folder_without_runs_of_another_project_is_one_line(params: Params) -> None:
    Path("results").mkdir()
    for folder, studies, reason in (
        ("nowhere", [], "nowhere is no folder"),
        ("params.yaml", [], "params.yaml is no folder"),
        (".", [], ". has the results of this project"),
        ("results", [], "results has the results of this project"),
        ("../there/results/digits", [], "there are no runs in"),
        ("../there", ["fashion"], "unknown study 'fashion'"),
    ):
        with pytest.raises(UserError, match=reason):
            adopt(params, Path(folder), studies)
    assert not list(Path("results").iterdir())


def test_what_is_left_to_run_is_what_is_missing_or_not_right_and_what_follows(params: Params) -> None:
    def left(group: str | None = None) -> list[str]:
        finished = Finished(params)
        return [str(made) for made in finished.wanted("digits", group) if not finished.is_right(made)]

    assert left() == EVERYTHING and left("everything") == EVERYTHING
    adopt(params, Path("../there"), [])
    assert left() == []
    STUDENT.files.noise.unlink()
    assert left() == [f"noise {STUDENT}"]
    frame = pd.read_parquet(STUDENT.files.weights)
    frame.iloc[1:].to_parquet(STUDENT.files.weights)
    assert left() == [f"qat {STUDENT}", f"cga {ANNEALED}", f"noise {STUDENT}", f"probe {STUDENT}"]
    write_json(Path("results/digits/data/manifest.json"), {})
    assert left() == EVERYTHING
