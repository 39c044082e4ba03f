"""Annealing: continue a finished run at its last learning rate with confident weights, all or none frozen."""

from torch import nn

from ofq.config.resolve import KEEPING, AnnealConfig, Keeping
from ofq.config.settings import Cga
from ofq.remedies.annealing import Annealing, FrozenWeights
from ofq.remedies.annealing_trace import AnnealingTrace
from ofq.remedies.cga import ConfidenceGuidedAnnealing
from ofq.runs.paths import Run
from ofq.training.continued import hold_rate, last_state
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Step, started
from ofq.training.loop import train
from ofq.training.student import loss_from, publish_student, reestimations

# Gives the images an order that differs from that of the parent's last epochs.
_ORDER = 1_000_003


def run_cga(run: Run, config: AnnealConfig, keeping: Keeping = KEEPING, rank: Rank = ALONE) -> None:
    """Anneal, measure and publish the parent's student.

    The parent's optimizer and oscillation state go on; reversals are counted from the start of annealing.

    Args:
        run: what is trained.
        config: of the run; names the parent and the annealing.
        keeping: how the resumable state is kept.
        rank: which of its processes this is.
    """
    parent = run.sibling(config.parent)
    inputs = [*run.teacher.files.taught, parent.files.model, parent.files.trainer]
    with started(run, config, Step(__name__, inputs, order=_ORDER), keeping, rank) as job:
        student, optimizer, recorder = last_state(job, parent)
        hold_rate(optimizer, config.train.lr)
        annealing = _annealing(student, config.cga)
        trace, again = AnnealingTrace(annealing), reestimations(job, student)
        train(job, student, optimizer, loss_from(job, student), [recorder, annealing, trace, *again])
        publish_student(job, student, optimizer, recorder, {run.files.annealing: trace.frame()}, again)


def _annealing(student: nn.Module, cga: Cga) -> Annealing:
    if cga.frozen == "confident":
        assert cga.boundary_range is not None
        return ConfidenceGuidedAnnealing(student, cga.boundary_range, freeze_qk=cga.freeze_qk is not False)
    return FrozenWeights(student) if cga.frozen == "everything" else Annealing(student)
