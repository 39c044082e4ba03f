"""Losses of a student that learns from labels and from a teacher."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Logits = Tensor | tuple[Tensor, Tensor] | list[Tensor]


def soft_cross_entropy(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Compute the cross-entropy of the student's logits o against the teacher's probabilities.

        -sum_k softmax(t/T)_k * log softmax(o/T)_k

    No teacher entropy is subtracted (it is not the KL divergence) and there is no factor T^2. The teacher's side is
    not detached here.

    Args:
        logits: o, of the student, (B, classes).
        teacher_logits: t, of the teacher, (B, classes).
        temperature: T, above 0.
        reduction: mean or sum over the batch, or none.

    Returns:
        A scalar, or without reduction a vector (B,).

    Raises:
        ValueError: an unknown reduction, or a temperature that is not positive.

    Source: tests/golden/README.md section 8.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if temperature != 1:
        logits, teacher_logits = logits / temperature, teacher_logits / temperature
    # F.cross_entropy takes probabilities as targets: one fused call.
    return F.cross_entropy(logits, teacher_logits.softmax(-1), reduction=reduction)


def label_loss(logits: Logits, labels: Tensor) -> Tensor:
    """Compute the cross-entropy on the labels, for two heads the mean over both, so that each can teach alone.

    Args:
        logits: (B, classes), or the pair of two heads.
        labels: class numbers (B,), or probabilities (B, classes).

    Returns:
        Scalar, mean over the batch.
    """
    if isinstance(logits, Tensor):
        return F.cross_entropy(logits, labels)
    return torch.stack([F.cross_entropy(one, labels) for one in logits]).mean()  # (heads,) to ()


def distillation_loss(student: Logits, teacher_logits: Logits, labels: Tensor) -> Tensor:
    """Compute the distillation loss, from labels and from a teacher, both with weight 1.

        CE(class logits, labels) + soft cross-entropy(distillation logits, teacher)

    Args:
        student: logits (B, classes), used for both terms, or the pair (class, distillation) of logits.
        teacher_logits: (B, classes), or a pair of which only the first entry is used.
        labels: class numbers (B,), or probabilities (B, classes).

    Returns:
        Scalar, mean over the batch.

    Raises:
        ValueError: the logits are no matrices of one shape, or hold no image; the teacher's are not finite, which is
            not looked at on a device: it would have to be waited for.

    Source: tests/golden/README.md section 8.
    """
    class_logits, distillation_logits = student if isinstance(student, tuple | list) else (student, student)
    teacher = teacher_logits[0] if isinstance(teacher_logits, tuple | list) else teacher_logits
    given = (class_logits, distillation_logits, teacher)
    forms = [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in given]
    if len(set(forms)) > 1 or len(forms[0]) != 2 or not isinstance(teacher, Tensor) or not teacher.numel():
        raise ValueError(
            "the logits of student (for the class and for distillation) and teacher should have one shape (images, "
            f"classes), not {forms[0]}, {forms[1]} and {forms[2]}"
        )
    if teacher.device.type == "cpu" and not teacher.isfinite().all():
        raise ValueError("the teacher's logits hold values that are not finite")
    return F.cross_entropy(class_logits, labels) + soft_cross_entropy(distillation_logits, teacher)
