"""A small cut of the study digits-cnn: convolutions under SGD and every remedy, an exact resume, both accuracies."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.data.prepare import prepare
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from tests.conftest import ROOT
from tests.reliability.conftest import shrink_data, train
from tests.reliability.test_resume import check_killed

STEPS = 12
STUDENTS = ["nagel", "nagel-dampening", "nagel-freezing", "nagel-held", "nagel-cga"]
# Weights begin to be dampened, or frozen, within the few steps.
EAGER: dict[str, dict[str, Any]] = {
    "nagel-dampening": {"start": 0.1},
    "nagel-freezing": {"start": 0.25, "first_threshold": 0.1, "threshold": 0.02, "momentum": 0.2, "evaluated": 3},
}


def run_of(variant: str) -> Run:
    return Run("digits-cnn", "mobilenet8", *(("fp", "teacher") if variant == "teacher" else ("w2a32", variant)), 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of each variant."""
    root = tmp_path_factory.mktemp("mobilenet")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = content["recipes"]["digits-cnn"]
    recipe["teacher"]["steps"] = STEPS
    recipe["qat"] |= {"steps": STEPS, "evaluations": 6, "reestimation_batches": 2, "batch_size": 32}
    recipe["cga"]["steps"] = STEPS
    for name, arguments in EAGER.items():
        content["variants"][name]["remedy"]["arguments"] |= arguments
    content["variants"]["nagel-cga"] = {"parent": "nagel", "cga": {"boundary_range": 0.1}}
    study = content["studies"]["digits-cnn"] | {"variants": STUDENTS, "groups": {}}
    content |= {"study": "digits-cnn", "studies": {"digits-cnn": study}, "recipes": {"digits-cnn": recipe}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("params.yaml").write_text(yaml.safe_dump(content))
        prepare("digits-cnn", params.load().studies["digits-cnn"].data)
        shrink_data("digits-cnn", train=320, eval=64)
        for variant in ("teacher", *STUDENTS):
            train(run_of(variant))
    return root


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


@pytest.mark.parametrize("variant", STUDENTS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(here: Path, variant: str) -> None:
    check_killed(run_of(variant), 4, STEPS - 1)


def test_what_each_remedy_does_is_seen(here: Path) -> None:
    metrics = {variant: read_json(run_of(variant).files.metrics) for variant in STUDENTS}
    assert all("top1_reestimated" in each for each in metrics.values())
    assert metrics["nagel-held"]["reversals"] == 0 < metrics["nagel"]["reversals"]
    events = {variant: run_of(variant).files.events.read_text() for variant in STUDENTS}
    assert '"dampening/errors":' in events["nagel-dampening"] and '"freezing/share":' in events["nagel-freezing"]
    before, held = load_file(run_of("teacher").files.model), load_file(run_of("nagel-held").files.model)
    moved = {name for name, each in before.items() if not each.equal(held[name])}
    weights = {name for name, each in before.items() if each.ndim == 4}
    assert weights & moved == {"conv_stem.weight"}, "the stem is no low-bit layer"
    assert {"bn1.weight", "bn1.running_mean", "classifier.weight", "blocks.1.0.bn2.bias"} <= moved
