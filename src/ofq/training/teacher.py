"""Train the full-precision model from which the students of a seed start and learn."""

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ofq.config.resolve import KEEPING, Keeping, TeacherConfig
from ofq.data import batches
from ofq.models.backbone import build, train_both_heads
from ofq.runs.files import write_bytes
from ofq.runs.paths import Run, data_dir
from ofq.training.job import session
from ofq.training.loop import evaluate, train
from ofq.training.losses import Logits
from ofq.training.optim import make_optimizer
from ofq.training.publish import publish


def run_teacher(run: Run, config: TeacherConfig, keeping: Keeping = KEEPING) -> None:
    """Train one teacher on the labels, evaluate it after the last step and publish it.

    Its output on every training image is published too: training images do not change from epoch to epoch, so students
    need not compute it again.

    Args:
        run: what is trained.
        config: of the run.
        keeping: how the resumable state is kept.
    """
    with session(run, config, keeping, __name__, [data_dir(run.study) / "manifest.json"]) as current:
        data = batches.load(run.study)
        model = build(
            config.model, image_size=data.image_size, channels=data.channels, classes=data.classes, seed=config.seed
        )
        train_both_heads(model)
        train(
            model,
            lambda batch: _loss(model(batch.images), batch.labels),
            make_optimizer(model, config.train),
            data,
            config.train,
            seed=config.seed,
            label=run.label,
            checkpoints=current.checkpoints,
            events=current.events,
        )
        write_bytes(run.files.logits, save({"train": _outputs(model, data)}))
        top1, loss = evaluate(model, data)
        publish(current, model, {"top1": top1, "loss": loss})


def _loss(logits: Logits, labels: Tensor) -> Tensor:
    """Return the cross-entropy on the labels, for two heads the mean over both, so that each can teach alone."""
    if isinstance(logits, Tensor):
        return cross_entropy(logits, labels)
    return torch.stack([cross_entropy(one, labels) for one in logits]).mean()  # (heads,) to ()


@torch.no_grad()
def _outputs(model: nn.Module, data: batches.StudyData) -> Tensor:
    """Compute the logits of every training image (n, classes), in evaluation mode and batches of a fixed size."""
    model.eval()
    # Batches (B, channels, height, width)
    return torch.cat([model(images) for images in data.train_images.split(batches.EVAL_BATCH)])
