"""The teacher's output, computed once for all students: what it is, and what it may differ by."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ofq.cli import main as cli
from ofq.config import params
from ofq.config.resolve import resolve
from ofq.training.student import load_teacher, loss_from, make_student
from tests.reliability.conftest import run_of, train
from tests.training.jobs import job_of

RUN = run_of("statsq")


def test_the_stored_output_is_the_one_of_a_forward_pass_but_for_rounding(here: Path) -> None:
    stored = load_file(RUN.teacher.files.logits)["train"]
    differences = []
    with job_of(RUN) as job, torch.no_grad():
        teacher = load_teacher(job)
        for step in range(10):
            batch = job.batch(step)
            differences.append((teacher(batch.images) - stored[batch.indices]).abs().max().item())
    assert max(differences) < 1e-6, "another batch size may sum in another order"


def test_the_loss_is_the_same_whether_the_output_is_stored_or_not(here: Path) -> None:
    stored = resolve(params.load(), RUN)
    live = stored.model_copy(update={"teacher_once": False})
    losses = []
    for config in (stored, live):
        with job_of(RUN, config) as job:
            losses.append(loss_from(job, load_teacher(job))(job.batch(0)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_study_may_ask_the_teacher_at_every_step(here: Path) -> None:
    before = RUN.files.model.read_bytes()
    path = Path("params.yaml")
    text = path.read_text()
    content = yaml.safe_load(text)
    content["recipes"]["digits"]["teacher_once"] = False
    path.write_text(yaml.safe_dump(content))
    try:
        train(RUN)
        other = load_file(RUN.files.model)
    finally:
        path.write_text(text)
    train(RUN)
    assert RUN.files.model.read_bytes() == before
    stored = load_file(RUN.files.model)
    assert max((stored[name] - other[name]).abs().max().item() for name in stored) < 0.02


@pytest.mark.parametrize("damage", ["missing", "damaged", "other images", "no such array"])
def test_an_output_that_does_not_fit_is_one_line(here: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = RUN.teacher.files.logits
    content = path.read_bytes()
    try:
        match damage:
            case "missing":
                path.unlink()
            case "damaged":
                path.write_bytes(content[:-10])
            case "other images":
                save_file({"train": torch.zeros(5, 10)}, path)
            case _:
                save_file({"eval": torch.zeros(5, 10)}, path)
        assert cli.main(["qat", str(RUN)]) == 2
    finally:
        path.write_bytes(content)
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1


def test_the_teacher_does_not_learn(here: Path) -> None:
    config = resolve(params.load(), RUN).model_copy(update={"teacher_once": False})
    with job_of(RUN, config) as job:
        assert all(not parameter.requires_grad for parameter in load_teacher(job).parameters())
        assert all(parameter.requires_grad for parameter in make_student(job).parameters())
