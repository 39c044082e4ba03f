"""The kernel that rounds probabilities against its counterpart; run as a module, interpreted on the processor."""

import torch
from torch import Tensor

from ofq.quant.kernels.mixed.attention import Layout, Scores, layout, p_codes, p_gradients
from ofq.quant.kernels.mixed.probabilities import has_kernel

BAND = 1e-5
"""Distance of p/p_step from a threshold within which a code may differ."""

Case = tuple[Tensor, Tensor, Scores, Layout]
Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def case(tokens: int, dtype: torch.dtype, shifted: bool, by_head: bool, batch: int = 1) -> Case:
    """Make products, their gradient, what makes probabilities of them, and their layout.

    Keys by head come with the products of one multiplication for all heads, of which these are a transposed view.
    """
    random, heads = torch.Generator().manual_seed(tokens), 2
    shape = layout(torch.empty(batch, tokens, 1), heads, dtype)
    products = torch.randint(-9, 9, (batch, tokens, heads, shape.size), generator=random).to(dtype).transpose(1, 2)
    grad = torch.randn(products.shape, generator=random).to(dtype)
    key = torch.rand(tokens, heads, 1, generator=random).permute(1, 2, 0) * 0.3 + 0.1
    query, p_step = torch.rand(tokens, 2, 1, generator=random).unbind(1)
    shift = torch.randn(batch, tokens, heads, generator=random).transpose(1, 2).unsqueeze(2) if shifted else None
    if not by_head:
        key, products = key[0, 0], products.contiguous()
    return products, grad, Scores(query + 0.5, key, shift, (p_step + 0.5) * 2 / tokens, 3.0), shape


def results(made: Case) -> Results:
    """Return the codes of both passes, their sums, the gradient of the scores and that of p_step."""
    products, grad, scores, shape = made
    codes, sums = p_codes(products, scores, None, shape)
    again, grad_scores, grad_step = p_gradients(products, grad, scores, None, shape)
    return codes, again, sums, grad_scores, grad_step


def kernels(made: Case) -> Results:
    """Return :func:`results` of the operations themselves, which need no card if interpreted."""
    products, grad, scores, _ = made
    codes, sums = torch.ops.ofq.probabilities(products, *scores)
    again, grad_scores, rows = torch.ops.ofq.probability_gradients(products, grad, *scores)
    return codes, again, sums, grad_scores, rows.sum_to_size(scores.p_step.shape)


def compare(found: Results, wanted: Results, made: Case) -> None:
    """Hold the kernel's results against the counterpart's, where no place of a row is on a threshold."""
    products, _, scores, shape = made
    codes, again, sums, grad_scores, grad_step = found
    u = scores.probabilities(products) / scores.p_step
    edge = ((u - u.floor() - 0.5).abs() < BAND) | ((u - scores.high).abs() < BAND)
    clear = ~edge.any(-1, keepdim=True)
    assert clear.double().mean() > 0.95
    assert set(range(4)) >= set(codes.unique().tolist()) > {0}
    assert codes.dtype == products.dtype and codes.is_contiguous() and grad_scores.is_contiguous()
    assert torch.equal(codes, again)
    assert not codes[..., shape.tokens :].any() and not grad_scores[..., shape.tokens :].any()
    assert torch.equal(codes * clear, wanted[0] * clear) and torch.equal(sums * clear, wanted[2] * clear)
    band = 1e-5 if products.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(grad_scores * clear, wanted[3] * clear, rtol=band, atol=0.1 * band)
    if clear.all():
        torch.testing.assert_close(grad_step, wanted[4], rtol=1e-4, atol=1e-3)


if __name__ == "__main__":
    wide, narrow = torch.float32, torch.bfloat16
    for kind in [
        (5, wide, False, False),
        (66, narrow, True, False),
        (66, wide, True, True),
        (198, narrow, False, True),
    ]:
        example = case(*kind)
        assert not has_kernel(example[0], None)  # on the processor, so that results() are the counterpart's
        compare(kernels(example), results(example), example)
        print(*kind)
