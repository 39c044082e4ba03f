"""``snakemake imagenet`` but for its length: every model, several processes, a stop; with ``--whole`` every variant."""

import json
import shutil
from copy import copy
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ofq.runs.paths import Run
from tests.conftest import Project
from tests.reliability.test_resume import check_killed
from tests.workflow.imagenet import run_of, write_imagenet

STUDENT = run_of("deit_tiny", "statsq-qkr")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Project:
    """The study, made by one command."""
    project = Project(tmp_path_factory.mktemp("imagenet"))
    write_imagenet(project, whole=request.config.getoption("whole"))
    done = project.run("snakemake", "imagenet", "imagenet-larger")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def metrics(project: Project, run: Run) -> dict[str, float]:
    content: dict[str, float] = json.loads((project.root / run.files.metrics).read_text())
    return content


def test_every_model_is_trained_and_reported(finished: Project, request: pytest.FixtureRequest) -> None:
    study = finished.params["studies"]["imagenet"]
    manifest = json.loads((finished.root / "results/imagenet/data/manifest.json").read_text())
    assert (manifest["classes"], manifest["image_size"]) == (20, [224, 224])
    table = pd.read_csv(finished.root / "results/imagenet/report/tables/main.csv")
    assert list(table["variant"]) == study["variants"]
    larger = study["groups"]["larger"]
    assert request.config.getoption("whole") == (larger["variants"] == study["variants"])
    runs = [run_of("deit_tiny", variant) for variant in study["variants"]]
    runs += [run_of(model, variant) for model in larger["models"] for variant in larger["variants"]]
    assert {metrics(finished, run)["steps"] for run in runs} == {2}
    assert finished.plan("imagenet", "imagenet-larger") == {}


def test_a_run_at_its_full_size_goes_on_after_a_kill(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.root)
    check_killed(STUDENT, 1)


def test_two_processes_train_what_one_does_but_for_rounding(finished: Project, tmp_path: Path) -> None:
    several = copy(finished)
    several.root = tmp_path / "several"
    shutil.copytree(finished.root, several.root, symlinks=True)
    params = yaml.safe_load((several.root / "params.yaml").read_text())
    params["studies"]["imagenet"]["hardware"] = {"devices": 2}
    (several.root / "params.yaml").write_text(yaml.safe_dump(params))
    done = several.ofq("qat", str(STUDENT))
    assert done.returncode == 0, done.stderr
    assert json.loads((several.root / STUDENT.files.info).read_text())["devices"] == 2
    alone, together = (losses(each) for each in (finished, several))
    assert together[0] == pytest.approx(alone[0], rel=1e-5), "before the first update"
    # Adam's first step has the sign of a gradient: what is nearly 0 goes the other way, and codes follow.
    assert together[1] == pytest.approx(alone[1], rel=2e-2)


def losses(project: Project) -> list[float]:
    """Of the batches of the student's steps."""
    lines = (project.root / STUDENT.files.events).read_text().splitlines()
    return [event["train/loss"] for event in map(json.loads, lines) if event["event"] == "step"]


def test_the_recipe_that_mixes_images_trains_too(project: Project) -> None:
    write_imagenet(project, "w3a3")
    run = run_of("deit_tiny", "statsq", "w3a3")
    done = project.run("snakemake", str(run.files.metrics))
    assert done.returncode == 0, done.stdout + done.stderr
    assert metrics(project, run)["steps"] == 2
