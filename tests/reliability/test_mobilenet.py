"""A small cut of the study digits-cnn: convolutions under SGD and every remedy, an exact resume, both accuracies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save, save_file

from ofq.cli.main import main
from ofq.config import params
from ofq.data.prepare import prepare
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from tests.conftest import ROOT
from tests.reliability.conftest import shrink_data, train
from tests.reliability.test_foreign_files import Malicious, damages
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


Told = Callable[..., str]


@pytest.fixture
def told(here: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a step says that is refused: one line, exit code 2."""

    def told(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        said = capsys.readouterr().err
        assert said.startswith("ofq: error: ") and said.count("\n") == 1
        return said

    return told


def changed(**tensors: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: content | {name.replace("__", "."): change(content) for name, change in tensors.items()}


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {each: value for each, value in content.items() if each != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            changed(conv_head__weight=lambda each: each["conv_head.weight"].transpose(0, 1)),
            "another model: conv_head.weight does not",
        ),
        (changed(conv_head__weight=lambda each: each["conv_head.weight"][..., 0]), "conv_head.weight does not match"),
        (without("bn1.running_mean"), "another model: bn1.running_mean does not match"),
        (without("conv_head.weight_quantizer.scale"), "was changed since it was published"),
        (changed(conv_head__input_quantizer__scale=lambda each: torch.ones(1)), "input_quantizer.scale does not match"),
        (changed(bn1__running_var=lambda each: each["bn1.running_var"] / 0), "bn1.running_var that are not finite"),
        (changed(bn1__running_var=lambda each: -each["bn1.running_var"]), "was changed since it was published"),
        (changed(conv_head__weight_quantizer__scale=lambda each: torch.ones(7)), "was changed since it was published"),
    ],
    ids=range(8),
)
def test_another_content_of_a_students_file_is_named(
    told: Told, change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    path = run_of("nagel").files.model
    whole = path.read_bytes()
    content = {name: each.contiguous() for name, each in change(load_file(path)).items()}
    before = run_of("nagel-cga").files.model.read_bytes()
    try:
        save_file(content, path)
        assert said in told("cga", str(run_of("nagel-cga")))
        assert said in told("noise", str(run_of("nagel")))
    finally:
        path.write_bytes(whole)
    assert run_of("nagel-cga").files.model.read_bytes() == before


def test_a_damaged_or_malicious_file_of_a_student_is_one_line(told: Told) -> None:
    path = run_of("nagel").files.model
    whole = path.read_bytes()
    try:
        for content in list(damages(whole))[::12]:
            path.write_bytes(content)
            assert f"{path} is damaged" in told("noise", str(run_of("nagel")))
        path.write_bytes(save({}))
        assert "belongs to another model: conv_stem.weight does not match" in told("noise", str(run_of("nagel")))
        torch.save({"conv_stem.weight": Malicious()}, path)
        assert f"{path} is damaged" in told("cga", str(run_of("nagel-cga")))
    finally:
        path.write_bytes(whole)
    assert not Path("owned").exists()


@pytest.mark.parametrize("form", ["packed", "onnx", "hub", "all"])
def test_a_finished_network_is_evaluated_and_not_exported(
    told: Told, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    run = run_of("nagel-freezing")
    said = "conv_stem is a convolution, and convolutional networks cannot be exported yet"
    assert f"{run.files.root} cannot be exported: {said}" in told("export", str(run), "--format", form)
    assert not run.files.packed.parent.exists()
    assert main(["evaluate", str(run.files.root)]) == 0
    assert f"top1: {read_json(run.files.metrics)['top1']}\n" in capsys.readouterr().out
