"""What quantization-aware training and annealing share: a quantized student, its teacher, its record."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ofq.data import batches
from ofq.data.batches import StudyData
from ofq.distill import distillation_loss
from ofq.errors import UserError
from ofq.files import replacing
from ofq.models import build, load_weights
from ofq.params import Quantization, RunConfig
from ofq.paths import Run
from ofq.quant import QuantConfig, quantize_model
from ofq.training.loop import evaluate
from ofq.training.recorder import OscillationRecorder
from ofq.training.session import Session


def check_study(study: str, configs: Sequence[RunConfig]) -> None:
    """Check that one model, on a study's data, can be trained and become every student that is asked of it.

    The model is built without memory for its weights (on torch's ``meta`` device), so that this takes an instant.

    Args:
        study: its data has been prepared.
        configs: runs of one model.

    Raises:
        UserError: timm cannot build the model, it does not fit the images, it cannot be quantized as asked, or a batch
            is larger than the data.
    """
    data = batches.load(study)
    model = configs[0].model
    for config in configs:
        if config.train.batch_size > len(data.train_labels):
            raise UserError(
                f"batch_size {config.train.batch_size} of {config.phase} is larger than the {len(data.train_labels)} "
                f"training images of {study}; lower it in params.yaml"
            )
    with torch.device("meta"):
        _check_fit(_build(configs[0], data), model.timm, data)
        asked = [config.quantization for config in configs if config.quantization]
        # What can be converted does not depend on the bits.
        for quantization in {(one.weight, one.qkr, one.dead_biases): one for one in asked}.values():
            _quantize(_build(configs[0], data), quantization, model.timm)


def _check_fit(model: nn.Module, name: str, data: StudyData) -> None:
    """Raise :class:`UserError` where the model does not take the study's images or give logits."""
    height, width = data.image_size
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch and (height % patch[0] or width % patch[1]):
        raise UserError(
            f"patch_size {patch[0]} of {name} does not divide the images of {height}x{width} pixels; "
            "choose one that does under models in params.yaml"
        )
    try:
        logits = model.eval()(torch.empty(1, data.channels, height, width))
    except Exception as error:  # timm's models check little: a wrong argument fails in them with whatever comes of it
        raise UserError(
            f"{name} does not take images of {height}x{width} pixels ({type(error).__name__}: {str(error)[:200]}); "
            "mend its arguments under models in params.yaml"
        ) from None
    if getattr(logits, "shape", None) != (1, data.classes):
        raise UserError(
            f"{name} does not give one number for each of the {data.classes} classes; mend its arguments under models "
            "in params.yaml"
        )


def _build(config: RunConfig, data: StudyData) -> nn.Module:
    return build(
        config.model, image_size=data.image_size, channels=data.channels, classes=data.classes, seed=config.seed
    )


def _quantize(model: nn.Module, quantization: Quantization, name: str) -> nn.Module:
    try:
        return quantize_model(model, QuantConfig(**quantization.model_dump()))
    except ValueError as error:
        raise UserError(
            f"{name} cannot be quantized: {error}; choose another model or other arguments in params.yaml"
        ) from None


def load_teacher(run: Run, config: RunConfig, data: StudyData) -> nn.Module:
    """The run's trained teacher, in evaluation mode and without gradients."""
    model = _build(config, data)
    load_weights(model, run.teacher.files.model)
    return model.eval().requires_grad_(False)


def make_student(run: Run, config: RunConfig, data: StudyData) -> nn.Module:
    """A quantized model that holds every weight and bias of the teacher (QKR drops the query and key biases)."""
    student = load_teacher(run, config, data).requires_grad_(True)
    assert config.quantization is not None
    if callable(distilled := getattr(student, "set_distilled_training", None)):
        distilled(True)
    return _quantize(student, config.quantization, config.model.timm)


def loss_from(teacher: nn.Module, student: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Distillation loss of a batch: cross-entropy on the labels plus soft cross-entropy on the teacher's output."""

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher(images)
        return distillation_loss(student(images), teacher_logits, labels)

    return loss_of


def publish(
    current: Session,
    student: nn.Module,
    optimizer: torch.optim.AdamW,
    recorder: OscillationRecorder,
    data: StudyData,
) -> None:
    """Measure the final student and publish it with its oscillation record."""
    measured = recorder.finish()
    top1, loss = evaluate(student, data)
    files = current.run.files
    for path, frame in ((files.oscillation, recorder.oscillation()), (files.weights, recorder.final_weights())):
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
    trainer = {"optimizer": optimizer.state_dict(), "recorder": recorder.state_dict()}
    current.publish(student, {"top1": top1, "loss": loss, **measured}, trainer)
