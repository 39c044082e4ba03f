"""The losses' arguments, and that they agree with their formula."""

from typing import Any

import pytest
import torch

from ofq.training.losses import distillation_loss, soft_cross_entropy


def test_soft_cross_entropy_is_the_formula() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    for temperature in (1.0, 2.5):
        expected = -((teacher / temperature).softmax(1) * (student / temperature).log_softmax(1)).sum(1)
        for reduction, value in (("none", expected), ("sum", expected.sum()), ("mean", expected.mean())):
            loss = soft_cross_entropy(student, teacher, temperature=temperature, reduction=reduction)  # type: ignore[arg-type]
            torch.testing.assert_close(loss, value)


def test_bad_arguments_are_named() -> None:
    logits = torch.randn(2, 3)
    for value in (float("nan"), -float("inf")):
        wrong = torch.where(torch.arange(logits.numel()).view_as(logits) == 1, value, logits)
        for teacher in (wrong, (wrong, logits)):
            with pytest.raises(ValueError, match="the teacher's logits hold values that are not finite"):
                distillation_loss(logits, teacher, torch.zeros(len(logits), dtype=torch.int64))
    labels = torch.tensor([0, 1])
    several: list[Any] = [(logits, torch.randn(2, 4)), (logits, None), ((logits, logits[:1]), logits), (logits[0],) * 2]
    for student, teacher in [*several, (logits[:0], logits[:0]), ("ab", "ab")]:
        with pytest.raises(ValueError, match=r"should have one shape \(images, classes\), not "):
            distillation_loss(student, teacher, labels)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"temperature must be positive and finite, not {temperature}"):
            soft_cross_entropy(logits, logits, temperature=temperature)
    with pytest.raises(ValueError, match="reduction"):
        soft_cross_entropy(logits, logits, reduction="avg")  # type: ignore[arg-type]


def test_one_head_serves_for_both_terms() -> None:
    logits, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 3, 1])
    torch.testing.assert_close(
        distillation_loss(logits, teacher, labels), distillation_loss((logits, logits), (teacher, -teacher), labels)
    )
