"""Continue a finished student where its run ended."""

from torch import nn

from ofq.config.resolve import StudentConfig
from ofq.errors import UserError
from ofq.models.weights import load_weights
from ofq.oscillation.recorder import OscillationRecorder
from ofq.runs import checkpoint
from ofq.runs.paths import Run
from ofq.runs.published import check
from ofq.training.job import Job
from ofq.training.optim import Optimizer, make_optimizer
from ofq.training.student import make_student


def last_state(job: Job[StudentConfig], run: Run) -> tuple[nn.Module, Optimizer, OscillationRecorder]:
    """Load a finished run's student, its optimizer with its moments, and its recorder, which counts reversals anew.

    They are copies: no change to them reaches the run's files.

    Args:
        job: what continues the run; names model and quantization.
        run: finished.

    Raises:
        UserError: a file of the run is missing, damaged, changed, or belongs to another model.
    """
    student = make_student(job)
    load_weights(student, run.files.model)
    before = checkpoint.load(run.files.trainer)
    optimizer = make_optimizer(student, job.recipe)
    recorder = OscillationRecorder(student)
    try:
        optimizer.load_state_dict(before["optimizer"])
        recorder.load_state_dict(job.device.move_state(before["recorder"]))
        # In the model's file stands the floor of those below it. Older files have no steps here, and these ones there.
        student.load_state_dict(before.get("steps", {}), strict=False)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{run.files.trainer} belongs to another run ({error}); make {run} anew") from None
    check(run.files.trainer)
    recorder.restart_counts()
    return student, optimizer, recorder


def hold_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the optimizer to a constant learning rate; its moments stay, the earlier run's schedule does not."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = lr
