"""Versions of data and results: a finished study goes through a DVC remote into a fresh clone and stays finished."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ofq.config import params
from ofq.config.grid import Grid
from ofq.workflow.dvc_file import stages, unlisted
from tests.conftest import ROOT, Project

RUNS = "results/digits/vit_micro/w2a2"
GIT = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "t"), ("EMAIL", "t@t"))
}


def must(project: Project, *command: str) -> str:
    """Run a command that has to succeed; its output."""
    done = project.run(*command, env=GIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def make_pull(project: Project) -> subprocess.CompletedProcess[str]:
    """``make pull`` with this environment in place of ``.venv``."""
    return project.run("make", "pull", "-o", ".venv/.ready", f"BIN={Path(sys.executable).parent}", env=GIT)


def test_stages_depend_on_the_files_of_classes_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module, name in (
        ("dvc_calm", "Calm"),
        ("dvc_widest", "Widest"),
        ("dvc_shapes", "Shapes"),
        ("dvc_unused", "Unused"),
    ):
        Path(f"{module}.py").write_text(f"class {name}:\n    pass\n")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["studies"]["digits"]["data"]["name"] = "dvc_shapes:Shapes"
    content["variants"]["lsq"]["remedy"] = {"name": "dvc_calm:Calm"}
    content["variants"]["statsq"]["weight"] = "dvc_widest:Widest"
    content["variants"]["other"] = {"weight": "dvc_unused:Unused"}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    written = yaml.safe_load(stages(params.load()))["stages"]
    own = {stage: [name for name in entry["deps"] if name.endswith(".py")] for stage, entry in written.items()}
    assert own == {"data": ["dvc_shapes.py"], "teacher": [], "runs": ["dvc_calm.py", "dvc_widest.py"], "report": []}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small study, finished by a bare ``snakemake``, then committed to DVC and pushed to a remote directory."""
    project = Project(tmp_path_factory.mktemp("origin"))
    project.params["studies"]["digits"]["seeds"] = [0]
    project.params["variants"]["lsq"]["lr"] = 2e-3
    project.write_params()
    for name in (".gitignore", ".dvcignore", "Makefile"):
        shutil.copy(ROOT / name, project.root / name)
    (project.root / ".dvc" / "plots").mkdir(parents=True)
    for name in ("config", ".gitignore", "plots/oscillation.json"):
        shutil.copy(ROOT / ".dvc" / name, project.root / ".dvc" / name)
    (project.root / "dvc.yaml").write_text(stages(params.load(project.root / "params.yaml")))
    must(project, "git", "init", "--quiet")
    must(project, "snakemake")
    must(project, "dvc", "commit", "--force")
    must(project, "dvc", "remote", "add", "--default", "store", str(tmp_path_factory.mktemp("remote")))
    must(project, "git", "add", ".")
    must(project, "git", "commit", "--quiet", "--message", "A finished study")
    must(project, "dvc", "push")
    return project


@pytest.fixture(scope="module")
def clone(origin: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone after ``make pull``."""
    root = tmp_path_factory.mktemp("clone")
    must(origin, "git", "clone", "--quiet", str(origin.root), str(root))
    project = Project.__new__(Project)
    project.root, project.params = root, yaml.safe_load((root / "params.yaml").read_text())
    done = make_pull(project)
    assert done.returncode == 0, done.stdout + done.stderr
    project.pulled = done.stdout + done.stderr  # type: ignore[attr-defined]
    return project


def test_the_stages_are_those_of_the_default_study() -> None:
    assert (ROOT / "dvc.yaml").read_text() == stages(params.load(ROOT / "params.yaml")), "ofq stages > dvc.yaml"


def test_every_study_gets_stages_with_disjoint_outputs_that_persist() -> None:
    loaded = params.load(ROOT / "params.yaml")
    for study in loaded.studies:
        content = yaml.safe_load(stages(loaded.model_copy(update={"study": study})))
        assert list(content["stages"]) == ["data", "teacher", "runs", "report"]
        outs = [out for stage in content["stages"].values() for entry in stage["outs"] for out in entry.items()]
        assert all(options == {"persist": True} for _, options in outs)
        paths = [Path(path) for path, _ in outs]
        assert not [(a, b) for a in paths for b in paths if a != b and a.is_relative_to(b)]
        folders = {run.files.root.parent.parent for run in Grid(loaded, study).runs}
        assert folders <= set(paths)


def test_a_study_of_other_folders_is_noticed(tmp_path: Path) -> None:
    loaded = params.load(ROOT / "params.yaml")
    path = tmp_path / "dvc.yaml"
    assert unlisted(loaded, path) == [], "a project without DVC"
    path.write_text(stages(loaded))
    assert unlisted(loaded, path) == []
    wider = loaded.studies["digits"].model_copy(update={"bits": ["w2a2", "w8a8"]})
    more = loaded.model_copy(update={"studies": loaded.studies | {"digits": wider}})
    assert unlisted(more, path) == ["results/digits/vit_micro/w8a8"]
    path.write_text("stages: {own: {cmd: make, outs: [results/digits/vit_micro/w8a8]}}")
    assert "results/digits/vit_micro/w8a8" not in unlisted(more, path)
    path.write_text("stages: [")
    assert unlisted(more, path) == [], "DVC itself complains"


def test_after_a_bare_snakemake_and_a_commit_there_is_nothing_to_do(origin: Project) -> None:
    assert "up to date" in must(origin, "dvc", "status")
    assert "Running stage" not in must(origin, "dvc", "repro")
    assert must(origin, "git", "status", "--short") == ""


def test_the_main_table_is_a_metrics_file(origin: Project) -> None:
    shown = json.loads(must(origin, "dvc", "metrics", "show", "--json"))
    data = shown[""]["data"]["results/digits/report/tables/main.json"]["data"]
    table = pd.read_csv(origin.root / "results/digits/report/tables/main.csv").set_index("variant")
    assert set(data) == {"w2a2"} and set(data["w2a2"]) == set(table.index)
    for name, values in data["w2a2"].items():
        assert set(values) == {"top1_mean", "osc_share_mean"}, "one seed has no deviation"
        assert values == pytest.approx({column: table.loc[name, column] for column in values})


def test_the_oscillation_curves_are_a_plot(origin: Project) -> None:
    must(origin, "dvc", "plots", "show", "--out", "logs/plots")
    page = (origin.root / "logs/plots/index.html").read_text()
    assert "optimizer step" in page and "vit_micro w2a2" in page and "statsq-cga" in page
    assert "<DVC_" not in page


def test_in_a_fresh_clone_nothing_is_run_again(clone: Project) -> None:
    assert clone.plan() == {}
    assert "Trained" not in clone.pulled  # type: ignore[attr-defined]
    assert json.loads((clone.root / "results/digits/mlflow.json").read_text())["runs"]


def test_in_a_fresh_clone_one_learning_rate_reruns_its_runs(clone: Project) -> None:
    kept = clone.root.joinpath("params.yaml").read_text()
    clone.params["variants"]["lsq"]["lr"] = 1e-3
    clone.write_params()
    assert clone.plan() == {"qat": 1, "tables": 1, "figures": 1, "track": 1}
    clone.root.joinpath("params.yaml").write_text(kept)


def test_code_of_another_version_stops_a_pull(clone: Project) -> None:
    path = clone.root / "Snakefile"
    kept = path.read_text()
    path.write_text(kept + "\n# another version\n")
    done = make_pull(clone)
    path.write_text(kept)
    assert done.returncode != 0
    assert "ofq: error: code, settings or results are not those of dvc.lock; see: dvc status" in done.stderr


def test_a_checkpoint_changed_by_one_byte_is_noticed(clone: Project) -> None:
    path = clone.root / RUNS / "statsq/seed0/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert f"modified:           {RUNS}" in must(clone, "dvc", "status")
    assert make_pull(clone).returncode != 0
    assert path.read_bytes() == content, "nobody's file is overwritten"


def test_an_experiment_with_one_learning_rate_trains_its_runs_only(origin: Project) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (origin.root / "results").glob("digits/*/*/statsq*/*/*")}
    must(origin, "dvc", "exp", "run", "--set-param", "variants.lsq.lr=0.001")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    changed = json.loads(must(origin, "dvc", "metrics", "diff", "--json"))
    names = changed["results/digits/report/tables/main.json"]
    assert names and all(name.startswith("w2a2.lsq.") for name in names)
    assert "up to date" in must(origin, "dvc", "status")
