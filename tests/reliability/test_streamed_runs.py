"""A small cut of ImageNet's recipe on streamed images: what is stored, what is refused, and an exact resume."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.resolve import resolve
from ofq.data.prepare import prepare
from ofq.errors import UserError
from ofq.runs.paths import Run
from ofq.training.preflight import check_study
from tests.conftest import ROOT, Project
from tests.data.photos import plain_folders
from tests.reliability.conftest import train
from tests.reliability.test_resume import check_killed, contents

STEPS = 8  # an epoch has six
RUNS = [
    Run("photos", "vit_small32", *rest, 0)
    for rest in (("fp", "teacher"), ("w2a2", "statsq-qkr"), ("w2a2", "statsq-qkr-cga"))
]
STUDENT = RUNS[1]


def settings(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    phase = {"lr": 1e-3, "min_lr": 1e-4, "batch_size": 4, "steps": STEPS, "repeats": 2}
    phase["augment"] = {"scale": [0.08, 1.0], "flip": True, "policy": "rand-m9-mstd0.5-inc1", "erasing": 0.25}
    content["recipes"]["photos"] = {"teacher": phase, "qat": phase, "cga": {"steps": STEPS}, "teacher_once": False}
    content["models"]["vit_small32"]["arguments"] |= {"embed_dim": 32, "depth": 1, "num_heads": 2}
    data = {"name": "imagefolder", "root": str(root / "photos"), "image_size": 32, "stream": True, "workers": 1}
    study = {"models": ["vit_small32"], "bits": ["w2a2"], "variants": [run.variant for run in RUNS[1:]], "seeds": [0]}
    return content | {"study": "photos", "studies": {"photos": {"data": data, "recipe": "photos", **study}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight images, and an undisturbed run of each kind."""
    root = tmp_path_factory.mktemp("photos")
    plain_folders(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("params.yaml").write_text(yaml.safe_dump(settings(root)))
        prepare("photos", params.load().studies["photos"].data)
        for run in RUNS:
            train(run)
    return root


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.variant)
def test_a_run_that_was_killed_in_an_epoch_ends_as_one_that_was_not(here: Path, run: Run) -> None:
    check_killed(run, 4)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_to_it(here: Path, signum: signal.Signals) -> None:
    """As Ctrl-C in a terminal is one, and the end of a job's time on a cluster."""
    undisturbed = contents(STUDENT)
    text = Path("params.yaml").read_text()
    longer = yaml.safe_load(text)
    longer["recipes"]["photos"]["qat"] |= {"steps": 100_000, "evaluations": 20_000}
    Path("params.yaml").write_text(yaml.safe_dump(longer))
    log = Path(f"{signum.name}.log")
    try:
        with log.open("w") as file:
            command = [sys.executable, "-m", "ofq", "qat", str(STUDENT)]
            before = signal.signal(
                signum, signal.SIG_DFL
            )  # a shell's background job ignores Ctrl-C, and its children do
            child = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            signal.signal(signum, before)
        # A step that it has made: the one that it goes on from is told before.
        while "/100000  loss" not in log.read_text() and child.poll() is None:
            time.sleep(0.1)
        os.killpg(child.pid, signum)
        assert child.wait(timeout=120) == 128 + signum, log.read_text()
    finally:
        child.kill()
        Path("params.yaml").write_text(text)
    said = log.read_text()
    assert f"stopped by {signum.name} after step" in said and "Traceback" not in said and "DataLoader" not in said
    assert contents(STUDENT) == undisturbed, "what was published is as it was"


def test_the_teachers_output_is_not_stored_and_a_recipe_that_asks_for_it_is_refused(here: Path) -> None:
    assert load_file(RUNS[0].files.logits)["train"].shape == (0, 3)
    content = settings(here)
    content["recipes"]["photos"]["teacher_once"] = True
    del content["recipes"]["photos"]["qat"]["augment"]
    Path("stored.yaml").write_text(yaml.safe_dump(content))

    config = resolve(params.load(Path("stored.yaml")), STUDENT)
    with pytest.raises(UserError, match="the teacher's output is not stored for streamed images"):
        check_study("photos", [config])


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        ({"teacher_once": True}, {}, "the teacher's output is not stored for streamed images, of which there may be"),
        ({}, {"stream": False}, "augment.scale is for images that are streamed, and those of this study are held in"),
        ({}, {"root": "$NOWHERE/photos"}, "data.root '$NOWHERE/photos': no environment variable NOWHERE; set it"),
        (
            {},
            {"root": "nowhere"},
            "study photos: nowhere not found; docs/add-a-data-set.md says what belongs there, or",
        ),
    ],
)
def test_what_does_not_fit_is_told_when_snakemake_plans(
    project: Project, recipe: dict[str, Any], data: dict[str, Any], message: str
) -> None:
    plain_folders(project.root / "photos")
    project.params = settings(project.root)
    project.params["recipes"]["photos"] |= recipe
    if recipe:
        del project.params["recipes"]["photos"]["qat"]["augment"]
    project.params["studies"]["photos"]["data"] |= data
    project.write_params()
    done = project.run("snakemake", "-n", str(STUDENT.files.metrics))
    assert done.returncode == 2 and message in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
