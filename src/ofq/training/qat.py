"""Quantization-aware training of one student, from its teacher's weights and with its teacher's guidance."""

from ofq.config.resolve import KEEPING, Keeping, QatConfig
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant.calibration import calibrate
from ofq.quant.weights import attach
from ofq.remedies.load import make_remedy
from ofq.runs.paths import Run, data_dir
from ofq.training.job import session
from ofq.training.loop import train
from ofq.training.optim import make_optimizer
from ofq.training.student import load_data, loss_from, make_student, publish_student


def run_qat(run: Run, config: QatConfig, keeping: Keeping = KEEPING) -> None:
    """Train, measure and publish one quantized student.

    Args:
        run: what is trained.
        config: of the run.
        keeping: how the resumable state is kept.
    """
    inputs = [data_dir(run.study) / "manifest.json", *run.teacher.files.taught]
    with session(run, config, keeping, __name__, inputs) as current:
        data = load_data(run, config)
        student = make_student(run, config, data)
        first = range(config.calibration_batches)
        calibrate(student, [data.train_batch(config.seed, i, config.train.batch_size).images for i in first])
        optimizer = make_optimizer(student, config.train)
        recorder = OscillationRecorder(student)
        remedies = [make_remedy(config.remedy, student, config.train.steps)] if config.remedy else []
        for remedy in remedies:
            attach(remedy, student)
        train(
            student,
            loss_from(run, config, data, student),
            optimizer,
            data,
            config.train,
            seed=config.seed,
            label=run.label,
            checkpoints=current.checkpoints,
            events=current.events,
            hooks=[recorder, *remedies],
        )
        publish_student(current, student, optimizer, recorder, data)
