"""The kernel of Triton that rounds probabilities, for both passes. One program has some rows of a head, and all keys.

Both passes make the probabilities by the same operations in the same order, none of them contracted, so that both find
the same codes. What differs from torch is exp, and that each exp is multiplied by 1/sum, both in the last bits: so a
code may differ where p/p_step is within 1e-5 of a threshold.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048  # of a program, 16 a thread


@triton.jit  # type: ignore[untyped-decorator]
def _round(  # type: ignore[no-untyped-def]  # noqa: PLR0913  # a kernel has no structures
    codes_out, rows_out, scores_out, grad, products, query, key, shift, p_step, high,
    PRODUCTS_B: tl.constexpr, PRODUCTS_H: tl.constexpr, PRODUCTS_N: tl.constexpr, QUERY_N: tl.constexpr,
    KEY_H: tl.constexpr, KEY_K: tl.constexpr, SHIFT_B: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_K: tl.constexpr,
    STEP_N: tl.constexpr, SHIFTED: tl.constexpr, BACKWARD: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr,
    SIZE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (TOKENS + ROWS - 1) // ROWS
    pair = (tl.program_id(0) // blocks).to(tl.int64)  # image and head: their elements may be more than an int32 counts
    image = pair // HEADS
    head = pair % HEADS
    # Vectors have one axis where they are read, so that they do not decide how a program shares out its elements.
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    keys = tl.arange(0, KEYS)
    row, token = rows < TOKENS, keys < TOKENS
    # Rows are read and written with what pads them, because then eight elements go at once.
    there = row[:, None] & (keys < SIZE)[None, :]
    places = rows[:, None] * SIZE + keys[None, :]
    codes_out += pair * (TOKENS * SIZE)
    rows_out += pair * TOKENS

    products += image * PRODUCTS_B + head * PRODUCTS_H
    x = tl.load(products + rows[:, None] * PRODUCTS_N + keys[None, :], mask=there, other=0.0).to(tl.float32)
    x = x * tl.load(query + rows * QUERY_N, mask=row, other=1.0).to(tl.float32)[:, None]
    if SHIFTED:
        shift += image * SHIFT_B + head * SHIFT_H
        x = x + tl.load(shift + keys * SHIFT_K, mask=token, other=0.0).to(tl.float32)[None, :]
    x = x * tl.load(key + head * KEY_H + keys * KEY_K, mask=token, other=1.0).to(tl.float32)[None, :]
    x = tl.where(token[None, :], x, float("-inf"))
    e = tl.exp(x - tl.max(x, 1)[:, None])
    p = e * tl.div_rn(1.0, tl.sum(e, 1))[:, None]
    step = tl.load(p_step + rows * STEP_N, mask=row, other=1.0).to(tl.float32)
    u = tl.div_rn(p, step[:, None])
    # The nearest whole number, ties to even: there are no fractions beside 1.5*2^23. What is not a number stays so.
    codes = tl.where(u > high, high, u) + 12582912.0 - 12582912.0
    tl.store(codes_out + places, codes.to(codes_out.dtype.element_ty), mask=there)
    if BACKWARD:
        grad += pair * (TOKENS * SIZE)
        scores_out += pair * (TOKENS * SIZE)
        g = tl.where(token[None, :], tl.load(grad + places, mask=there, other=0.0).to(tl.float32), 0.0)
        g = g * tl.div_rn(1.0, step)[:, None]
        inside = tl.where(u <= high, g, 0.0)
        tl.store(rows_out + rows, tl.sum(codes * g - u * inside, 1), mask=row)
        found = p * (inside - tl.sum(inside * p, 1)[:, None])
        tl.store(scores_out + places, found.to(scores_out.dtype.element_ty), mask=there)
    else:
        tl.store(rows_out + rows, tl.sum(codes, 1), mask=row)


def forward(products: Tensor, scores: Any, codes: Tensor, sums: Tensor) -> None:
    """Write the codes of probabilities (B, H, N, K) and their sums (B, H, N, 1)."""
    _launch((codes, sums, None, None), products, scores)


def backward(products: Tensor, scores: Any, grad: Tensor, codes: Tensor, grad_scores: Tensor, rows: Tensor) -> None:
    """Write codes and the gradient of the scores, both (B, H, N, K), and dL/dp_step of each row, (B, H, N, 1)."""
    _launch((codes, rows, grad_scores, grad.contiguous()), products, scores)


def _launch(tensors: tuple[Tensor | None, ...], products: Tensor, scores: Any) -> None:
    query, key, shift, p_step, high = scores
    _, heads, tokens, size = products.shape
    if products.stride(-1) != 1:
        products = products.contiguous()
    key = key.expand(heads, 1, tokens)
    width = triton.next_power_of_2(size)
    height = min(max(_ELEMENTS // width, 1), triton.next_power_of_2(tokens))
    grid = (len(products) * heads * triton.cdiv(tokens, height),)
    with torch.cuda.device_of(products):
        _round[grid](
            *(*tensors, products, query, key, shift, p_step, high),
            *(*products.stride()[:3], query.stride(0), key.stride(0), key.stride(2)),
            *((0, 0, 0) if shift is None else (shift.stride(0), shift.stride(1), shift.stride(3))),
            *(p_step.stride(0), shift is not None, tensors[-1] is not None, heads, tokens, size, height, width),
            enable_fp_fusion=False,
        )
