"""Convolutional networks made of timm's inverted residuals or of its ResNet blocks."""

from typing import Any, NamedTuple

from torch import nn

from ofq.config.quant_config import FLOAT, QuantConfig
from ofq.quant.families.base import BlockWeight, Family, Replacements, weight_quantizer
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear, check_plain
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.runs.registry import register

EDGES = ("stem", "classifier")
"""Groups of the first and the last layer, which are not low-bit."""


class _Use(NamedTuple):
    """A layer with a weight, where it is used.

    Attributes:
        name: in the model.
        parent: the module whose child it is.
        child: its name there.
        layer: a convolution or the classifier.
        group: of :class:`ConvolutionalNetworks`.
        block: number of the residual block, that of the next one between blocks.
        nonnegative: whether its input has no negative value.
    """

    name: str
    parent: nn.Module
    child: str
    layer: Any
    group: str
    block: int
    nonnegative: bool


@register(
    "cnn",
    models=[
        # timm's EfficientNet
        "efficientnet_*", "efficientnetv2_*", "gc_efficientnet*", "tf_efficientnet*", "test_efficientnet*", "tinynet_*",
        "mobilenetv1_*", "mobilenetv2_*", "mobilenet_edgetpu_*", "mixnet_*", "tf_mixnet_*", "mnasnet_*", "semnasnet_*",
        "spnasnet_*", "fbnetc_*",
        # MobileNetV3
        "mobilenetv3_*", "tf_mobilenetv3_*", "mobilenetv4_*", "fbnetv3_*", "lcnet_*",
        # ResNet
        "resnet*", "resnext*", "ecaresne*", "seresne*", "senet154", "test_resnet", "wide_resnet*",
    ],
)  # fmt: skip
class ConvolutionalNetworks(Family):
    """timm's ``EfficientNet`` (MobileNetV2, EfficientNet-lite), ``MobileNetV3`` and ``ResNet``, plain or quantized.

    Groups of low-bit weights are ``depthwise`` (an input channel each), ``pointwise`` (1x1), ``se`` (the two of a
    squeeze-and-excitation) and ``conv`` (others). As in Nagel et al. the stem has ``edge_bits`` for its weight and a
    float image, the classifier ``edge_bits`` for both. Batch norms stay as they are, unfolded, and sums of residuals
    stay float.

    The input of each layer has one learned step, unsigned where it comes from what has no negative values (ReLU, ReLU6,
    a gate, sums of such), else signed: after a batch norm alone, h-swish or SiLU.

    The weights of the edges have LSQ, under ``weight: nagel`` its quantizer; ``weight_axis`` is theirs too.

    Source: Nagel et al. 2022, section 5.1 and the setup ``LSQ_paper`` of its released code.
    """

    supported = "timm's EfficientNet, MobileNetV3 and ResNet of inverted residuals and residual blocks"

    def fits(self, model: nn.Module) -> bool:
        """Return whether a model is of one of the three classes."""
        from timm.models import efficientnet, mobilenetv3, resnet  # here, because timm takes seconds to import

        return type(model) in (efficientnet.EfficientNet, mobilenetv3.MobileNetV3, resnet.ResNet)

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for what cannot be converted, before anything is changed."""
        from timm.layers import Conv2dSame, Linear

        for use in _Walk(model).uses:
            same = type(use.layer) is Conv2dSame
            plain = nn.Linear if use.group == "classifier" else nn.Conv2d
            kind = Conv2dSame if same else Linear if type(use.layer) is Linear else plain
            check_plain(use.name, use.layer, kind)

    def convert(self, model: nn.Module, config: QuantConfig) -> Replacements:
        """Make the quantized layers that take the place of a checked model's, which stays as it is.

        Raises:
            ValueError: query-key reparameterization is asked for.
        """
        if config.qkr:
            raise ValueError("qkr reparameterizes queries and keys, and a convolutional network has none")
        return {(use.parent, use.child): _quantized(use, config) for use in _Walk(model).uses}

    def low_bit_weights(self, model: nn.Module) -> list[BlockWeight]:
        """List every low-bit weight of a quantized model, in the order of their use."""
        return [
            BlockWeight(use.name, use.group, use.block, use.layer, slice(None))
            for use in _Walk(model).uses
            if use.group not in EDGES and getattr(use.layer, "weight_quantizer", None) is not None
        ]


class _Walk:
    """Way of an image through a network's layers: timm registers children in the order in which they are used.

    Args:
        model: of the family, plain or quantized.

    Attributes:
        uses: convolutions and the classifier in their order; layers inside of unknown modules are not found.
    """

    def __init__(self, model: nn.Module) -> None:
        from timm import layers
        from timm.models import _efficientnet_blocks as inverted
        from timm.models import resnet

        self._residuals = (
            *(inverted.ConvBnAct, inverted.DepthwiseSeparableConv, inverted.InvertedResidual, inverted.EdgeResidual),
            *(resnet.BasicBlock, resnet.Bottleneck),
        )
        self._gates = inverted.SqueezeExcite, layers.SEModule
        self._keeping = (
            *(nn.Identity, nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d),
            *(
                layers.DropPath,
                layers.DropBlock2d,
                layers.BlurPool2d,
                layers.AvgPool2dSame,
                layers.SelectAdaptivePool2d,
            ),
        )
        self._rectifying = nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, layers.Sigmoid, layers.HardSigmoid
        self.uses: list[_Use] = []
        self._block = 0
        self._nonnegative = False
        for name, child in model.named_children():
            self._enter(name, model, name, child)

    def _enter(self, path: str, parent: nn.Module, name: str, module: Any) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            group = "stem" if not self.uses else "classifier" if isinstance(module, nn.Linear) else self._group(module)
            self.uses.append(_Use(path, parent, name, module, group, self._block, self._nonnegative))
            self._nonnegative = False
        elif type(module) in self._residuals:
            self._residual(path, module)
        elif type(module) in self._gates:
            before, count = self._nonnegative, len(self.uses)
            self._children(path, module)
            self.uses[count:] = [use._replace(group="se") for use in self.uses[count:]]
            self._nonnegative = before  # what is multiplied by a gate between 0 and 1 keeps its sign
        elif type(module) is nn.Sequential:
            self._children(path, module)
        elif not isinstance(module, self._keeping):
            activation = getattr(module, "act", module)  # a norm of timm's has its activation inside
            self._nonnegative = isinstance(activation, self._rectifying)

    def _children(self, path: str, module: nn.Module, without: str = "") -> None:
        for name, child in module.named_children():
            if name != without:
                self._enter(f"{path}.{name}", module, name, child)

    def _residual(self, path: str, block: Any) -> None:
        before = self._nonnegative
        self._children(path, block, without="downsample")
        after = self._nonnegative  # of a ResNet's block behind its last activation, which stands behind the sum
        if getattr(block, "downsample", None) is not None:
            self._nonnegative = before
            self._enter(f"{path}.downsample", block, "downsample", block.downsample)
        if hasattr(block, "has_skip"):
            after = after and (before or not block.has_skip)
        self._nonnegative = after
        self._block += 1

    @staticmethod
    def _group(conv: nn.Conv2d) -> str:
        if conv.groups == conv.in_channels > 1:
            return "depthwise"
        return "pointwise" if conv.kernel_size == (1, 1) else "conv"


def _quantized(use: _Use, config: QuantConfig) -> nn.Module:
    edge = use.group in EDGES
    bits = config.edge_bits if edge else config.input_bits
    image = None
    if config.input_bits != FLOAT and use.group != "stem":
        image = LSQQuantizer(bits, signed=not use.nonnegative, axis=None)
    weight: Quantizer
    if edge and config.weight != "nagel":
        weight = LSQQuantizer(bits, axis=0 if config.weight_axis == "channel" else None)
    else:
        weight = weight_quantizer(config, config.edge_bits if edge else None)
    if use.group == "classifier":
        return QuantLinear.from_linear(use.layer, weight_quantizer=weight, input_quantizer=image)
    return QuantConv2d.from_conv(use.layer, weight_quantizer=weight, input_quantizer=image)
