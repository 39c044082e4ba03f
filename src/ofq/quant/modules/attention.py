"""Quantized multi-head self-attention, and what it shares with query-key reparameterization."""

from typing import NamedTuple

from torch import Tensor, nn

from ofq.quant.kernels.attention import Context
from ofq.quant.kernels.choose import fused
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer


class AttentionQuantizers(NamedTuple):
    """Quantizers inside an attention, each optional.

    Attributes:
        qk: of queries and keys as one tensor (B, N, 2, A); under query-key reparameterization of u as (B, N, H, C).
        v: of the values (B, N, A).
        probability: of the probabilities (B, H, N, N).
    """

    qk: LSQQuantizer | None = None
    v: LSQQuantizer | None = None
    probability: LSQQuantizer | None = None


class Attention(nn.Module):
    """The part of attention after the scores: softmax, quantized probabilities, context, projection.

    Args:
        heads: number of heads H; the width A of the values is H*d.
        proj: the output projection (C, A).
        quantizers: of the values and of the probabilities.
        dropout: rates of the quantized probabilities and of the output.
    """

    def __init__(
        self, heads: int, proj: QuantLinear, quantizers: AttentionQuantizers, dropout: tuple[float, float]
    ) -> None:
        super().__init__()
        self.num_heads = heads
        self.v_quantizer = quantizers.v
        self.probability_quantizer = quantizers.probability
        self.attn_drop = nn.Dropout(dropout[0])
        self.proj = proj
        self.proj_drop = nn.Dropout(dropout[1])

    def context(self, scores: Tensor, v: Tensor) -> Tensor:
        """Map scores (B, H, N, N), queries by keys, and values (B, N, A) to the context of all heads (B, N, A)."""
        probabilities = scores.softmax(dim=-1)
        if self.probability_quantizer is not None:
            probabilities = self.probability_quantizer(probabilities)
        # After the quantizer, because dropout scales the probabilities and the levels are for unscaled ones.
        probabilities = self.attn_drop(probabilities)
        if self.v_quantizer is not None:
            v = self.v_quantizer(v)
        v = v.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, d)
        return (probabilities @ v).transpose(1, 2).flatten(2)  # (B, N, A)

    def output(self, context: Tensor) -> Tensor:
        """Map the context (B, N, A) to the output (B, N, C)."""
        out: Tensor = self.proj_drop(self.proj(context))
        return out

    def fused_context(self) -> Context:
        """Return the fused counterpart of this part; both quantizers must be there."""
        assert self.v_quantizer is not None and self.probability_quantizer is not None
        dropout = self.attn_drop.p if self.training else 0.0
        return Context(self.num_heads, self.v_quantizer, self.probability_quantizer, dropout)


class QuantAttention(Attention):
    """Multi-head self-attention with quantized projections, queries, keys, values and probabilities.

        q, k, v = split(Linear_qkv(x)),   p = Q_p(softmax(Q(q) Q(k)^T / sqrt(d))),   y = Linear_proj(p Q(v))

    q and k have one step per token, shared by the heads, v one per channel, p one per query token (unsigned).

    Args:
        heads: number of heads H; the width A of ``qkv``'s three parts is H*d.
        qkv: the joint projection (3A, C).
        proj: the output projection (C, A).
        quantizers: of what lies between the two.
        dropout: rates of the quantized probabilities and of the output.

    Source: tests/golden/README.md section 5.
    """

    # Every quantized module has these two; here they are None, because qkv and proj have quantizers of their own.
    weight_quantizer: Quantizer | None = None
    input_quantizer: LSQQuantizer | None = None

    def __init__(
        self,
        heads: int,
        qkv: QuantLinear,
        proj: QuantLinear,
        quantizers: AttentionQuantizers,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__(heads, proj, quantizers, dropout)
        self.qkv = qkv
        self.scale = (qkv.out_features // (3 * heads)) ** -0.5
        self.qk_quantizer = quantizers.qk

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map x (B, N, C) to the output (B, N, C).

        Raises:
            ValueError: a mask is asked for, which is not supported.
        """
        refuse_masks(attn_mask, is_causal=is_causal)
        qkv = self.qkv(x)
        if fast := fused(qkv, self.qk_quantizer, self.v_quantizer, self.probability_quantizer):
            return self.output(fast.attention(qkv, self.qk_quantizer, self.fused_context(), self.scale))
        return self.output(self.context(*self.scores(qkv)))

    def scores(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Map the joint projection (B, N, 3A) to scores (B, H, N, N), queries by keys, and values (B, N, A)."""
        qkv = qkv.unflatten(-1, (3, -1))  # (B, N, 3, A)
        qk, v = qkv.split([2, 1], dim=2)  # (B, N, 2, A), (B, N, 1, A)
        if self.qk_quantizer is not None:
            qk = self.qk_quantizer(qk)
        q, k = qk.unflatten(-1, (self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d)
        # (B, H, N, d) x (B, H, d, N) to (B, H, N, N); v (B, N, A)
        return (q * self.scale) @ k.transpose(-2, -1), v.squeeze(2)


def refuse_masks(attn_mask: Tensor | None, *, is_causal: bool) -> None:
    """Raise ValueError where attention is called with a mask, which no quantized attention supports."""
    if attn_mask is not None or is_causal:
        raise ValueError("quantized attention does not support attn_mask and is_causal")
