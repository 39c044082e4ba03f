"""The running statistics of batch norms after their re-estimation, at full precision and at three bits."""

import pytest
import torch
from cases import Case, cases, close
from torch import Tensor, nn

from ofq.models.batchnorm import batch_norms, reestimate

BATCHES = [f"batch{number}" for number in range(8)]
LAYERS = range(3)
SHARED = r"param/.*|before/.*|batch\d"


def net(case: Case, bits: int | None) -> nn.Sequential:
    """The fixture's net: three convolutions without bias, the second by channel, each with its batch norm."""
    convolutions = [
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 5, 1, bias=False),
    ]
    layers: list[nn.Module] = []
    for i, convolution in enumerate(convolutions):
        w, norm = case[f"param/{i}/weight"], nn.BatchNorm2d(convolution.out_channels)
        if bits:
            half, delta = 2 ** (bits - 1), case[f"delta/{i}"]
            w = delta * torch.clamp((w / delta).round(), -half, half - 1)
        state = {"weight": case[f"param/{i}/gamma"], "bias": case[f"param/{i}/beta"]}
        state |= {name: case[f"before/{i}/{name}"] for name in ("running_mean", "running_var")}
        norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(7)})
        convolution.load_state_dict({"weight": w})
        layers += [convolution, norm, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def check(case: Case, batches: list[Tensor]) -> nn.Sequential:
    model = net(case, 3 if "quant3" in case.prefix else None)
    reestimate(model, batches)
    for i, norm in enumerate(batch_norms(model).values()):
        close(norm.running_mean, case[f"after/{i}/running_mean"], what=f"mean {i}")
        close(norm.running_var, case[f"after/{i}/running_var"], what=f"variance {i}")
        assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 7)
    assert not any(module.training for module in model.modules())
    return model


@pytest.mark.parametrize("case", cases("nagel", "bn/(?:float|quant3)", extra=SHARED), ids=str)
def test_statistics_and_outputs(case: Case) -> None:
    before = net(case, 3 if "quant3" in case.prefix else None).eval()
    first = case["batch0"]
    close(before(first), case["out_before"], what="before")
    close(check(case, [case[name] for name in BATCHES])(first), case["out_after"], what="after")


@pytest.mark.parametrize("case", cases("nagel", "bn/first3", extra=SHARED), ids=str)
def test_some_batches(case: Case) -> None:
    check(case, [case[name] for name in BATCHES[:3]])
