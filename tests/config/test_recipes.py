"""The recipes of the paper's authors, field by field, and which of them a run has by its model and bit width."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ofq.config import params
from ofq.config.grid import Grid, all_runs
from ofq.config.recipes import Pretrained, TrainingRecipe
from ofq.config.resolve import AnnealConfig, QatConfig, TeacherConfig, given_weights, resolve
from ofq.runs.paths import Run
from ofq.workflow.dvc_file import stages
from tests.conftest import ROOT

PARAMS = params.load(ROOT / "params.yaml")

# train_scripts/ and configs/ of the released code, commit 7ed37d1: what all have in common, and the table of the rest.
COMMON: dict[str, Any] = {
    "optimizer": "adamw",
    "momentum": 0.9,  # of no account
    "quantizer_lr": 1e-5,
    "min_lr": 1e-5,
    "epochs": 300 + 10,
    "constant_epochs": 10,
    "warmup_lr": 1e-6,
    "evaluate_every": 1,
    "augment": {
        "crop": 0,
        "cutout": 0,
        "flip": True,
        "scale": (0.08, 1.0),
        "policy": "rand-m9-mstd0.5-inc1",
        "jitter": 0.4,
        "erasing": 0.25,
    },
    "steps": None,
    "warmup": 0.0,
    "constant_steps": 0,
    "evaluations": 12,
    "reestimation_batches": None,
}
PLAIN = {"weight_decay": 0.05, "warmup_epochs": 5, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "repeats": 1}
MIXED = {"weight_decay": 0.0, "warmup_epochs": 0, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}
TABLE: dict[str, dict[str, Any]] = {
    "deit": {"lr": 5.47e-4, "batch_size": 140 * 4, **PLAIN},
    "deit-mixed": {"lr": 3.2e-4, "batch_size": 100 * 8, "repeats": 3, **MIXED},
    "swin": {"lr": 5e-4, "batch_size": 64 * 8, **PLAIN},
    "swin-mixed": {"lr": 2e-4, "batch_size": 64 * 8, "repeats": 1, **MIXED},
}


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_of_the_paper_is_that_of_its_authors(name: str) -> None:
    recipe = PARAMS.recipes[name]
    found = {field: getattr(recipe.qat, field) for field in TrainingRecipe.model_fields}
    augment = found.pop("augment")
    assert found | {"augment": {field: getattr(augment, field) for field in type(augment).model_fields}} == (
        COMMON | TABLE[name]
    )
    assert recipe.teacher == Pretrained(pretrained=True) and not recipe.teacher_once
    assert (recipe.cga.epochs, recipe.cga.steps, recipe.cga.lr) == (30, None, None)


@pytest.fixture
def by_place(tmp_path: Path) -> params.Params:
    """A study whose recipes depend on model and bits, and whose teachers come from files."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    study = {"data": {"name": "digits"}, "models": ["deit_tiny", "deit_small"], "bits": ["w2a2", "w3a3"], "seeds": [0]}
    study |= {"variants": ["statsq", "statsq-cga"], "recipe": "deit", "recipe_for": {"deit_small/w3a3": "deit-mixed"}}
    content |= {"study": "paper", "studies": {"paper": study}}
    content["recipes"]["deit"]["teacher"] = {"pretrained": "weights/{model}.safetensors"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    return params.load(tmp_path / "params.yaml")


RECIPES = {
    "deit_tiny": ("deit", "deit", "deit"),
    "deit_small": ("deit", "deit-mixed", "deit-mixed"),
    "swin_tiny": ("swin", "swin-mixed", "swin-mixed"),
}


@pytest.mark.parametrize("model", RECIPES)
def test_the_papers_study_trains_every_model_and_width_as_its_authors_do(model: str) -> None:
    names = dict(zip(("w2a2", "w3a3", "w4a4"), RECIPES[model], strict=True))
    for study in ("imagenet", "imagenet-common"):
        runs = [run for run in Grid(PARAMS, study).runs if run.model == model]
        assert {run.bits for run in runs} == {*names} and {run.seed for run in runs} == {42}
        assert {run.variant for run in runs} >= {"lsq", "statsq", "statsq-qkr", "statsq-qkr-cga"}
        for run in runs:
            qat = PARAMS.recipes[names[run.bits] if study == "imagenet" else "deit"].qat
            train = resolve(PARAMS, run).train
            assert train in (qat, qat.held(1e-5, None, 30)) and train.for_images(1_281_167).unit in (2287, 1601, 2502)
        assert resolve(PARAMS, runs[0].teacher).shown()["pretrained"] is True


def test_a_run_has_the_recipe_of_its_model_and_width_and_no_other(by_place: params.Params) -> None:
    def rate(model: str, bits: str, variant: str = "statsq") -> float:
        train = resolve(by_place, Run("paper", model, bits, variant, 0)).train
        assert train is not None
        return train.lr

    assert rate("deit_small", "w3a3") == 3.2e-4
    assert {rate("deit_small", "w2a2"), rate("deit_tiny", "w2a2"), rate("deit_tiny", "w3a3")} == {5.47e-4}
    config = resolve(by_place, Run("paper", "deit_small", "w3a3", "statsq-cga", 0))
    assert isinstance(config, AnnealConfig) and config.train.mixup == 0.8
    assert (config.train.epochs, config.train.lr, config.train.min_lr) == (30, 1e-5, 1e-5)
    assert (config.train.warmup_epochs, config.train.constant_epochs) == (0, 0)
    assert "recipe" not in config.canonical()
    assert "recipes.deit-mixed" in stages(by_place)


def test_a_teacher_that_is_not_trained_has_weights_in_place_of_a_recipe(by_place: params.Params) -> None:
    config = resolve(by_place, Run("paper", "deit_tiny", "fp", "teacher", 0))
    assert isinstance(config, TeacherConfig) and config.train is None
    assert given_weights(config) == [Path("weights/deit_tiny.safetensors")]
    assert config.shown()["pretrained"] == "weights/deit_tiny.safetensors" and "train" not in config.shown()
    assert TeacherConfig.model_validate_json(config.canonical()) == config


# bash/train_mobilenetv2.sh and the defaults of main.py in the released code of Nagel et al. 2022
MOBILENETS = {("w4a4", 3.3e-3, 90), ("w3a3", 1e-2, 90), ("w4a32", 3.3e-3, 20), ("w3a32", 1e-2, 20)}
SCRIPT: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "quantizer_lr": 1e-5,
    "weight_decay": 2.5e-5,
    "min_lr": 0.0,
    "batch_size": 128,
    "reestimation_batches": 50,
    "warmup_epochs": 0,
    "constant_epochs": 0,
}


def test_mobilenets_are_trained_as_the_scripts_of_nagel_et_al_do() -> None:
    found = set()
    for run in all_runs(PARAMS, "imagenet-mobilenet"):
        config = resolve(PARAMS, run)
        assert isinstance(config, QatConfig) and not config.distillation and not config.teacher_once
        assert config.quantization.weight == "nagel" and config.quantization.weight_axis == "tensor"
        assert {name: getattr(config.train, name) for name in SCRIPT} == SCRIPT
        assert config.augment.scale == (0.08, 1.0) and config.augment.flip and config.augment.policy is None
        found.add((run.bits, config.train.lr, config.train.epochs))
        if config.remedy and config.remedy.name == "freezing":
            last = {"w4a4": 0.01, "w3a3": 0.011}[run.bits]
            assert config.remedy.arguments == {"threshold": last, "momentum": 0.001}
    assert found == MOBILENETS


@pytest.mark.parametrize("study", ["digits-cnn", "fashion-cnn", "cifar10-cnn"])
def test_five_evaluations_at_least_lie_where_the_rate_is_constant(study: str) -> None:
    runs = all_runs(PARAMS, study)
    assert {run.bits for run in runs} >= {"w2a32", "w8a32"}
    for run in runs:
        config = resolve(PARAMS, run)
        assert config.train is not None and config.train.lr == config.train.min_lr
        assert config.train.lr == (0.01 if run.variant.endswith("-lr0.01") else 0.03)
        assert config.train.warmup == 0 and config.train.length // config.train.interval >= 5
        assert config.train.reestimation_batches > 0
    if study == "fashion-cnn":
        assert len(runs) == 6 * (2 * 2 * 4 + 2 * 3)
