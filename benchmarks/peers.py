"""The step beside those of other libraries' layers for quantization-aware training, on the same vision transformer.

python -m venv peers
peers/bin/python -m pip install --editable . -r benchmarks/requirements-peers.txt
peers/bin/python -m benchmarks.peers
peers/bin/python -m benchmarks.peers --size micro --rounds 40

torchao's and Brevitas' layers take the place of the linear layers of the blocks, with weights by output row and inputs
at the same bits. They leave attention, patch embedding and heads in full precision, which this project quantizes too,
so they have less to do. torchao's input steps are dynamic, one a token; Brevitas' are learned, one a layer.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.rounds import conditions, interleaved, table
from benchmarks.subjects import SIZES, Size, backbone, batch, subject
from ofq.training.losses import distillation_loss


def torchao_layer(linear: nn.Linear, bits: int) -> nn.Module:
    """torchao's fake-quantized linear layer in place of a plain one."""
    from torchao.quantization.qat import FakeQuantizedLinear, IntxFakeQuantizeConfig

    kind = getattr(torch, f"int{bits}")
    return FakeQuantizedLinear.from_linear(
        linear,
        activation_config=IntxFakeQuantizeConfig(kind, "per_token", is_symmetric=False),
        weight_config=IntxFakeQuantizeConfig(kind, "per_channel", is_symmetric=True),
    )


def brevitas_layer(linear: nn.Linear, bits: int) -> nn.Module:
    """Brevitas' quantized linear layer in place of a plain one."""
    import brevitas.nn
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    layer = brevitas.nn.QuantLinear(
        linear.in_features,
        linear.out_features,
        bias=True,
        weight_quant=Int8WeightPerChannelFloat,
        weight_bit_width=bits,
        input_quant=Int8ActPerTensorFloat,
        input_bit_width=bits,
    )
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer


def peer(size: Size, layer: Callable[[nn.Linear, int], nn.Module]) -> Callable[[], None]:
    """A training step with every linear layer of the blocks replaced."""
    model = backbone(size)
    for parent in list(model.get_submodule("blocks").modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, layer(child, size.bits))
    model.train()
    images, labels, teacher_logits = batch(size)
    model(images)  # what is made at the first pass becomes a parameter
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, fused=True)

    def step() -> None:
        loss = distillation_loss(model(images), teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Print all of them beside the full-precision step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    steps = {name: subject(size, name).step for name in ("fp", "lsq", "statsq")}
    steps |= {"torchao": peer(size, torchao_layer), "brevitas": peer(size, brevitas_layer)}
    print(f"{arguments.size}: {size}\n{conditions()}; {arguments.rounds} rounds", flush=True)
    print(table(interleaved(steps, rounds=arguments.rounds), base="fp"))


if __name__ == "__main__":
    main()
