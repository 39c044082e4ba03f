"""What is measured: training steps of small vision transformers, in full precision and quantized."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.models import VisionTransformerDistilled
from torch import Tensor, nn

from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.training.losses import distillation_loss

CLASSES = 1000
KINDS = {
    "lsq": QuantConfig(weight="lsq"),
    "statsq": QuantConfig(weight="statsq"),
    "statsq-qkr": QuantConfig(weight="statsq", qkr=True),
}


@dataclass(frozen=True)
class Size:
    """A distilled vision transformer and its batch.

    Attributes:
        image: height and width of the images in pixels.
        patch: of a patch.
        width: C.
        depth: number of blocks.
        heads: H.
        batch: images a step.
        bits: of weights and activations.
    """

    image: int
    patch: int
    width: int
    depth: int
    heads: int
    batch: int
    bits: int = 2


SIZES = {
    "tiny": Size(image=224, patch=16, width=192, depth=12, heads=3, batch=16),
    "micro": Size(image=32, patch=4, width=64, depth=4, heads=4, batch=64),
    "toy": Size(image=16, patch=8, width=32, depth=2, heads=2, batch=4),
}


def backbone(size: Size) -> nn.Module:
    """timm's model in full precision, its fused attention included, both heads in training."""
    torch.manual_seed(0)
    model = VisionTransformerDistilled(
        img_size=size.image,
        patch_size=size.patch,
        num_classes=CLASSES,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
    )
    model.set_distilled_training(True)
    return model.train()


def student(size: Size, kind: str) -> nn.Module:
    """``fp``, or a quantized and calibrated model of one of :data:`KINDS`."""
    model = backbone(size)
    if kind == "fp":
        return model
    config = KINDS[kind].model_copy(update={"weight_bits": size.bits, "input_bits": size.bits})
    quantize_model(model, config)
    calibrate(model, [batch(replace(size, batch=4))[0]])
    return model.train()


def batch(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and teacher logits, always the same."""
    random = torch.Generator().manual_seed(1)
    images = torch.randn(size.batch, 3, size.image, size.image, generator=random)
    labels = torch.randint(CLASSES, (size.batch,), generator=random)
    return images, labels, torch.randn(size.batch, CLASSES, generator=random)


@dataclass
class Subject:
    """A model and its training step: forward pass, distillation loss, backward pass, AdamW."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], None]


@dataclass(frozen=True)
class Place:
    """Where steps are taken, and how; float32 on the CPU by default.

    Attributes:
        device: torch's name of it.
        forward: makes the context of a forward pass.
        compiled: makes a model faster, in place, when it is there.
    """

    device: str = "cpu"
    forward: Callable[[], AbstractContextManager[Any]] = nullcontext
    compiled: Callable[[nn.Module], object] = lambda model: model


def subject(size: Size, name: str, place: Place | None = None, model: nn.Module | None = None) -> Subject:
    """A student by its name: ``fp`` or a kind.

    ``+teacher`` behind it adds a teacher's forward pass. Without it the teacher's logits are fixed, so that only the
    student is measured.

    Args:
        size: of the model and its batch.
        name: of the student.
        place: where it trains.
        model: instead of the student that the name stands for.
    """
    kind, *extras = name.split("+")
    if unknown := set(extras) - {"teacher"} or ({kind} - {"fp", *KINDS} and model is None):
        raise SystemExit(f"no subject {name}: {unknown} is unknown; kinds are fp, {', '.join(KINDS)}")
    place = place or Place()
    model = (model or student(size, kind)).to(place.device)
    place.compiled(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, fused=True)
    images, labels, fixed_logits = (part.to(place.device) for part in batch(size))
    teacher = backbone(size).eval().requires_grad_(False).to(place.device) if "teacher" in extras else None
    if teacher is not None:
        place.compiled(teacher)

    def step() -> None:
        teacher_logits = fixed_logits
        with place.forward():
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(images)
            loss = distillation_loss(model(images), teacher_logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Subject(model, optimizer, step)
