"""What quantization-aware training and annealing share: a quantized student, its teacher, its record."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ofq.data.batches import StudyData
from ofq.distill import distillation_loss
from ofq.files import replacing
from ofq.models import build, load_weights
from ofq.params import RunConfig
from ofq.paths import Run
from ofq.quant import QuantConfig, quantize_model
from ofq.training.loop import evaluate
from ofq.training.recorder import OscillationRecorder
from ofq.training.session import Session


def load_teacher(run: Run, config: RunConfig, data: StudyData) -> nn.Module:
    """The run's trained teacher, in evaluation mode and without gradients."""
    model = build(
        config.model, image_size=data.image_size, channels=data.channels, classes=data.classes, seed=config.seed
    )
    load_weights(model, run.teacher.files.model)
    return model.eval().requires_grad_(False)


def make_student(run: Run, config: RunConfig, data: StudyData) -> nn.Module:
    """A quantized model that holds every weight and bias of the teacher (QKR drops the query and key biases)."""
    student = load_teacher(run, config, data).requires_grad_(True)
    assert config.quantization is not None
    if callable(distilled := getattr(student, "set_distilled_training", None)):
        distilled(True)
    return quantize_model(student, QuantConfig(**config.quantization.model_dump()))


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
