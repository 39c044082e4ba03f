"""Train the full-precision model from which the students of a seed start and learn."""

from torch.nn.functional import cross_entropy

from ofq.data import batches
from ofq.models import build
from ofq.params import KEEPING, Keeping, RunConfig
from ofq.paths import Run, data_dir
from ofq.training.loop import evaluate, train
from ofq.training.optim import make_optimizer
from ofq.training.session import session


def run_teacher(run: Run, config: RunConfig, keeping: Keeping = KEEPING) -> None:
    """Train one teacher on the labels and publish it; the model after the last step is the one evaluated."""
    with session(run, config, keeping, __name__, [data_dir(run.study) / "manifest.json"]) as current:
        data = batches.load(run.study)
        model = build(
            config.model, image_size=data.image_size, channels=data.channels, classes=data.classes, seed=config.seed
        )
        train(
            model,
            lambda images, labels: cross_entropy(model(images), labels),
            make_optimizer(model, config.train),
            data,
            config.train,
            seed=config.seed,
            label=run.label,
            checkpoints=current.checkpoints,
            events=current.events,
        )
        top1, loss = evaluate(model, data)
        current.publish(model, {"top1": top1, "loss": loss})
