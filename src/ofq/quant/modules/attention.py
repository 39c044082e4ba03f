"""Quantized attention: plain, and with query-key reparameterization (QKR). Both take any weight quantizer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofq.quant.kernels.attention import Heads, plain_attention
from ofq.quant.kernels.products import fuses, quantized
from ofq.quant.kernels.qkr import qkr_attention
from ofq.quant.modules.layers import QuantLinear
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer


class _Attention(nn.Module):
    """The part of attention after the scores: softmax, quantized probabilities, context, projection."""

    def __init__(
        self,
        *,
        heads: int,
        proj: QuantLinear,
        v_quantizer: LSQQuantizer | None,
        probability_quantizer: LSQQuantizer | None,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__()
        self.num_heads = heads
        self.v_quantizer = v_quantizer
        self.probability_quantizer = probability_quantizer
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = proj
        self.proj_drop = nn.Dropout(proj_drop)

    def _heads(self) -> Heads | None:
        """Return what a fused function needs, or None where a quantizer is missing."""
        if self.v_quantizer is None or self.probability_quantizer is None:
            return None
        dropout = self.attn_drop.p if self.training else 0.0
        return Heads(self.num_heads, self.v_quantizer, self.probability_quantizer, dropout)

    def _output(self, context: Tensor) -> Tensor:
        out: Tensor = self.proj_drop(self.proj(context))
        return out

    def _context(self, scores: Tensor, v: Tensor) -> Tensor:
        """Map scores (B, H, N, N), queries by keys, and values (B, N, A) to the output (B, N, C)."""
        probabilities = scores.softmax(dim=-1)
        if self.probability_quantizer is not None:
            probabilities = self.probability_quantizer(probabilities)
        # After the quantizer, because dropout scales the probabilities and the levels are for unscaled ones.
        probabilities = self.attn_drop(probabilities)
        if self.v_quantizer is not None:
            v = self.v_quantizer(v)
        v = v.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, d)
        return self._output((probabilities @ v).transpose(1, 2).flatten(2))  # (B, N, A)


class QuantAttention(_Attention):
    """Multi-head self-attention with quantized projections, queries, keys, values and probabilities.

        q, k, v = split(Linear_qkv(x)),   p = Q_p(softmax(Q(q) Q(k)^T / sqrt(d))),   y = Linear_proj(p Q(v))

    q and k have one step per token, shared by the heads, v one per channel, p one per query token (unsigned).

    Args:
        heads: number of heads H; the width A of ``qkv``'s three parts is H*d.
        qkv: the joint projection (3A, C).
        proj: the output projection (C, A).
        qk_quantizer: of queries and keys as one tensor (B, N, 2, A), or None.
        v_quantizer: of the values (B, N, A), or None.
        probability_quantizer: of the probabilities (B, H, N, N), or None.
        attn_drop: dropout rate of the quantized probabilities.
        proj_drop: dropout rate of the output.

    Source: tests/golden/README.md section 5.
    """

    # Every quantized module has these two; here they are None, because qkv and proj have quantizers of their own.
    weight_quantizer: Quantizer | None = None
    input_quantizer: LSQQuantizer | None = None

    def __init__(
        self,
        *,
        heads: int,
        qkv: QuantLinear,
        proj: QuantLinear,
        qk_quantizer: LSQQuantizer | None = None,
        v_quantizer: LSQQuantizer | None = None,
        probability_quantizer: LSQQuantizer | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            heads=heads,
            proj=proj,
            v_quantizer=v_quantizer,
            probability_quantizer=probability_quantizer,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.qkv = qkv
        self.scale = (qkv.out_features // (3 * heads)) ** -0.5
        self.qk_quantizer = qk_quantizer

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map x (B, N, C) to the output (B, N, C).

        Raises:
            ValueError: a mask is asked for, which is not supported.
        """
        _refuse_masks(attn_mask, is_causal=is_causal)
        qkv = self.qkv(x)
        heads, qk_quantizer = self._heads(), self.qk_quantizer
        if heads and qk_quantizer and fuses(qkv, qk_quantizer, heads.values, heads.probabilities):
            return self._output(plain_attention(qkv, qk_quantizer, heads, self.scale))
        qkv = qkv.unflatten(-1, (3, -1))  # (B, N, 3, A)
        qk, v = qkv.split([2, 1], dim=2)  # (B, N, 2, A), (B, N, 1, A)
        if self.qk_quantizer is not None:
            qk = self.qk_quantizer(qk)
        q, k = qk.unflatten(-1, (self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d)
        return self._context((q * self.scale) @ k.transpose(-2, -1), v.squeeze(2))  # (B, H, N, N), (B, N, A)


class QKRAttention(_Attention):
    """Attention whose scores are made by one quantized matrix per head, P_h = W_q,h^T W_k,h.

        x' = Q(x),   u_h = Q(x' Q_w(P_h)^T),   p = Q_p(softmax(x' u_h^T / sqrt(d))),
        y = Linear_proj(p Q(Linear_v(x')))

    As in the paper's formula the scores have no query and key biases: those of a converted model are dropped. The
    weight quantizer gets all P_h stacked as one matrix (H*C, C). W_q and W_k are not quantized themselves and learn
    through the product. u has one step per token and head.

    Args:
        heads: number of heads H.
        q: the query projection (A, C), A = H*d; no bias.
        k: the key projection (A, C); no bias.
        v: the value projection (A, C); it has no input quantizer because x' is its input.
        proj: the output projection (C, A).
        input_quantizer: of x (B, N, C), or None.
        weight_quantizer: of the stacked products (H*C, C), or None.
        product_quantizer: of u as (B, N, H, C), or None.
        v_quantizer: of the values (B, N, A), or None.
        probability_quantizer: of the probabilities (B, H, N, N), or None.
        attn_drop: dropout rate of the quantized probabilities.
        proj_drop: dropout rate of the output.

    Raises:
        ValueError: ``q`` or ``k`` has a bias.

    Source: tests/golden/README.md section 5; OFQ paper section 3.
    """

    def __init__(
        self,
        *,
        heads: int,
        q: nn.Linear,
        k: nn.Linear,
        v: QuantLinear,
        proj: QuantLinear,
        input_quantizer: LSQQuantizer | None = None,
        weight_quantizer: Quantizer | None = None,
        product_quantizer: LSQQuantizer | None = None,
        v_quantizer: LSQQuantizer | None = None,
        probability_quantizer: LSQQuantizer | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            heads=heads,
            proj=proj,
            v_quantizer=v_quantizer,
            probability_quantizer=probability_quantizer,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        if any(part.bias is not None for part in (q, k)):
            raise ValueError("query-key reparameterization has no query and key biases")
        self.q, self.k, self.v = q, k, v
        self.scale = (q.out_features // heads) ** -0.5
        self.input_quantizer = input_quantizer
        self.weight_quantizer = weight_quantizer
        self.product_quantizer = product_quantizer

    def query_key_product(self) -> Tensor:
        """Return P, the stacked products W_q,h^T W_k,h of the heads, shape (H*C, C)."""
        q = self.q.weight.unflatten(0, (self.num_heads, -1))  # (H, d, C)
        k = self.k.weight.unflatten(0, (self.num_heads, -1))  # (H, d, C)
        return torch.bmm(q.transpose(1, 2), k).flatten(0, 1)  # (H, C, C) to (H*C, C)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map x (B, N, C) to the output (B, N, C).

        Raises:
            ValueError: a mask is asked for, which is not supported.
        """
        _refuse_masks(attn_mask, is_causal=is_causal)
        product = self.query_key_product()
        heads, quantizer, u_quantizer = self._heads(), self.input_quantizer, self.product_quantizer
        if heads and quantizer and u_quantizer and fuses(x, quantizer, u_quantizer, heads.values, heads.probabilities):
            weight = quantized(product, self.weight_quantizer, beside=quantizer)
            v = quantized(self.v.weight, self.v.weight_quantizer, beside=quantizer)
            context = qkr_attention(x, quantizer, weight, u_quantizer, v, self.v.bias, heads, self.scale)
            return self._output(context)
        if quantizer is not None:
            x = quantizer(x)
        if self.weight_quantizer is not None:
            product = self.weight_quantizer(product)
        u = F.linear(x, product).unflatten(-1, (self.num_heads, -1))  # (B, N, H, C)
        if u_quantizer is not None:
            u = u_quantizer(u)
        # One product for all heads; queries by (key, head).
        scores = torch.bmm(x * self.scale, u.flatten(1, 2).transpose(1, 2))  # (B, N, N*H)
        scores = scores.unflatten(-1, (-1, self.num_heads)).permute(0, 3, 1, 2)  # (B, H, N, N)
        return self._context(scores, self.v(x))


def _refuse_masks(attn_mask: Tensor | None, *, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise ValueError("quantized attention does not support attn_mask and is_causal")
