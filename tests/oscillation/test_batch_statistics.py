"""What is recorded of running and re-estimated statistics, and that nothing of it stays in the model."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ofq.models.batchnorm import batch_norms, fed_by, reestimate
from ofq.oscillation.batch_statistics import Reestimation, gaussian_divergence

GROUPS = {"blocks.0.0.conv_dw": "depthwise", "blocks.0.0.conv_pw": "pointwise", "blocks.1.0.conv_dw": "depthwise"}


def network(name: str = "mobilenetv2_035") -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, in_chans=1, num_classes=5)


def images(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.rand(6, 1, 16, 16, generator=generator) for _ in range(3)]


def trained(model: nn.Module) -> nn.Module:
    """A model whose running statistics have seen other batches."""
    model.train()
    for image in images(7):
        model(image)
    return model


def hook_of(model: nn.Module, top1: Callable[[], float] = lambda: 12.5) -> Reestimation:
    return Reestimation(model, GROUPS, lambda step: reestimate(model, images(step)), top1)


def test_each_batch_norm_of_a_mobilenet_stands_behind_its_convolution() -> None:
    model = network()
    with fed_by(model) as found:
        model(images(0)[0])
    expected = {"bn1": "conv_stem", "bn2": "conv_head"}
    for name in batch_norms(model):
        if (block := name.rpartition(".")[0]) and block == "blocks.0.0":
            expected[name] = f"{block}.{ {'bn1': 'conv_dw', 'bn2': 'conv_pw'}[name[-3:]] }"
        elif block:
            expected[name] = f"{block}.{ {'bn1': 'conv_pw', 'bn2': 'conv_dw', 'bn3': 'conv_pwl'}[name[-3:]] }"
    assert found == expected and len(found) == 52
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_of_a_resnet_with_branches_too() -> None:
    model = network("resnet18")
    with fed_by(model) as found:
        model(images(0)[0])
    assert found["layer2.0.downsample.1"] == "layer2.0.downsample.0" and found["layer2.0.bn2"] == "layer2.0.conv2"
    assert len(found) == 20


def test_a_batch_norm_behind_a_sum_has_no_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
    with fed_by(model) as found:
        model(images(0)[0])
    assert found == {}
    hook = Reestimation(model, {}, lambda step: reestimate(model, images(step)), lambda: 0.0)
    assert set(hook.metrics()) >= {"bn/kl_other", "bn/dead_channels"} and hook.rows[0]["layer"] == "2"


def test_model_and_random_numbers_are_as_before_and_accuracy_is_that_of_new_statistics() -> None:
    model = trained(network())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, seen = torch.get_rng_state(), {}

    def top1() -> float:
        seen.update({name: value.clone() for name, value in model.state_dict().items()})
        return 12.5

    hook = hook_of(model, top1)
    for _ in range(4):
        hook.before_update(0.0)
    assert hook.metrics()["val/top1_reestimated"] == 12.5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    other = network()
    other.load_state_dict(before)
    reestimate(other, images(4))  # the batches of that step
    assert all(torch.equal(seen[name], value) for name, value in other.state_dict().items())
    assert not torch.equal(seen["bn1.running_mean"], before["bn1.running_mean"])


def test_after_an_error_the_model_is_as_before() -> None:
    model = trained(network())
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hook_of(model, fail).metrics()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rows_and_points_are_the_divergence_of_normal_distributions() -> None:
    model = trained(network())
    other = network()
    other.load_state_dict(model.state_dict())
    reestimate(other, images(0))
    hook = hook_of(model)
    points = hook.metrics()
    rows = {row["layer"]: row for row in hook.rows}
    assert len(rows) == 52
    means = {}
    for name, layer in (("blocks.0.0.bn1", "blocks.0.0.conv_dw"), ("blocks.1.0.bn2", "blocks.1.0.conv_dw")):
        e, p = (each.get_submodule(name) for each in (model, other))
        known = kl_divergence(
            Normal(p.running_mean.double(), p.running_var.double().sqrt()),
            Normal(e.running_mean.double(), e.running_var.double().sqrt()),
        )
        assert rows[layer]["kl_mean"] == pytest.approx(known.mean().item(), rel=1e-9)
        assert rows[layer]["kl_max"] == pytest.approx(known.max().item(), rel=1e-9)
        assert (rows[layer]["channels"], rows[layer]["group"], rows[layer]["dead"]) == (len(known), "depthwise", 0)
        means[layer] = (known.sum().item(), len(known), known.mean().item())
    total, count = (sum(each[i] for each in means.values()) for i in (0, 1))
    assert points["bn/kl_depthwise"] == pytest.approx(total / count)
    assert points["bn/kl_largest_depthwise"] == pytest.approx(max(each[2] for each in means.values()))
    assert rows["conv_stem"]["group"] == "stem"
    assert set(points) == {
        "val/top1_reestimated",
        "bn/dead_channels",
        *(f"bn/{kind}_{group}" for kind in ("kl", "kl_largest") for group in ("depthwise", "pointwise", "stem")),
    }


def test_dead_channels_are_counted_and_give_finite_numbers() -> None:
    model = network()
    with torch.no_grad():
        model.blocks[0][0].conv_dw.weight[:3] = 0
        model.blocks[0][0].conv_dw.weight[5, 0, 0] = 0  # not all of a channel
    trained(model)
    hook = hook_of(model)
    points = hook.metrics()
    row = next(row for row in hook.rows if row["layer"] == "blocks.0.0.conv_dw")
    assert row["dead"] == points["bn/dead_channels"] == 3
    assert all(torch.isfinite(torch.tensor(row[name])) for row in hook.rows for name in ("kl_mean", "kl_max"))


def test_a_channel_without_variance_counts_as_one_of_the_layers_eps() -> None:
    none, some = torch.tensor([[0.0, 0.0], [0.0, 1e-12]]), torch.tensor([[0.0, 0.0], [0.0, 2e-5]])
    assert gaussian_divergence(none, none, 1e-5).tolist() == [0.0, 0.0]
    same, doubled = gaussian_divergence(none, some, 1e-5).tolist()
    assert same == 0.0 and doubled == pytest.approx((2 - 1 - torch.log(torch.tensor(2.0)).item()) / 2, rel=1e-6)


def test_a_quantizer_decides_which_channels_are_dead() -> None:
    class Coarse(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.round()

    model = network()
    model.conv_stem.weight_quantizer = Coarse()
    with torch.no_grad():
        model.conv_stem.weight.fill_(0.4)
        model.conv_stem.weight[2:] = 0.6
    hook = hook_of(trained(model))
    hook.metrics()
    assert next(row["dead"] for row in hook.rows if row["layer"] == "conv_stem") == 2


def test_rows_join_a_record_and_are_resumed() -> None:
    hook, resumed = hook_of(trained(network())), hook_of(network())
    for steps in (2, 3):
        hook.steps = steps
        hook.metrics()
    resumed.load_state_dict(hook.state_dict())
    record = pd.DataFrame({"step": [0, 3, 3], "layer": ["blocks.0.0.conv_dw"] * 2 + ["blocks.9.conv"]})
    joined = resumed.joined(record)
    assert joined["kl_mean"].isna().tolist() == [True, False, True] and list(joined["step"]) == [0, 3, 3]
    last = [row for row in hook.rows if row["step"] == 3 and row["layer"] == "blocks.0.0.conv_dw"]
    assert joined["kl_mean"][1] == last[0]["kl_mean"] and resumed.steps == 3
