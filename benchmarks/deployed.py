"""How long layers of a DeiT-T take when they multiply int8 codes, and when they multiply the same values as floats.

python -m benchmarks.deployed
python -m benchmarks.deployed --rounds 40

A layer has 2-bit codes (StatsQ) and rounds its input to 2 bits; the tokens are those of 8 images. `plain`: torch's
linear layer in float32, without any rounding. Columns: milliseconds by call, its ratio to `plain`, and that ratio of
process times. On a processor without int8 instructions `int8` and `floats` are the same way of computing.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.rounds import conditions, interleaved, table
from ofq.export.deploy import deployed
from ofq.quant import calibrate
from ofq.quant.kernels import choose
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.lsq import MovedLSQQuantizer
from ofq.quant.quantizers.statsq import StatsQuantizer

TOKENS, IMAGES = 198, 8
LAYERS = {"qkv": (192, 576), "proj": (192, 192), "fc1": (192, 768), "fc2": (768, 192)}


def made(inputs: int, outputs: int) -> tuple[nn.Linear, nn.Module, Tensor]:
    """Return a linear layer, its deployed counterpart, and an input."""
    torch.manual_seed(0)
    plain, x = nn.Linear(inputs, outputs), torch.randn(IMAGES, TOKENS, inputs)
    quantizer = MovedLSQQuantizer(2, (inputs,), axis=-2)
    layer = QuantLinear.from_linear(plain, weight_quantizer=StatsQuantizer(2), input_quantizer=quantizer)
    calibrate(layer, x)
    return nn.Linear(inputs, outputs).eval(), deployed(layer), x


def with_floats(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call as a processor without int8 instructions makes it."""

    def called() -> object:
        usual = choose._multiplies_integers
        choose._multiplies_integers = lambda: False
        try:
            return call()
        finally:
            choose._multiplies_integers = usual

    return called


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(conditions())
    with torch.no_grad():
        for name, sizes in LAYERS.items():
            plain, layer, x = made(*sizes)
            runs: dict[str, Callable[[], object]] = {
                "plain": lambda plain=plain, x=x: plain(x),
                "int8": lambda layer=layer, x=x: layer(x),
                "floats": with_floats(lambda layer=layer, x=x: layer(x)),
            }
            print(f"\n{name} {sizes[0]} x {sizes[1]}")
            print(table(interleaved(runs, rounds=arguments.rounds), base="plain"))


if __name__ == "__main__":
    main()
