"""Where a run computes: the processor gives back what it got, another device and precision take over where asked."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ofq.data.batches import Batch
from ofq.training.device import CPU, Device

BATCH = Batch(torch.arange(3), torch.rand(3, 4), torch.arange(3))


def test_the_processor_changes_nothing() -> None:
    model = nn.Linear(4, 2)
    weight = model.weight
    assert CPU.place(model) is model and model.weight is weight and CPU.name == "cpu"
    assert all(here is given for here, given in zip(CPU.move(BATCH), BATCH, strict=True))
    with CPU.forward():
        assert model(BATCH.images).dtype == torch.float32


def test_random_numbers_go_on_where_they_were() -> None:
    states = CPU.random_states()
    drawn = torch.rand(5)
    CPU.restore_random(states)
    assert list(states) == ["rng"] and torch.equal(torch.rand(5), drawn)


def test_a_lower_precision_is_that_of_the_forward_pass_alone() -> None:
    model = nn.Linear(4, 2)
    with Device(precision="bfloat16").forward():
        out = model(BATCH.images)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert model.weight.dtype == model.weight.grad.dtype == model(BATCH.images).dtype == torch.float32


def test_a_model_is_compiled_when_it_was_asked_for() -> None:
    assert nn.Linear(4, 2)._compiled_call_impl is None
    assert Device(compiled=True).place(nn.Linear(4, 2))._compiled_call_impl is not None
    assert CPU.place(nn.Linear(4, 2))._compiled_call_impl is None


def test_another_device_has_models_batches_and_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"state": torch.tensor(1)}
    module = SimpleNamespace(
        get_rng_state=lambda: given["state"],
        set_rng_state=lambda state: given.update(state=state),
        get_device_name=lambda: "Paper Tensor 9",
    )
    monkeypatch.setattr(torch, "get_device_module", {"meta": module}.__getitem__)
    device = Device("meta")
    assert device.place(nn.Linear(4, 2)).weight.is_meta and device.move(BATCH).images.is_meta
    assert device.name == "Paper Tensor 9"
    states = device.random_states()
    given["state"] = torch.tensor(2)
    device.restore_random(states)
    assert given["state"] == 1
    device.restore_random(CPU.random_states())
    assert given["state"] == 1, "a run that goes on elsewhere draws anew"
