"""Two operations for a card, each one kernel of Triton: what rounds probabilities, and what that needs of them later.

The compiler takes them as they are; it would read all scores of a row twice, and the rest of them once more.
"""

import torch
from torch import Tensor
from torch.utils._triton import has_triton

_LONGEST = 1024  # keys, which one program holds in registers
_DTYPES = torch.float32, torch.bfloat16, torch.float16

_SCORES = "Tensor query, Tensor key, Tensor? shift, Tensor p_step, float high"
_LIBRARY = torch.library.Library("ofq", "FRAGMENT")
_LIBRARY.define(f"probabilities(Tensor products, {_SCORES}) -> (Tensor, Tensor)")
_LIBRARY.define(f"probability_gradients(Tensor products, Tensor grad, {_SCORES}) -> (Tensor, Tensor, Tensor)")


def has_kernel(products: Tensor, mask: Tensor | None) -> bool:
    """Return whether the operations may take over: on a card, without dropout, for rows that fit."""
    fits = products.dtype in _DTYPES and products.shape[-1] <= _LONGEST and mask is None
    # A compiler for cards is there if it calls; it cannot look into the question whether there is one.
    return fits and products.device.type == "cuda" and (torch.compiler.is_compiling() or has_triton())


@torch.library.impl(_LIBRARY, "probabilities", "CompositeExplicitAutograd")
def _probabilities(products: Tensor, *scores: Tensor | float | None) -> tuple[Tensor, Tensor]:
    """Compute the codes (B, H, N, K) and their sums (B, H, N, 1), float32."""
    from ofq.quant.kernels.mixed import triton_probabilities  # not where there is no card

    codes, sums = _empty(products, *scores)
    triton_probabilities.forward(products, scores, codes, sums)
    return codes, sums


@torch.library.impl(_LIBRARY, "probability_gradients", "CompositeExplicitAutograd")
def _gradients(products: Tensor, grad: Tensor, *scores: Tensor | float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the codes and the gradient of the scores, both (B, H, N, K), and dL/dp_step by rows, (B, H, N, 1)."""
    from ofq.quant.kernels.mixed import triton_probabilities

    codes, grad_scores, grad_step = _empty_gradients(products, grad, *scores)
    triton_probabilities.backward(products, scores, grad, codes, grad_scores, grad_step)
    return codes, grad_scores, grad_step


@torch.library.register_fake("ofq::probabilities", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _empty(products: Tensor, *scores: Tensor | float | None) -> tuple[Tensor, Tensor]:
    del scores
    rows = (*products.shape[:-1], 1)
    return products.new_empty(products.shape), products.new_empty(rows, dtype=torch.float32)


@torch.library.register_fake("ofq::probability_gradients", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _empty_gradients(products: Tensor, grad: Tensor, *scores: Tensor | float | None) -> tuple[Tensor, Tensor, Tensor]:
    del grad
    codes, rows = _empty(products, *scores)
    return codes, torch.empty_like(codes), rows
