"""The golden fixtures on a card: the tests of tests/golden, layer by layer, with all tensors there.

Whole models are left out: a code of two bits that flips by chance in one layer changes what the next one gets.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ofq.quant import LSQQuantizer, StatsQuantizer
from ofq.quant.quantizers.rms import RMSQuantizer
from ofq.training.device import Device

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

import test_golden_layers as layers
import test_golden_quantizers as quantizers
import test_golden_remedies as remedies

test_linear, test_head, test_mlp = layers.test_linear, layers.test_head, layers.test_mlp
test_patch_convolution, test_attention = layers.test_patch_convolution, layers.test_attention
test_attention_in_windows, test_mlp_on_a_map = layers.test_attention_in_windows, layers.test_mlp_on_a_map
test_patch_merging = layers.test_patch_merging
test_statsq, test_rms = quantizers.test_statsq, quantizers.test_rms
test_lsq_weight, test_lsq_token = quantizers.test_lsq_weight, quantizers.test_lsq_token
test_lsq_channel, test_lsq_image = quantizers.test_lsq_channel, quantizers.test_lsq_image
test_lsq_convolution_weight = quantizers.test_lsq_convolution_weight
test_lsq_head_input = quantizers.test_lsq_head_input
test_freezing, test_dampening_loss = remedies.test_freezing, remedies.test_dampening_loss
test_freezing_under_a_falling_threshold = remedies.test_freezing_under_a_falling_threshold


@pytest.fixture(autouse=True)
def on_the_card() -> Iterator[None]:
    """What a test makes, it makes on the card, where products are float32 and sums have one order."""
    with Device("cuda").begun(), torch.device("cuda"):
        yield


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["lsq", "statsq", "rms"])
def test_codes_and_values_are_those_of_the_processor(kind: str, bits: int) -> None:
    generator = torch.Generator("cpu").manual_seed(bits)
    # Whole numbers of sixteenths: means, and so the steps, are exact in any order.
    weight = torch.randint(-64, 65, (32, 256), generator=generator, device="cpu") / 16
    found = []
    for where in ("cpu", "cuda"):
        with torch.device(where):
            if kind == "lsq":
                quantizer = LSQQuantizer(bits, axis=0)
                quantizer.scale = torch.nn.Parameter(torch.linspace(0.1, 2, 32, device="cpu").to(where))
            else:
                quantizer = StatsQuantizer(bits) if kind == "statsq" else RMSQuantizer(bits)
            rounded = quantizer.rounded(weight.to(where))
            found.append([rounded.codes.cpu(), rounded.values.detach().cpu()])
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-6)
