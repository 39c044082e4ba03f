"""Quantized attention with query-key reparameterization (QKR), for any weight quantizer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofq.quant.kernels.choose import fused
from ofq.quant.kernels.qkr import Products
from ofq.quant.modules.attention import Attention, AttentionQuantizers, refuse_masks
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.base import Quantizer, without_autocast
from ofq.quant.quantizers.lsq import LSQQuantizer


class Projections(NamedTuple):
    """The linear maps of an attention with query-key reparameterization.

    Attributes:
        q: of the queries (A, C), A = H*d; no bias.
        k: of the keys (A, C); no bias.
        v: of the values (A, C); it has no input quantizer, because the rounded x is its input.
        proj: of the output (C, A).
    """

    q: nn.Linear
    k: nn.Linear
    v: QuantLinear
    proj: QuantLinear


class QKRQuantizers(NamedTuple):
    """Quantizers of an attention with query-key reparameterization, each optional.

    Attributes:
        input: of x (B, N, C).
        weight: of the stacked products (H*C, C).
        inside: of u, values and probabilities.
    """

    input: LSQQuantizer | None = None
    weight: Quantizer | None = None
    inside: AttentionQuantizers = AttentionQuantizers()


class QKRAttention(Attention):
    """Attention whose scores are made by one quantized matrix per head, P_h = W_q,h^T W_k,h.

        x' = Q(x),   u_h = Q(x' Q_w(P_h)^T),   p = Q_p(softmax(x' u_h^T / sqrt(d))),
        y = Linear_proj(p Q(Linear_v(x')))

    As in the paper's formula the scores have no query and key biases: those of a converted model are dropped. The
    weight quantizer gets all P_h stacked as one matrix (H*C, C). W_q and W_k are not quantized themselves and learn
    through the product. u has one step per token and head.

    Args:
        heads: number of heads H.
        layers: the projections.
        quantizers: of inputs, products and probabilities.
        dropout: rates of the quantized probabilities and of the output.

    Raises:
        ValueError: the query or the key projection has a bias.

    Source: tests/golden/README.md section 5; OFQ paper section 3.
    """

    def __init__(
        self,
        heads: int,
        layers: Projections,
        quantizers: QKRQuantizers,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__(heads, layers.proj, quantizers.inside, dropout)
        if any(part.bias is not None for part in (layers.q, layers.k)):
            raise ValueError("query-key reparameterization has no query and key biases")
        self.q, self.k, self.v = layers.q, layers.k, layers.v
        self.scale = (layers.q.out_features // heads) ** -0.5
        self.input_quantizer = quantizers.input
        self.weight_quantizer = quantizers.weight
        self.product_quantizer = quantizers.inside.qk

    def latent_weight(self) -> Tensor:
        """Return what the weight quantizer rounds: P, the stacked W_q,h^T W_k,h of the heads, shape (H*C, C)."""
        q = self.q.weight.unflatten(0, (self.num_heads, -1))  # (H, d, C)
        k = self.k.weight.unflatten(0, (self.num_heads, -1))  # (H, d, C)
        with without_autocast(q.device):
            return torch.bmm(q.transpose(1, 2), k).flatten(0, 1)  # (H, C, C) to (H*C, C)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map x (B, N, C) to the output (B, N, C).

        Raises:
            ValueError: a mask is asked for, which is not supported.
        """
        refuse_masks(attn_mask, is_causal=is_causal)
        quantizer, u_quantizer = self.input_quantizer, self.product_quantizer
        inside = (quantizer, u_quantizer, self.v_quantizer, self.probability_quantizer)
        if quantizer is not None and (fast := fused(x, *inside, weight=self.weight_quantizer)):
            weight = fast.weight(self.latent_weight(), self.weight_quantizer, quantizer)
            v = fast.weight(self.v.weight, self.v.weight_quantizer, quantizer)
            products = Products(weight, v, self.v.bias)
            return self.output(fast.qkr(x, quantizer, products, u_quantizer, self.fused_context(), self.scale))
        return self.output(self.context(*self.scores(x)))

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, N, C) to scores (B, H, N, N), queries by keys, and values (B, N, A)."""
        product, u_quantizer = self.latent_weight(), self.product_quantizer
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.weight_quantizer is not None:
            product = self.weight_quantizer(product)
        u = F.linear(x, product).unflatten(-1, (self.num_heads, -1))  # (B, N, H, C)
        if u_quantizer is not None:
            u = u_quantizer(u)
        # One product for all heads; queries by (key, head).
        scores = torch.bmm(x * self.scale, u.flatten(1, 2).transpose(1, 2))  # (B, N, N*H)
        return scores.unflatten(-1, (-1, self.num_heads)).permute(0, 3, 1, 2), self.v(x)  # (B, H, N, N), (B, N, A)
