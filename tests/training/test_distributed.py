"""Several processes train what one process alone trains, but for rounding; the first of them does the paperwork."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
import yaml
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.functional import cross_entropy

from ofq.config import params
from ofq.data.prepare import prepare
from ofq.errors import Stopped
from ofq.runs.paths import Run
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import build_model
from ofq.training.loop import train
from ofq.training.optim import make_optimizer
from tests.conftest import ROOT, SMALL
from tests.training.jobs import job_of

RUN = Run("digits", "vit_micro", "fp", "teacher", 0)


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
    store = Path(f"store-{work.__name__}").resolve()
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
