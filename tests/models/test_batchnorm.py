"""Running statistics of batch norms are made anew, all of them or none, and nothing else is touched."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ofq.models.batchnorm import batch_norms, reestimate
from tests.quant.small import small_model


def network(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("mobilenetv2_035", in_chans=1, num_classes=5, drop_rate=0.5, **arguments)
    return model


def batches(count: int = 3, size: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 1, 16, 16, generator=generator) for _ in range(count)]


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_of_a_network_of_timm_running_statistics_alone_change() -> None:
    model = network().train()
    before, random = copied(model), torch.get_rng_state()
    norms = batch_norms(model)
    reestimate(model, batches())
    assert changed(model, before) == {f"{name}.running_{kind}" for name in norms for kind in ("mean", "var")}
    assert len(norms) == 52 and not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random), "dropout does not draw"
    first: Any = norms["bn1"]
    seen = torch.stack([model.conv_stem(batch) for batch in batches()])  # (batches, B, C, h, w)
    torch.testing.assert_close(first.running_mean, seen.mean((1, 3, 4)).mean(0), atol=1e-6, rtol=1e-5)
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in seen])
    torch.testing.assert_close(first.running_var, variances.mean(0), atol=1e-6, rtol=1e-5)


def test_what_the_old_statistics_were_does_not_matter() -> None:
    one, other = network(), network()
    for norm in batch_norms(other).values():
        nn.init.constant_(norm.running_mean, float("nan"))  # type: ignore[arg-type]
    for model in (one, other):
        reestimate(model, batches())
    assert changed(one, other.state_dict()) == set()


def test_a_model_without_batch_norms_is_left_alone() -> None:
    model = small_model().train()
    before = copied(model)
    reestimate(model, iter(()))
    assert changed(model, before) == set() and not batch_norms(model)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([], "there are no batches, or the forward pass does not reach bn1"),
        ([*batches(), torch.rand(1, 1, 16, 16)], "more than 1 value per channel"),
        ([*batches(), torch.rand(2, 3, 16, 16)], "channels"),
    ],
    ids=["none", "one image", "colours"],
)
def test_where_it_fails_nothing_changes(images: list[Tensor], told: str) -> None:
    model = network()
    before = copied(model)
    with pytest.raises((ValueError, RuntimeError), match=told):
        reestimate(model, images)
    assert changed(model, before) == set()
    assert {norm.momentum for norm in batch_norms(model).values()} == {0.1}


def test_a_batch_norm_that_no_image_reaches_is_named() -> None:
    model = network()
    model.aside = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="does not reach aside"):
        reestimate(model, batches())


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.SyncBatchNorm(16), "bn1 keeps running statistics in a SyncBatchNorm, which is not supported"),
        (timm.layers.FrozenBatchNormAct2d(16), "bn1 keeps running statistics in a FrozenBatchNormAct2d"),
        (nn.InstanceNorm2d(16, track_running_stats=True), "bn1 keeps running statistics in a InstanceNorm2d"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_layer_with_running_statistics_is_refused_by_name(layer: nn.Module, told: str) -> None:
    model: Any = network()
    model.bn1 = layer
    with pytest.raises(ValueError, match=told):
        reestimate(model, batches())


def test_a_norm_without_running_statistics_is_none_of_them() -> None:
    model: Any = network()
    model.bn1 = nn.BatchNorm2d(16, track_running_stats=False)
    assert "bn1" not in batch_norms(model)
    reestimate(model, batches())
