"""A small cut of the study cifar10: augmented images, a teacher that is asked at each step, and an exact resume."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.data.prepare import prepare
from ofq.data.readers import cifar
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from tests.conftest import ROOT
from tests.data.small import CIFAR10, cifar_members, write_tar
from tests.reliability.conftest import train
from tests.reliability.test_resume import check_killed

EPOCH, STEPS = 5, 8
RUNS = [
    Run("cifar10", "vit_small32", *rest, 0)
    for rest in (("fp", "teacher"), ("w2a2", "statsq-qkr"), ("w2a2", "statsq-qkr-cga"))
]


def write_params() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = content["recipes"]["cifar"]
    for phase in ("teacher", "qat"):
        recipe[phase] |= {"batch_size": 4, "steps": STEPS, "constant_steps": 0}
    recipe["cga"]["steps"] = STEPS
    content["models"]["vit_small32"]["arguments"] |= {"embed_dim": 32, "depth": 1, "num_heads": 2}
    study = content["studies"]["cifar10"] | {"groups": {}, "seeds": [0], "hardware": {}}
    content |= {"study": "cifar10", "studies": {"cifar10": study}}
    Path("params.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images, and an undisturbed run of each kind."""
    root = tmp_path_factory.mktemp("cifar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setitem(cifar.LAYOUTS, "cifar10", CIFAR10)
        write_tar(Path("data/cifar10") / CIFAR10.archive, cifar_members(CIFAR10))
        write_params()
        prepare("cifar10", params.load().studies["cifar10"].data)
        for run in RUNS:
            train(run)
    return root


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.variant)
def test_an_augmented_run_that_was_killed_ends_as_one_that_was_not(here: Path, run: Run) -> None:
    check_killed(run, 3, EPOCH, STEPS - 1)


def test_all_phases_are_augmented_and_the_teacher_is_asked_at_each_step(here: Path) -> None:
    shown = [read_json(run.files.info)["config"] for run in RUNS]
    assert [config["train"]["augment"] for config in shown] == [{"crop": 4, "flip": True, "cutout": 0}] * 3
    assert [config.get("teacher_once") for config in shown] == [None, False, False]


def test_augmentation_changes_what_is_trained(here: Path) -> None:
    run, path = RUNS[0], Path("params.yaml")
    augmented, text = load_file(run.files.model), path.read_text()
    content = yaml.safe_load(text)
    del content["recipes"]["cifar"]["teacher"]["augment"]
    path.write_text(yaml.safe_dump(content))
    try:
        train(run)
        plain = load_file(run.files.model)
    finally:
        path.write_text(text)
        train(run)
    assert any((plain[name] != augmented[name]).any() for name in plain)
