"""What only a card can show of the kernel that rounds probabilities: that it does there what its counterpart does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ofq.quant.kernels.mixed import attention
from ofq.quant.kernels.mixed.attention import Scores, p_codes, p_gradients
from ofq.quant.kernels.mixed.probabilities import has_kernel
from tests.quant.probabilities import Case, case, compare, results


def _on_card(made: Case) -> Case:
    products, grad, scores, shape = made
    moved = (part.to("cuda") if isinstance(part, Tensor) else part for part in scores)
    return products.to("cuda"), grad.to("cuda"), Scores(*moved), shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("tokens", [5, 66, 198, 1020])
def test_the_kernel_agrees_with_its_counterpart_and_with_itself(
    tokens: int, by_head: bool, shifted: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _on_card(case(tokens, dtype, shifted, by_head, batch=8))
    assert has_kernel(made[0], None)
    found, again = results(made), results(made)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    monkeypatch.setattr(attention, "has_kernel", lambda *arguments: False)
    compare(found, results(made), made)


def test_the_kernel_does_the_same_in_a_compiled_function() -> None:
    made = _on_card(case(198, torch.bfloat16, shifted=True, by_head=True, batch=8))
    products, grad, scores, shape = made

    def both(products: Tensor, grad: Tensor) -> Any:
        codes, sums = p_codes(products * 1, scores, None, shape)
        return p_gradients(products * 1, grad, scores, None, shape), codes, sums

    (again, grad_scores, grad_step), codes, sums = torch.compile(both, fullgraph=True)(products, grad)
    found = codes, again, sums, grad_scores
    assert all(torch.equal(a, b) for a, b in zip(found, results(made), strict=False))
    torch.testing.assert_close(grad_step, results(made)[4], rtol=1e-5, atol=1e-3)  # summed in another order


def test_what_is_not_a_number_stays_so() -> None:
    products, _, scores, shape = _on_card(case(66, torch.bfloat16, shifted=False, by_head=False))
    products[0, 0, 0, 0] = float("nan")
    codes, sums = p_codes(products, scores, None, shape)
    assert codes[0, 0, 0, : shape.tokens].isnan().all() and sums[0, 0, 0].isnan()
    assert not codes[0, 0, 1].isnan().any()
