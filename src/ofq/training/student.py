"""The shared parts of quantization-aware training and annealing: a quantized student, its teacher, its record."""

from collections.abc import Callable
from dataclasses import replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ofq.config.quant_config import QuantConfig
from ofq.config.resolve import QatConfig, RunConfig, StudentConfig
from ofq.data import batches
from ofq.data.batches import Batch, StudyData
from ofq.errors import UserError, missing
from ofq.models.backbone import build, draw_attention, train_both_heads
from ofq.models.weights import load_weights
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.convert import quantize_model
from ofq.runs.files import replacing
from ofq.runs.paths import Run
from ofq.training.job import Session
from ofq.training.loop import evaluate
from ofq.training.losses import distillation_loss
from ofq.training.publish import publish


def build_model(config: RunConfig, data: StudyData) -> nn.Module:
    """Build the run's model in full precision, for the study's images."""
    return build(
        config.model, image_size=data.image_size, channels=data.channels, classes=data.classes, seed=config.seed
    )


def quantize_as(model: nn.Module, quantization: QuantConfig, name: str) -> nn.Module:
    """Quantize a model in place.

    Args:
        model: in full precision.
        quantization: what to quantize to.
        name: of the model, for the error.

    Raises:
        UserError: the model cannot be quantized in this way.
    """
    try:
        return quantize_model(model, quantization)
    except ValueError as error:
        raise UserError(
            f"{name} cannot be quantized: {error}; choose another model or other arguments in params.yaml"
        ) from None


def load_teacher(run: Run, config: StudentConfig, data: StudyData) -> nn.Module:
    """Load the run's trained teacher, without gradients and in the mode that ``teacher_mode`` names.

    In training mode, as in the released code, a teacher with two heads gives the pair of their outputs.
    """
    model = build_model(config, data)
    load_weights(model, run.teacher.files.model)
    train_both_heads(model)
    return model.train(config.teacher_mode == "train").requires_grad_(False)


def make_student(run: Run, config: StudentConfig, data: StudyData) -> nn.Module:
    """Make a quantized model with the weights and biases of the teacher (QKR drops the query and key biases).

    With ``attention_init: random`` the attention projections are drawn anew.
    """
    student = load_teacher(run, config, data).requires_grad_(True)
    if isinstance(config, QatConfig) and config.attention_init == "random":
        draw_attention(student, config.seed, keep_qkv=config.quantization.qkr)
    quantize_as(student, config.quantization, config.model.timm)
    return student


def load_data(run: Run, config: StudentConfig) -> StudyData:
    """Load the study's data, with the stored output of the run's teacher where the recipe says so.

    Raises:
        UserError: the output is missing, damaged, or belongs to other images.
    """
    data = batches.load(run.study)
    if not config.teacher_once:
        return data
    path = run.teacher.files.logits
    try:
        logits = load_file(path)["train"]
    except FileNotFoundError:
        raise missing(path) from None
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run snakemake again") from None
    if logits.shape != (len(data.train_labels), data.classes):
        raise UserError(f"{path} belongs to other images; delete it and run snakemake again")
    return replace(data, teacher_logits=logits)


def loss_from(run: Run, config: StudentConfig, data: StudyData, student: nn.Module) -> Callable[[Batch], Tensor]:
    """Make the function that gives the distillation loss of a batch.

    It is cross-entropy on the labels plus soft cross-entropy on the teacher's output. If the teacher gives a pair
    (class, distillation), only the first is used.
    """
    teacher = None if config.teacher_once else load_teacher(run, config, data)

    def loss_of(batch: Batch) -> Tensor:
        logits = batch.teacher_logits
        if logits is None:
            assert teacher is not None
            with torch.no_grad():
                logits = teacher(batch.images)
        return distillation_loss(student(batch.images), logits, batch.labels)

    return loss_of


def publish_student(
    current: Session,
    student: nn.Module,
    optimizer: torch.optim.AdamW,
    recorder: OscillationRecorder,
    data: StudyData,
) -> None:
    """Measure the final student and publish it with its oscillation record."""
    measured = recorder.finish()
    top1, loss = evaluate(student, data)
    best = max(event["val/top1"] for event in current.events.events("step"))
    files = current.run.files
    for path, frame in ((files.oscillation, recorder.oscillation()), (files.weights, recorder.final_weights())):
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
    trainer = {"optimizer": optimizer.state_dict(), "recorder": recorder.state_dict()}
    publish(current, student, {"top1": top1, "top1_best": best, "loss": loss, **measured}, trainer)
