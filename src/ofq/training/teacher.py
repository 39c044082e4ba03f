"""Train the full-precision model from which the students of a seed start and learn."""

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ofq.config.resolve import KEEPING, Keeping, TeacherConfig
from ofq.models.backbone import train_both_heads
from ofq.runs.files import write_bytes
from ofq.runs.paths import Run
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Job, Step, build_model, started
from ofq.training.loop import evaluate, train
from ofq.training.losses import Logits
from ofq.training.optim import make_optimizer
from ofq.training.publish import publish


def run_teacher(run: Run, config: TeacherConfig, keeping: Keeping = KEEPING, rank: Rank = ALONE) -> None:
    """Train one teacher on the labels, evaluate it after the last step and publish it.

    Its output on every training image is published too: training images do not change from epoch to epoch, so students
    need not compute it again.

    Args:
        run: what is trained.
        config: of the run.
        keeping: how the resumable state is kept.
        rank: which of its processes this is.
    """
    with started(run, config, Step(__name__), keeping, rank) as job:
        model = build_model(config, job.data)
        train_both_heads(model)
        job.device.place(model)
        train(job, model, make_optimizer(model, config.train), lambda batch: _loss(model(batch.images), batch.labels))
        top1, loss = evaluate(model, job.data, job.device, job.rank)
        job = job.with_others()
        if job.rank.leads:
            write_bytes(run.files.logits, save({"train": _outputs(job, model)}))
            publish(job, model.state_dict(), {"top1": top1, "loss": loss}, [run.files.logits])


def _loss(logits: Logits, labels: Tensor) -> Tensor:
    """Return the cross-entropy on the labels, for two heads the mean over both, so that each can teach alone."""
    if isinstance(logits, Tensor):
        return cross_entropy(logits, labels)
    return torch.stack([cross_entropy(one, labels) for one in logits]).mean()  # (heads,) to ()


@torch.no_grad()
def _outputs(job: Job[TeacherConfig], model: nn.Module) -> Tensor:
    """Compute the logits of every training image (n, classes), in evaluation mode and batches of a fixed size."""
    model.eval()
    with job.device.exact():
        batches = job.data.of_training(slice(None)).evaluation()
        # Batches (B, channels, height, width)
        return torch.cat([model(batch.images) for batch in batches])
