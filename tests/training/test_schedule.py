"""Learning rates over all steps of a phase, in steps and in epochs, beside those of timm's own training script."""

from argparse import Namespace

import pytest
import torch
from timm.scheduler import create_scheduler
from torch import nn

from ofq.config import params
from ofq.config.recipes import TrainingRecipe
from ofq.training.optim import make_optimizer, make_schedule
from tests.conftest import ROOT

EPOCH = 3  # steps


def rates(phase: TrainingRecipe) -> list[float]:
    optimizer = make_optimizer(nn.Linear(2, 2), phase)
    schedule = make_schedule(optimizer, phase)
    found = []
    for step in range(phase.length):
        schedule.step_update(step // phase.unit)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("name", ["deit", "deit-mixed"])
def test_a_recipe_of_the_paper_has_the_rates_of_timms_script_at_every_step(name: str) -> None:
    """The script calls ``step(epoch + 1)`` after each epoch; ``epochs`` there leaves out the cooldown."""
    qat = params.load(ROOT / "params.yaml").recipes[name].qat
    phase = qat.for_images(EPOCH * qat.batch_size + 1)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=qat.lr)
    arguments = Namespace(
        sched="cosine",
        epochs=300,
        cooldown_epochs=10,
        min_lr=1e-5,
        warmup_lr=1e-6,
        warmup_epochs=qat.warmup_epochs,
        decay_rate=0.1,
        patience_epochs=10,
        decay_epochs=100,
    )
    schedule, epochs = create_scheduler(arguments, optimizer)
    expected = []
    for epoch in range(epochs):
        expected += [optimizer.param_groups[0]["lr"]] * EPOCH
        schedule.step(epoch + 1)
    assert rates(phase) == expected and len(expected) == phase.length == 310 * EPOCH
    assert expected[-10 * EPOCH :] == [1e-5] * 10 * EPOCH and max(expected) < qat.lr * (1 + 1e-12)


def test_epochs_become_steps_where_the_images_are_counted() -> None:
    phase = TrainingRecipe(lr=1e-2, min_lr=1e-3, batch_size=10, epochs=6, warmup_epochs=2, evaluate_every=2)
    counted = phase.for_images(39)
    assert (counted.length, counted.unit, counted.interval) == (18, 3, 6)
    assert counted.for_images(1000) == counted.model_copy(update={"steps": 600})
    with pytest.raises(AssertionError):
        phase.length  # noqa: B018
    in_steps = TrainingRecipe(lr=1e-2, min_lr=1e-3, batch_size=10, steps=50)
    assert in_steps.for_images(39) is in_steps and (in_steps.unit, in_steps.interval) == (1, 4)
    held = phase.held(1e-3, None, 4).for_images(39)
    assert rates(held) == [1e-3] * 12 and held.interval == 6


def test_a_warm_up_rises_from_the_rate_that_the_recipe_names() -> None:
    phase = TrainingRecipe(lr=1e-2, min_lr=1e-3, batch_size=10, steps=10, warmup=0.5)
    assert rates(phase)[0] == 1e-6 and "warmup_lr" not in phase.model_dump()
    other = phase.model_copy(update={"warmup_lr": 2e-3})
    assert rates(other)[0] == 2e-3 and rates(other)[5:] == rates(phase)[5:]
