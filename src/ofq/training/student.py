"""The shared parts of quantization-aware training and annealing: a quantized student, its teacher, its record."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ofq.config.quant_config import QuantConfig
from ofq.config.recipes import LAST, check_images
from ofq.config.resolve import QatConfig, StudentConfig
from ofq.data.batch import Batch
from ofq.errors import UserError, first_of, missing
from ofq.models.backbone import build_model, draw_attention, train_both_heads
from ofq.models.batchnorm import batch_norms, needs_whole_batches, reestimate
from ofq.models.weights import load_weights
from ofq.oscillation.batch_statistics import Reestimation
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.convert import quantize_model
from ofq.quant.quantizers.learned import learned_steps, set_parts
from ofq.quant.weights import block_weights
from ofq.runs.files import replacing
from ofq.runs.published import check
from ofq.training.job import Job
from ofq.training.loop import evaluate
from ofq.training.losses import Logits, distillation_loss, label_loss
from ofq.training.optim import Optimizer
from ofq.training.publish import publish

_log = logging.getLogger(__name__)

# Gives the batches over which statistics are made anew another order than training, annealing and probe have.
_ORDER = 3_000_017
_UNESTIMATED = "leave out qat.reestimation_batches of its recipe in params.yaml"


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


def check_norms(model: nn.Module, config: StudentConfig) -> None:
    """Check what a student's settings ask of the batch norms of its model, which is in full precision.

    Raises:
        UserError: they should be re-estimated and there are none, or they cannot be; or a teacher that has some should
            teach in training mode.
    """
    if config.train.reestimation_batches:
        try:
            known = bool(batch_norms(model))
        except ValueError as error:
            raise UserError(f"{config.model.timm}: {error}; {_UNESTIMATED}") from None
        if not known:
            raise UserError(f"{config.model.timm} has no batch norms whose statistics change; {_UNESTIMATED}")
    if config.teacher_mode == "train" and needs_whole_batches(model):
        raise UserError(
            f"the teacher {config.model.timm} has batch norms, whose statistics would change while it teaches: "
            "fidelity.teacher_mode should be eval in params.yaml"
        )


def load_teacher(job: Job[StudentConfig]) -> nn.Module:
    """Load the run's trained teacher, without gradients and in the mode that ``teacher_mode`` names.

    In training mode, as in the released code, a teacher with two heads gives the pair of their outputs.
    """
    model = build_model(job.config, job.data)
    check_norms(model, job.config)
    load_weights(model, job.run.teacher.files.model)
    train_both_heads(model)
    return model.train(job.config.teacher_mode == "train").requires_grad_(False)


def make_student(job: Job[StudentConfig]) -> nn.Module:
    """Make a quantized model with the weights and biases of the teacher (QKR drops the query and key biases).

    With ``attention_init: random`` the attention projections are drawn anew.
    """
    student, config = load_teacher(job).requires_grad_(True), job.config
    if isinstance(config, QatConfig) and config.attention_init == "random":
        draw_attention(student, config.seed, keep_qkv=config.quantization.qkr)
    quantize_as(student, config.quantization, config.model.timm)
    set_parts(student, job.rank.count * job.parts)
    return job.device.place(student)


def loss_from(job: Job[StudentConfig], student: nn.Module) -> Callable[[Batch], Tensor]:
    """Make the function that gives the loss of a batch.

    It is cross-entropy on the labels plus soft cross-entropy on the teacher's output, which is stored or computed as
    the recipe says. If the teacher gives a pair (class, distillation), only the first is used. Without distillation it
    is cross-entropy on the labels alone.

    Raises:
        UserError: the stored output is missing, damaged, not finite, or belongs to other images.
    """
    if not job.config.distillation:
        return lambda batch: label_loss(student(batch.images), batch.labels)
    taught = _stored_output(job) if job.config.teacher_once else _computed_output(job)

    def loss_of(batch: Batch) -> Tensor:
        logits = taught(batch)
        return distillation_loss(student(batch.images), logits, batch.labels)

    return loss_of


def _stored_output(job: Job[StudentConfig]) -> Callable[[Batch], Logits]:
    check_images(job.config.augment, streamed=job.data.streamed, stored=True)
    path = job.run.teacher.files.logits
    try:
        logits = load_file(path)["train"]
    except FileNotFoundError:
        raise missing(path) from None
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run snakemake again") from None
    if not logits.isfinite().all():
        raise UserError(f"{path} holds values that are not finite; delete it and run snakemake again")
    if logits.shape != (job.data.count, job.data.classes):
        raise UserError(f"{path} belongs to other images; delete it and run snakemake again")
    check(path)
    here = logits.to(job.device.where)
    return lambda batch: here[batch.indices]


def _computed_output(job: Job[StudentConfig]) -> Callable[[Batch], Logits]:
    teacher = job.device.place(load_teacher(job))
    return torch.no_grad()(lambda batch: teacher(batch.images))


def reestimations(job: Job[StudentConfig], student: nn.Module) -> list[Reestimation]:
    """Return the hook that evaluates a quantized student with re-estimated statistics too, if its recipe asks for it.

    The batches after step t are those of steps t, t + 1, ... of another order of the training images, changed as the
    recipe changes them.
    """
    if not (count := job.recipe.reestimation_batches):
        return []
    data = job.data.of_training(slice(None))  # whose batches in the making are its own
    other = replace(job, seed=job.seed + _ORDER, data=data)

    def estimate(step: int) -> None:
        with job.device.exact():
            reestimate(student, (other.batch(step + number).images for number in range(count)))
        data.close()

    names = {module: name for name, module in student.named_modules()}
    groups = {names[weight.layer]: weight.group for weight in block_weights(student)}
    return [Reestimation(student, groups, estimate, lambda: evaluate(student, job.data, job.device, job.rank)[0])]


def publish_student(
    job: Job[StudentConfig],
    student: nn.Module,
    optimizer: Optimizer,
    recorder: OscillationRecorder,
    more: dict[Path, pd.DataFrame] | None = None,
    reestimated: Sequence[Reestimation] = (),
) -> None:
    """Measure the final student, each process on its images, and publish it with its oscillation record and more.

    Where statistics were re-estimated, the record has what they were behind each layer, and the results have accuracy
    with them and its mean and standard deviation over the last evaluations, with running statistics and without.

    Learned steps that ended below their floor are told, and stand in the model's file as the floor, which acts.
    """
    measured = recorder.finish()
    top1, loss = evaluate(student, job.data, job.device, job.rank)
    job = job.with_others()
    if not job.rank.leads:
        return
    events = job.events.events("step")
    best = max(event["val/top1"] for event in events)
    files = job.run.files
    oscillation = recorder.oscillation()
    for hook in reestimated:
        oscillation = hook.joined(oscillation)
    records = {**(more or {}), files.oscillation: oscillation, files.weights: recorder.final_weights()}
    for path, frame in records.items():
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
    metrics = {"top1": top1, "top1_best": best, "loss": loss, **measured}
    if reestimated:
        metrics |= _with_reestimated(events)
    steps = learned_steps(student)
    low = {name: (scale < floor).float().mean().item() for name, (scale, floor) in steps.items()}
    if sunk := sorted((name for name in low if low[name]), key=low.__getitem__, reverse=True):
        floors = " or ".join(f"{floor:g}" for floor in sorted({steps[name][1] for name in sunk}))
        _log.warning(
            "%s: steps of %d of %d quantizers ended below %s, which acts in their place: %s; what they scale is "
            "rounded to nearly 0; a lower lr may keep them above",
            *(job.label, len(sunk), len(low), floors),
            first_of([f"{100 * low[name]:.1f} % of {name}" for name in sunk], 3),
        )
    # The weights are for whoever computes with them; who trains on needs the steps that the optimizer moved.
    weights = student.state_dict() | {name: scale.clamp_min(floor) for name, (scale, floor) in steps.items()}
    moved = {name: scale for name, (scale, _) in steps.items()}
    trainer = {"optimizer": optimizer.state_dict(), "recorder": recorder.state_dict(), "steps": moved}
    publish(job, weights, metrics, list(records), trainer, {"steps_below_floor": low})


def _with_reestimated(events: list[dict[str, float]]) -> dict[str, float]:
    """Return results with re-estimated statistics, of the last evaluation and over the last ones."""
    found = {"top1_reestimated": events[-1]["val/top1_reestimated"]}
    for name in ("top1", "top1_reestimated"):
        values = [event[f"val/{name}"] for event in events[-LAST:]]
        found |= {f"{name}_last": fmean(values), f"{name}_last_sd": stdev(values) if len(values) > 1 else 0.0}
    return found | {name.removeprefix("bn/"): value for name, value in events[-1].items() if name.startswith("bn/")}
