"""Train, or take over, the full-precision model from which the students of a seed start and learn."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ofq.config.resolve import KEEPING, Keeping, TeacherConfig, given_weights
from ofq.data.manifest import read_manifest
from ofq.models.backbone import build_model, train_both_heads
from ofq.models.pretrained import load_pretrained, normalisation, weights_file
from ofq.runs.files import write_bytes
from ofq.runs.paths import Run
from ofq.runs.provenance import file_digest
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Job, Step, started
from ofq.training.loop import evaluate, train
from ofq.training.losses import label_loss
from ofq.training.optim import make_optimizer
from ofq.training.publish import publish

_log = logging.getLogger(__name__)


def run_teacher(run: Run, config: TeacherConfig, keeping: Keeping = KEEPING, rank: Rank = ALONE) -> None:
    """Train one teacher on the labels, or load its weights where they are given, evaluate it and publish it.

    Its output on every training image is published too, unless they are streamed: images in memory do not change from
    epoch to epoch, so students need not compute it again.

    Args:
        run: what is trained.
        config: of the run.
        keeping: how the resumable state is kept.
        rank: which of its processes this is.
    """
    given = weights_file(config.model.timm, config.pretrained) if config.pretrained else None
    with started(run, config, Step(__name__, given_weights(config)), keeping, rank) as job:
        model = build_model(config, job.data)
        noted = _load(job, model, *given) if given else {}
        train_both_heads(model)
        job.device.place(model)
        if not given:
            optimizer = make_optimizer(model, job.recipe)
            train(job, model, optimizer, lambda batch: label_loss(model(batch.images), batch.labels))
        top1, loss = evaluate(model, job.data, job.device, job.rank)
        job = job.with_others()
        if job.rank.leads:
            write_bytes(run.files.logits, save({"train": _outputs(job, model)}))
            publish(job, model.state_dict(), {"top1": top1, "loss": loss}, [run.files.logits], noted=noted)


def _load(job: Job[TeacherConfig], model: nn.Module, path: Path, name: str) -> dict[str, Any]:
    """Load given weights, and return what ``run.json`` says of them: their name and sha256.

    Weights were trained on images that were normalised in some way. Those of the study are normalised in its own, and
    a difference is told.
    """
    load_pretrained(model, path, job.config.model.timm)
    _log.info("%s  weights of %s", job.label, name)
    manifest, expected = read_manifest(job.run.study), normalisation(job.config.model.timm)
    here = [*manifest.mean, *manifest.std]
    there = [value for values in expected or () for value in values]
    if len(here) == len(there) and not all(math.isclose(*pair, abs_tol=0.01) for pair in zip(here, there, strict=True)):
        _log.warning(
            "%s: images of the study are normalised by mean and deviation %s, those of timm's weights of %s by %s",
            *(job.label, (manifest.mean, manifest.std), job.config.model.timm, expected),
        )
    if job.rank.leads:
        job.events.restore()
    return {"pretrained": {"name": name, "sha256": file_digest(path)}}


@torch.no_grad()
def _outputs(job: Job[TeacherConfig], model: nn.Module) -> Tensor:
    """Compute the logits of every training image (n, classes), in evaluation mode and batches of a fixed size.

    Of streamed images none are stored (0, classes): their students ask the teacher at every step.
    """
    if job.data.streamed:
        return torch.empty(0, job.data.classes)
    model.eval()
    with job.device.exact():
        batches = job.data.of_training(slice(None)).evaluation()
        # Batches (B, channels, height, width)
        return torch.cat([model(batch.images) for batch in batches])
