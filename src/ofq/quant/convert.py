"""Turn a timm vision transformer into a quantized one."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.quant.modules.attention import QKRAttention, QuantAttention
from ofq.quant.modules.layers import QuantConv2d, QuantLinear
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer, MovedLSQQuantizer
from ofq.quant.quantizers.statsq import StatsQuantizer

Q = TypeVar("Q", bound=Quantizer)

_SUPPORTED = "quantize_model supports timm's VisionTransformer and VisionTransformerDistilled (and modules made of "
_SUPPORTED += "their PatchEmbed, Attention and Mlp)"


def quantize_model(model: nn.Module, config: QuantConfig) -> nn.Module:
    """Quantize a timm vision transformer in place.

    Patch embedding, attention, MLP and heads are found by their type. Weights and biases stay the same parameters
    under timm's names. With query-key reparameterization ``attn.qkv.*`` becomes ``attn.q.weight``, ``attn.k.weight``
    and ``attn.v.*``, with the values of its rows; the biases of q and k are dropped, as in the paper's formula. Norms,
    position embeddings and tokens are left alone.

    Args:
        model: timm's ``VisionTransformer`` or ``VisionTransformerDistilled``.
        config: what to quantize to.

    Returns:
        The same object. Call :func:`ofq.quant.calibrate` before the first forward pass.

    Raises:
        ValueError: the model is quantized already, has no attention of a supported kind, or uses an option that is
            not supported (named in the message). The model is then unchanged.

    Source: tests/golden/README.md sections 4, 5 and 9.
    """
    try:
        from timm.layers import Attention, Mlp, PatchEmbed  # here, because timm takes seconds to import
        from timm.models import VisionTransformer
    except ImportError:
        raise ValueError(f"{_SUPPORTED}; timm is not installed") from None

    _check(model)
    build = _Builder(config)
    # A module that stands in several places is converted once.
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Attention:
                convert: Callable[[Any], nn.Module] = build.qkr_attention if config.qkr else build.attention
                if child not in replaced:
                    replaced[child] = convert(child).train(child.training)
                setattr(parent, name, replaced[child])
        if type(parent) is Mlp:
            rectified = _is_rectifying(parent.act) and isinstance(parent.norm, nn.Identity)
            for name, signed in (("fc1", True), ("fc2", not rectified)):
                layer: Any = getattr(parent, name)
                setattr(parent, name, build.linear(layer, signed=signed))
        elif isinstance(parent, PatchEmbed):
            parent.proj = build.patch_embedding(parent.proj, image_size=parent.img_size)
        elif isinstance(parent, VisionTransformer):
            for name in ("head", "head_dist"):
                head = getattr(parent, name, None)
                if isinstance(head, nn.Linear):
                    setattr(parent, name, build.head(head))
    return model


class _Builder:
    """Maker of the quantized counterpart of each timm module."""

    def __init__(self, config: QuantConfig) -> None:
        self.config = config

    def weight_quantizer(self) -> Quantizer:
        config = self.config
        if config.weight == "statsq":
            return StatsQuantizer(config.weight_bits)
        return LSQQuantizer(
            config.weight_bits,
            axis=0,
            grid="integer" if config.weight == "lsq" else "midrise",
            learned=config.learn_step,
            clipped_gradient=config.clipped_gradient,
        )

    def linear(self, source: nn.Linear, *, signed: bool = True) -> QuantLinear:
        quantizer = MovedLSQQuantizer(self.config.input_bits, (source.in_features,), signed=signed, axis=-2)
        return QuantLinear.from_linear(source, weight_quantizer=self.weight_quantizer(), input_quantizer=quantizer)

    def head(self, source: nn.Linear) -> QuantLinear:
        bits = self.config.edge_bits
        return QuantLinear.from_linear(
            source,
            weight_quantizer=LSQQuantizer(bits, axis=0),
            input_quantizer=MovedLSQQuantizer(bits, (source.in_features,), axis=None),
        )

    def patch_embedding(self, source: nn.Conv2d, *, image_size: tuple[int, int]) -> QuantConv2d:
        bits = self.config.edge_bits
        return QuantConv2d.from_conv(
            source,
            weight_quantizer=LSQQuantizer(bits, axis=0),
            input_quantizer=MovedLSQQuantizer(bits, image_size, signed="detect", axis=1),
        )

    def attention(self, source: Any) -> QuantAttention:
        bits, width = self.config.input_bits, source.qkv.out_features // 3
        return QuantAttention(
            heads=source.num_heads,
            qkv=self.linear(source.qkv),
            proj=self.linear(source.proj),
            qk_quantizer=self._place(
                MovedLSQQuantizer(
                    bits,
                    (2, width),
                    axis=(-3, -2),
                    # Only the query has an "after" bias: softmax cancels that of a key, and AdamW would turn the
                    # rounding noise in its gradient into a random walk.
                    after_rows=2 if self.config.dead_biases else 1,
                ),
                source,
            ),
            v_quantizer=self._place(MovedLSQQuantizer(bits, (width,), axis=-1), source),
            probability_quantizer=self._place(LSQQuantizer(bits, signed=False, axis=-2), source),
            attn_drop=source.attn_drop.p,
            proj_drop=source.proj_drop.p,
        )

    def qkr_attention(self, source: Any) -> QKRAttention:
        bits, heads = self.config.input_bits, source.num_heads
        channels, width = source.qkv.in_features, source.qkv.out_features // 3
        q, k, v = (_rows(source.qkv, part * width, width, bias=part == 2) for part in range(3))
        return QKRAttention(
            heads=heads,
            q=q,
            k=k,
            v=QuantLinear.from_linear(v, weight_quantizer=self.weight_quantizer(), input_quantizer=None),
            proj=self.linear(source.proj),
            input_quantizer=self._place(MovedLSQQuantizer(bits, (channels,), axis=-2), source),
            weight_quantizer=self._place(self.weight_quantizer(), source),
            product_quantizer=self._place(
                MovedLSQQuantizer(
                    bits,
                    (heads, channels),
                    axis=(-3, -2),
                    # An "after" bias of u adds the same number to every key's score, which softmax cancels.
                    after_rows=None if self.config.dead_biases else 0,
                ),
                source,
            ),
            v_quantizer=self._place(MovedLSQQuantizer(bits, (width,), axis=-1), source),
            probability_quantizer=self._place(LSQQuantizer(bits, signed=False, axis=-2), source),
            attn_drop=source.attn_drop.p,
            proj_drop=source.proj_drop.p,
        )

    def _place(self, quantizer: Q, source: Any) -> Q:
        """Move a quantizer to the device and dtype of the module that it becomes part of."""
        return quantizer.to(device=source.qkv.weight.device, dtype=source.qkv.weight.dtype)


def _rows(linear: nn.Linear, start: int, count: int, *, bias: bool) -> nn.Linear:
    """Copy output rows of a linear layer, weight (count, in_features), with their part of the bias if asked for."""
    part = nn.Linear(linear.in_features, count, bias=bias and linear.bias is not None, device="meta")
    rows = slice(start, start + count)
    part.weight = nn.Parameter(linear.weight.detach()[rows].clone(), requires_grad=linear.weight.requires_grad)
    if part.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[rows].clone(), requires_grad=linear.bias.requires_grad)
    return part.train(linear.training)


def _is_rectifying(activation: nn.Module) -> bool:
    """Return whether the activation's output is quantized unsigned: ReLU, and GELU, whose negative part is small."""
    from timm.layers import GELU, GELUTanh, QuickGELU

    return isinstance(activation, nn.ReLU | nn.ReLU6 | nn.GELU | GELU | GELUTanh | QuickGELU)


def _check(model: nn.Module) -> None:
    """Raise for what cannot be converted, before anything is changed."""
    from timm.layers import Attention, Mlp, PatchEmbed
    from timm.models import VisionTransformer

    modules = list(model.modules())
    if any(isinstance(module, QuantLinear | QuantConv2d | Quantizer) for module in modules):
        raise ValueError("the model is quantized already")
    if type(model) is Attention or not any(type(module) is Attention for module in modules):
        raise ValueError(f"{_SUPPORTED}; {type(model).__name__} has no attention that it can replace")
    for module in modules:
        if type(module) is Attention:
            for option, names in {"qk_norm": ("q_norm", "k_norm"), "scale_norm": ("norm",), "gated": ("gate",)}.items():
                if not all(isinstance(getattr(module, name, None), nn.Identity | None) for name in names):
                    raise ValueError(f"attention with {option} is not supported")
        elif type(module) is Mlp and not isinstance(module.fc1, nn.Linear):
            raise ValueError("an Mlp with use_conv is not supported")
        elif isinstance(module, PatchEmbed) and (module.img_size is None or module.dynamic_img_pad):
            raise ValueError("PatchEmbed without a fixed img_size is not supported: its move biases have that size")
        elif isinstance(module, VisionTransformer):
            _check_transformer(module)


def _check_transformer(model: Any) -> None:
    from timm.layers import Attention, Mlp

    # Learned steps belong to token positions, so every forward pass must have all positions.
    if model.dynamic_img_size:
        raise ValueError("dynamic_img_size is not supported: learned steps belong to token positions")
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("patch_drop_rate is not supported: learned steps belong to token positions")
    if model.attn_pool is not None:
        raise ValueError("attention pooling (global_pool='map' or 'prr') is not supported")
    replaced = {
        child for parent in model.blocks.modules() if type(parent) in (Attention, Mlp) for child in parent.modules()
    }
    for name, module in model.blocks.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module not in replaced:
            raise ValueError(f"blocks.{name} would stay in full precision: only Attention and Mlp can be quantized")
