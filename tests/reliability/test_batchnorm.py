"""A network with batch norms: its running statistics are resumed, published and loaded to the bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ofq.config import params
from ofq.config.resolve import KEEPING, Keeping, resolve
from ofq.data import batches
from ofq.errors import UserError
from ofq.models.backbone import build
from ofq.models.batchnorm import batch_norms
from ofq.models.weights import load_weights
from ofq.runs.paths import Run
from ofq.training.distributed import Rank
from ofq.training.loop import evaluate
from ofq.training.teacher import run_teacher
from tests.reliability.conftest import EPOCH, STEPS, run_of, train
from tests.reliability.test_resume import check_killed, contents

MODEL = "mobilenet"
TEACHER = run_of("teacher", MODEL)


def edit(change: Any) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    change(content)
    Path("params.yaml").write_text(yaml.safe_dump(content))


def with_a_network(content: dict[str, Any]) -> None:
    content["models"][MODEL] = {"timm": "mobilenetv2_035"}
    content["studies"]["digits"]["models"].append(MODEL)


@pytest.fixture(scope="module")
def root(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data, and a finished teacher that has batch norms."""
    root = tmp_path_factory.mktemp("network") / "project"
    shutil.copytree(small_data, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        edit(with_a_network)
        train(TEACHER)
    return root


@pytest.fixture
def network(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


def rebuilt(run: Run) -> torch.nn.Module:
    config = resolve(params.load(), run)
    return build(config.model, image_size=(8, 8), channels=1, classes=10, seed=1)


def test_a_teacher_that_was_killed_ends_with_the_statistics_of_one_that_was_not(network: Path) -> None:
    statistics = load_file(TEACHER.files.model)["bn1.running_var"]
    assert not torch.equal(statistics, torch.ones_like(statistics))
    assert load_file(TEACHER.files.model)["bn1.num_batches_tracked"] == STEPS
    check_killed(TEACHER, 3, EPOCH + 1)


def test_what_is_published_evaluates_as_what_was_trained(network: Path) -> None:
    model = rebuilt(TEACHER)
    load_weights(model, TEACHER.files.model)
    assert len(batch_norms(model)) == 52
    top1, _ = evaluate(model, batches.load("digits"))
    assert f'"top1": {top1}' in contents(TEACHER)["metrics.json"].decode()


def test_a_file_without_statistics_is_refused(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(TEACHER.files.model).items() if k != "bn1.running_var"}, path)
    with pytest.raises(UserError, match=r"belongs to another model: bn1\.running_var does not match"):
        load_weights(rebuilt(TEACHER), path)


@pytest.mark.parametrize("absent", ["num_batches_tracked", "bn1.running_mean"])
def test_given_weights_may_lack_the_number_of_batches_alone(network: Path, tmp_path: Path, absent: str) -> None:
    content = load_file(TEACHER.files.model)
    path = tmp_path / "given.safetensors"
    save_file({name: value for name, value in content.items() if not name.endswith(absent)}, path)
    config = resolve(params.load(), TEACHER).model_copy(update={"train": None, "pretrained": str(path)})
    before = contents(TEACHER)
    if absent != "num_batches_tracked":
        with pytest.raises(UserError, match=r"does not fit mobilenetv2_035: bn1\.running_mean is missing"):
            run_teacher(TEACHER, config)
        assert contents(TEACHER) == before
        return
    run_teacher(TEACHER, config)
    found = load_file(TEACHER.files.model)
    assert all(torch.equal(found[name], value) for name, value in content.items() if not name.endswith(absent))
    train(TEACHER)
    assert contents(TEACHER) == before


@pytest.mark.parametrize(
    ("keeping", "rank", "told"),
    [
        (Keeping(images_at_once=16), Rank(), "leave out hardware.images_at_once"),
        (Keeping(devices=2), Rank(0, 2), "leave out hardware.devices"),
    ],
    ids=["parts", "devices"],
)
def test_batches_that_are_divided_are_refused_in_one_line(
    network: Path, keeping: Keeping, rank: Rank, told: str
) -> None:
    before = contents(TEACHER)
    with pytest.raises(UserError, match=f"mobilenetv2_035 has batch norms, which would see parts of a batch; {told}"):
        run_teacher(TEACHER, resolve(params.load(), TEACHER), keeping, rank)
    assert contents(TEACHER) == before
    train(TEACHER, KEEPING)
    assert contents(TEACHER) == before


def test_a_teacher_that_trains_while_it_teaches_is_refused(network: Path) -> None:
    run = run_of("statsq-qkr-released", MODEL)
    with pytest.raises(UserError, match=r"fidelity\.teacher_mode should be eval in params\.yaml"):
        train(run)
