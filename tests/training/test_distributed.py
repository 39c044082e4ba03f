"""Several processes train what one process alone trains, but for rounding; the first of them does the paperwork."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
import yaml
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.functional import cross_entropy

from ofq.config import params
from ofq.config.resolve import KEEPING, Keeping, resolve
from ofq.data.prepare import prepare
from ofq.errors import Stopped, UserError
from ofq.models.backbone import build_model
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.calibration import calibrate
from ofq.quant.hook import Hook
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.runs.files import write_bytes
from ofq.runs.paths import Run
from ofq.training.distributed import ALONE, Rank
from ofq.training.loop import train
from ofq.training.optim import make_optimizer
from ofq.training.student import make_student
from tests.conftest import ROOT, SMALL
from tests.training.jobs import job_of

RUN = Run("digits", "vit_micro", "fp", "teacher", 0)
STEPS = 5


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = SMALL
    Path("params.yaml").write_text(yaml.safe_dump(content))
    prepare("digits", params.load().studies["digits"].data)
    return tmp_path


def in_two(work: Callable[[Rank], None]) -> None:
    """Do the work in two processes that gloo connects."""
    store = Path("store").resolve()
    store.unlink(missing_ok=True)
    torch.multiprocessing.start_processes(_process, (work, str(store)), nprocs=2, start_method="fork")


def _process(index: int, work: Callable[[Rank], None], store: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=2)
    work(Rank(index, 2))
    destroy_process_group()


def test_one_process_gives_back_what_it_got() -> None:
    value = torch.rand(3)
    assert ALONE.leads and ALONE.mean(value) is value and ALONE.agreed(15) == 15 and ALONE.agreed(0) == 0


def collective(rank: Rank) -> None:
    assert rank.leads == (rank.index == 0)
    given = torch.tensor([1.0, 3.0]) * (1 + 2 * rank.index)
    assert rank.mean(given).tolist() == [2.0, 6.0] and given[0] == 1 + 2 * rank.index
    assert rank.agreed(15 * rank.index) == 15 and rank.agreed(0) == 0


def test_two_processes_take_means_and_agree(here: Path) -> None:
    in_two(collective)


def trained(rank: Rank = ALONE) -> None:
    """Train, and write what this process has in the end."""
    with job_of(RUN, rank=rank) as job:
        model = build_model(job.config, job.data)
        optimizer = make_optimizer(model, job.config.train)
        train(job, model, optimizer, lambda batch: cross_entropy(model(batch.images), batch.labels))
        torch.save(model.state_dict(), f"{rank.index}-of-{rank.count}.pt")
        if rank.leads:
            Path(f"{rank.count}.json").write_text(json.dumps(job.events.events("step")))
            assert len(list(job.state.directory.glob("checkpoint-*.pt"))) == 1
            (job.state.directory / "checkpoint-000000024.pt").unlink()


def test_two_processes_train_what_one_trains(here: Path) -> None:
    trained()
    in_two(trained)
    alone, first, second = (torch.load(f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=1e-4, rtol=1e-3)
    events, shared = (json.loads(Path(f"{count}.json").read_text()) for count in (1, 2))
    assert [event["step"] for event in shared] == [event["step"] for event in events]
    for one, other in zip(events, shared, strict=True):
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
        assert other["val/loss"] == pytest.approx(one["val/loss"], rel=1e-4)
        assert other["val/top1"] == pytest.approx(one["val/top1"], abs=0.2), "one of 597 images"


def stopped(rank: Rank) -> None:
    with job_of(RUN, rank=rank) as job:
        model = build_model(job.config, job.data)

        def loss_of(batch: object) -> torch.Tensor:
            if not rank.leads:
                os.kill(os.getpid(), signal.SIGTERM)
            return cross_entropy(model(batch.images), batch.labels)

        with pytest.raises(Stopped, match="stopped by SIGTERM after step 1"):
            train(job, model, make_optimizer(model, job.config.train), loss_of)


def test_what_one_process_is_told_all_do_and_the_first_saves(here: Path) -> None:
    in_two(stopped)
    (saved,) = Path("runs").rglob("checkpoint-*.pt")
    assert saved.name == "checkpoint-000000001.pt"


class Watch(Hook):
    """Keeps what the optimizer is given at the first step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.gradients: dict[str, Tensor] = {}

    def before_update(self, lr: float) -> None:
        parameters = self.model.named_parameters()
        self.gradients = self.gradients or {
            name: each.grad.clone() for name, each in parameters if each.grad is not None
        }


def quantized(variant: str, keeping: Keeping, name: str, rank: Rank = ALONE) -> None:
    """Train a student on the labels for five steps, and write what this process has."""
    run = Run("digits", "vit_micro", "w2a2", variant, 0)
    config = resolve(params.load(), run)
    recipe = config.train.model_copy(update={"steps": STEPS, "constant_steps": 0, "evaluations": STEPS})
    with job_of(run, config.model_copy(update={"train": recipe}), rank, keeping) as job:
        model = make_student(job)
        calibrate(model, [job.data.train(job.seed, step, recipe.batch_size).images for step in range(2)])
        with torch.no_grad():
            model.head.bias += rank.index  # as if a process had begun with other numbers
        recorder, watch = OscillationRecorder(model), Watch(model)
        optimizer = make_optimizer(model, recipe)
        train(job, model, optimizer, lambda batch: cross_entropy(model(batch.images), batch.labels), [recorder, watch])
        torch.save(
            {
                "gradients": watch.gradients,
                "model": model.state_dict(),
                "meter": recorder.meter.state_dict(),
                "losses": [event["train/loss"] for event in job.events.events("step")],
            },
            f"{name}-{rank.index}.pt",
        )


@pytest.mark.parametrize("variant", ["lsq", "statsq-qkr"])
def test_students_of_two_processes_and_of_parts_of_a_batch_are_those_of_one(here: Path, variant: str) -> None:
    with job_of(RUN) as job:
        write_bytes(RUN.files.model, save(build_model(job.config, job.data).state_dict()))
    quantized(variant, KEEPING, "whole")
    shutil.rmtree("runs")
    quantized(variant, replace(KEEPING, images_at_once=30), "parts")  # four parts of 16
    shutil.rmtree("runs")
    in_two(partial(quantized, variant, replace(KEEPING, images_at_once=31), "ranks"))  # two parts of 16 each
    alone, parts, first, second = (torch.load(f"{name}.pt") for name in ("whole-0", "parts-0", "ranks-0", "ranks-1"))
    for kind in ("gradients", "model", "meter"):
        assert all(torch.equal(value, second[kind][name]) for name, value in first[kind].items()), kind
    scales = [value.abs().max() for name, value in alone["gradients"].items() if name.endswith("scale")]
    assert max(scales) > 1e-3, "another M would be seen"
    for other in (parts, first):
        assert other["losses"][0] == pytest.approx(alone["losses"][0], abs=1e-5)
        assert other["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(other["gradients"][name], gradient, atol=1e-5, rtol=1e-5, msg=name)
        assert other["losses"] == pytest.approx(alone["losses"], rel=1e-3)
        for name, value in alone["model"].items():
            torch.testing.assert_close(other["model"][name], value, atol=1e-3, rtol=1e-2, msg=name)


def differing(rank: Rank) -> None:
    model = nn.ModuleList([nn.Linear(2, 2), LSQQuantizer(8, signed="detect"), nn.Linear(2, 2)])
    model[1].negative_seen += rank.index
    rank.share(model)
    rank.check(model, "run")
    assert model[1].negative_seen == 0, "those of the first"
    model[1].negative_seen += rank.index
    model[0].weight.grad = torch.full((2, 2), 1.0 + rank.index)
    loss = torch.tensor(4.0 * rank.index)
    assert rank.combine(model, loss) == 2.0 and loss == 4.0 * rank.index
    assert (model[0].weight.grad == 1.5).all() and model[0].bias.grad is None
    assert model[1].negative_seen == 1, "what one has seen all know"
    rank.seed(0, 1)
    drawn = torch.rand(3)
    assert rank.total(drawn.sum().item()) != pytest.approx(2 * drawn.sum().item()), "each draws its own"
    rank.seed(0, 1)
    assert torch.equal(torch.rand(3), drawn)
    with torch.no_grad():
        model[2].bias += 1e-6 * rank.index
    with pytest.raises(UserError, match="run: the weights of its 2 processes differ; a class of your own that draws"):
        rank.check(model, "run")


def test_what_processes_share_and_what_differs(here: Path) -> None:
    in_two(differing)
