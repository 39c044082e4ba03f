"""What is wrong with a convolutional network, its settings or its files is one line, exit code 2."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ofq.config import params
from ofq.errors import UserError
from ofq.workflow.targets import check_target
from tests.conftest import ROOT, Project
from tests.inputs.conftest import Refusal

STUDY, MODEL = "digits-cnn", "mobilenet8"
TEACHER = f"{STUDY}/{MODEL}/fp/teacher/seed0"
FLOAT = "layer1.0.se.conv would stay in full precision (8 layers with 0.0 % of the model's weights); supported are"


def float_layer(settings: dict[str, Any]) -> None:
    settings["models"][MODEL] = {"timm": "ecaresnet26t"}


def prepared(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Give a finished study of digits a convolutional network and its settings, changed; the images are the same."""
    settings = yaml.safe_load((root / "params.yaml").read_text())
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["studies"] = {STUDY: whole["studies"][STUDY]}
    settings["recipes"], settings["study"] = {STUDY: whole["recipes"][STUDY]}, STUDY
    change(settings)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))


WRONG: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (float_layer, f"ecaresnet26t cannot be quantized: {FLOAT}"),
    (
        lambda settings: settings["variants"]["nagel"].update(weight_axis="row"),
        "params.yaml: variants.nagel.weight_axis: Input should be 'channel' or 'tensor', not 'row'",
    ),
    (
        lambda settings: settings["variants"]["nagel"].update(weight_axis=0),
        "params.yaml: variants.nagel.weight_axis: Input should be 'channel' or 'tensor', not 0",
    ),
    (
        lambda settings: settings["variants"]["nagel"].update(qkr=True),
        "mobilenetv2_035 cannot be quantized: qkr reparameterizes queries and keys, and a convolutional network has none",
    ),
    (
        lambda settings: settings["models"][MODEL].update(set={"conv_stm.stride": 1}),
        "set.conv_stm.stride of a model: unknown module of mobilenetv2_035 'conv_stm'; did you mean 'conv_stem'?",
    ),
    (
        lambda settings: settings["models"][MODEL].update(set={"conv_stem.strides": 1}),
        "set.conv_stem.strides of a model: unknown attribute of a Conv2d that can be set: 'strides'; did you mean 'stride'?",
    ),
    (
        lambda settings: settings["models"][MODEL].update(set={"bn1.stride": 1}),
        "set.bn1.stride of a model: unknown attribute of a BatchNormAct2d that can be set: 'stride'; known: eps, momentum",
    ),
]


@pytest.mark.parametrize("step", ["model", "teacher"])
@pytest.mark.parametrize(("change", "said"), WRONG, ids=range(len(WRONG)))
def test_a_network_that_cannot_be_is_told_before_its_teacher_is_trained(
    copy: Path, refusal: Refusal, change: Callable[[dict[str, Any]], None], said: str, step: str
) -> None:
    (copy / "results" / STUDY).mkdir()
    (copy / "results" / STUDY / "data").symlink_to(copy / "results/digits/data")
    prepared(copy, change)
    argv = [STUDY, MODEL, "nagel"] if step == "model" else [TEACHER]
    assert said in refusal(step, *argv)
    assert not any((copy / "runs").rglob("checkpoint-*"))


def test_snakemake_tells_of_a_layer_that_would_stay_float_at_its_first_training(project: Project) -> None:
    prepared(project.root, float_layer)
    done = project.run("snakemake", f"results/{STUDY}/{MODEL}/w2a32/nagel/seed0/metrics.json")
    assert done.returncode == 1
    said, last = done.stderr.splitlines()[-2:]
    assert said.startswith(f"ofq: error: ecaresnet26t cannot be quantized: {FLOAT}")
    assert last == f"ofq: a job failed; what it printed stands in logs/{TEACHER}.log"
    assert not (project.root / "results" / STUDY / MODEL).exists()


@pytest.mark.parametrize(
    "target",
    [
        f"{STUDY}-exports",
        "exports",
        f"results/{STUDY}/report/tables/sizes.md",
        f"results/{STUDY}/report/tables/sizes_by_layer.csv",
        *(f"results/{STUDY}/{MODEL}/w2a32/nagel/seed0/export/{name}" for name in ("sizes.json", "model.onnx")),
    ],
)
def test_an_export_is_refused_before_anything_is_trained_for_it(target: str) -> None:
    settings = params.load(ROOT / "params.yaml").model_copy(update={"study": STUDY})
    told = rf"^{MODEL} \(mobilenetv2_035\) is a convolutional network, and those cannot be exported yet; ask for its study$"
    with pytest.raises(UserError, match=told):
        check_target(settings, target)
    for other in ("digits-exports", f"{STUDY}-everything", f"results/{STUDY}/report/tables/main.md", STUDY):
        check_target(settings, other)
