"""A teacher that is not trained: whose weights it has, what its students make of it, and which files are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from ofq.config import params
from ofq.config.resolve import TeacherConfig, resolve
from ofq.data.batches import load
from ofq.data.prepare import prepare
from ofq.errors import UserError
from ofq.models.backbone import build
from ofq.models.pretrained import weights_file
from ofq.runs.paths import Run
from ofq.runs.provenance import file_digest
from ofq.training.anneal import run_cga
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher
from ofq.workflow.finished import Finished
from tests.conftest import ROOT
from tests.training.trained import step_events

TEACHER = Run("digits", "vit_micro", "fp", "teacher", 0)
STATSQ = Run("digits", "vit_micro", "w2a2", "statsq", 0)
FILE = Path("weights/vit_micro.safetensors")
RECIPE = {
    "teacher": {"pretrained": "weights/{model}.safetensors"},
    "qat": {
        "lr": 2e-3,
        "min_lr": 1e-4,
        "batch_size": 4000,
        "epochs": 4,
        "warmup_epochs": 1,
        "constant_epochs": 1,
        "evaluate_every": 2,
        "mixup": 0.8,
        "cutmix": 1.0,
        "smoothing": 0.1,
    },
    "cga": {"epochs": 2},
    "teacher_once": False,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and a file of weights for its model."""
    root = tmp_path_factory.mktemp("pretrained")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = RECIPE
    content["studies"] = {"digits": content["studies"]["digits"]}
    del content["studies"]["digits"]["learning_rates"]
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = params.load()
        prepare("digits", loaded.studies["digits"].data)
        model = build(loaded.models["vit_micro"], image_size=(8, 8), channels=1, classes=10, seed=7)
        FILE.parent.mkdir()
        save_file(model.state_dict(), FILE)
    return root


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(root)
    return params.load()


def teacher(here: params.Params, given: Path | bool = FILE) -> TeacherConfig:
    config = resolve(here, TEACHER)
    assert isinstance(config, TeacherConfig)
    return config.model_copy(update={"pretrained": given if given is True else str(given)})


def test_the_weights_are_published_and_run_json_says_whose_they_are(here: params.Params) -> None:
    run_teacher(TEACHER, teacher(here))
    weights, published = load_file(FILE), load_file(TEACHER.files.model)
    assert weights.keys() == published.keys() and all(torch.equal(weights[name], published[name]) for name in weights)
    info, metrics = json.loads(TEACHER.files.info.read_text()), json.loads(TEACHER.files.metrics.read_text())
    assert info["pretrained"] == {"name": str(FILE), "sha256": file_digest(FILE)}
    assert info["digests"]["inputs"][str(FILE)] == file_digest(FILE) and "train" not in info["config"]
    assert metrics["steps"] == 0 and 0 < metrics["top1"] < 100
    finished = Finished(here)
    assert finished.is_right(finished.step_of(TEACHER))


def test_students_train_and_are_annealed_in_epochs_on_mixed_images(here: params.Params) -> None:
    if not TEACHER.files.metrics.exists():
        run_teacher(TEACHER, teacher(here))
    epoch = load("digits").count // 4000
    annealed = STATSQ.sibling("statsq-cga")
    run_qat(STATSQ, resolve(here, STATSQ))  # type: ignore[arg-type]
    run_cga(annealed, resolve(here, annealed))  # type: ignore[arg-type]
    for run, epochs in ((STATSQ, 4), (annealed, 2)):
        assert [event["step"] for event in step_events(run)] == [n * epoch for n in range(2, epochs + 1, 2)]
        assert json.loads(run.files.metrics.read_text())["steps"] == epochs * epoch
    # The rate of an epoch: the lowest in the last one, that of half the cosine's second third before.
    assert [event["train/lr"] for event in step_events(STATSQ)] == [pytest.approx(1.525e-3), 1e-4]
    assert pd.read_parquet(annealed.files.annealing)["step"].max() == 2 * epoch
    # Labels of mixed images are no sure thing: the loss of training is above that of evaluation.
    assert all(event["train/loss"] > event["val/loss"] for event in step_events(STATSQ))


def _cut(content: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if name != "fc_norm.bias"}


REFUSED: list[tuple[Callable[[dict[str, Tensor]], Any], str]] = [
    (lambda c: c | {"head.weight": torch.zeros(1000, 32)}, "head.weight has the shape (1000, 32), and the model's is (10, 32)"),
    (_cut, "fc_norm.bias is missing"),
    (lambda c: c | {"head_dist.bias": torch.zeros(10)}, "head_dist.bias is no part of the model"),
    (lambda c: c | {"head.bias": torch.full((10,), torch.nan)}, "head.bias holds values that are not finite"),
    (lambda c: {"state_dict": {**c, "head.bias": 3}}, "head.bias is missing"),
    (lambda c: [1, 2], "it should be safetensors or a checkpoint of torch that holds tensors alone"),
    (lambda c: {"model": FILE}, "it should be safetensors or a checkpoint of torch that holds tensors alone"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said[:20] for _, said in REFUSED])
def test_a_file_that_does_not_fit_is_one_line_and_changes_nothing(
    here: params.Params, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], said: str
) -> None:
    torch.save(change(load_file(FILE)), tmp_path / "weights.pt")
    before = {path: path.stat().st_mtime_ns for path in TEACHER.files.root.glob("*")}
    with pytest.raises(UserError) as error:
        run_teacher(TEACHER, teacher(here, tmp_path / "weights.pt"))
    assert said in str(error.value) and str(tmp_path / "weights.pt") in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in TEACHER.files.root.glob("*")} == before


def test_a_checkpoint_of_torch_will_do_as_timms_script_and_others_write_it(here: params.Params, tmp_path: Path) -> None:
    content = load_file(FILE)
    torch.save({"model": {f"module.{name}": value for name, value in content.items()}, "epoch": 3}, tmp_path / "a.pth")
    run_teacher(TEACHER, teacher(here, tmp_path / "a.pth"))
    published = load_file(TEACHER.files.model)
    assert all(torch.equal(content[name], published[name]) for name in content)


def test_a_file_that_is_not_there_is_one_line(here: params.Params) -> None:
    with pytest.raises(
        UserError, match=r"weights/none\.pt is no file; teacher\.pretrained in params\.yaml should be true"
    ):
        run_teacher(TEACHER, teacher(here, Path("weights/none.pt")))


def test_offline_is_one_line_that_says_which_file_would_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub itself is not tried here: no test may depend on it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        weights_file("deit_tiny_distilled_patch16_224", given=True)
    assert str(error.value).startswith(
        "timm/deit_tiny_distilled_patch16_224.fb_in1k/model.safetensors cannot be fetched"
    )
    assert "bring that file, https://huggingface.co/timm/deit_tiny_distilled_patch16_224.fb_in1k/resolve/main/" in str(
        error.value
    )
    assert str(error.value).isprintable()


def test_what_the_hub_gives_is_loaded_as_a_file_is(
    here: params.Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in gives the file; timm's weights of this name take images that are normalised by 0.5, which is told."""
    asked: list[tuple[str, str]] = []

    def given(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(FILE)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", given)
    run_teacher(TEACHER, teacher(here, given=True))
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors")]
    info = json.loads(TEACHER.files.info.read_text())
    assert info["pretrained"] == {"name": "/".join(asked[0]), "sha256": file_digest(FILE)}
    assert info["digests"]["inputs"].keys() == {"results/digits/data/manifest.json"}
