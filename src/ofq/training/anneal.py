"""Annealing: continue a finished run at its last learning rate with confident weights, all or none frozen."""

from torch import nn

from ofq.config.resolve import KEEPING, AnnealConfig, Keeping
from ofq.config.settings import Cga
from ofq.remedies.annealing import Annealing, FrozenWeights
from ofq.remedies.annealing_trace import AnnealingTrace
from ofq.remedies.cga import ConfidenceGuidedAnnealing
from ofq.runs.files import replacing
from ofq.runs.paths import Run, data_dir
from ofq.training.continued import hold_rate, last_state
from ofq.training.job import session
from ofq.training.loop import train
from ofq.training.student import load_data, loss_from, publish_student


def run_cga(run: Run, config: AnnealConfig, keeping: Keeping = KEEPING) -> None:
    """Anneal, measure and publish the parent's student.

    The parent's optimizer and oscillation state go on; reversals are counted from the start of annealing.

    Args:
        run: what is trained.
        config: of the run; names the parent and the annealing.
        keeping: how the resumable state is kept.
    """
    parent = run.sibling(config.parent)
    inputs = [
        data_dir(run.study) / "manifest.json",
        *run.teacher.files.taught,
        parent.files.model,
        parent.files.trainer,
    ]
    with session(run, config, keeping, __name__, inputs) as current:
        data = load_data(run, config)
        student, optimizer, recorder = last_state(parent, config, data)
        hold_rate(optimizer, config.train.lr)
        annealing = _annealing(student, config.cga)
        trace = AnnealingTrace(annealing)
        train(
            student,
            loss_from(run, config, data, student),
            optimizer,
            data,
            config.train,
            # So that the order of the images differs from that of the parent's last epochs.
            seed=config.seed + 1_000_003,
            label=run.label,
            checkpoints=current.checkpoints,
            events=current.events,
            hooks=[recorder, annealing, trace],
        )
        with replacing(run.files.annealing) as temporary:
            trace.frame().to_parquet(temporary, index=False)
        publish_student(current, student, optimizer, recorder, data)


def _annealing(student: nn.Module, cga: Cga) -> Annealing:
    if cga.frozen == "confident":
        assert cga.boundary_range is not None
        return ConfidenceGuidedAnnealing(student, cga.boundary_range, freeze_qk=cga.freeze_qk is not False)
    return FrozenWeights(student) if cga.frozen == "everything" else Annealing(student)
