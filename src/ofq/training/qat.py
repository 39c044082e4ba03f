"""Quantization-aware training of one student, from its teacher's weights and with its teacher's guidance."""

from ofq.config.resolve import KEEPING, Keeping, QatConfig
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.calibration import calibrate
from ofq.quant.weights import attach
from ofq.remedies.load import make_remedy
from ofq.runs.paths import Run
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Step, started
from ofq.training.loop import train
from ofq.training.optim import make_optimizer
from ofq.training.student import loss_from, make_student, publish_student, reestimations


def run_qat(run: Run, config: QatConfig, keeping: Keeping = KEEPING, rank: Rank = ALONE) -> None:
    """Train, measure and publish one quantized student.

    Args:
        run: what is trained.
        config: of the run.
        keeping: how the resumable state is kept.
        rank: which of its processes this is.
    """
    with started(run, config, Step(__name__, run.teacher.files.taught), keeping, rank) as job:
        student = make_student(job)
        first = range(config.calibration_batches)
        size = job.recipe.batch_size
        # Each process takes the whole batches, as one alone does; then the first one's steps are everybody's.
        with job.device.exact():
            calibrate(student, [job.data.train(job.seed, step, size).images for step in first])
        optimizer = make_optimizer(student, job.recipe)
        recorder = OscillationRecorder(student)
        remedies = [make_remedy(config.remedy, student, job.recipe.length)] if config.remedy else []
        for remedy in remedies:
            attach(remedy, student)
        again = reestimations(job, student)
        train(job, student, optimizer, loss_from(job, student), [recorder, *remedies, *again])
        publish_student(job, student, optimizer, recorder, reestimated=again)
