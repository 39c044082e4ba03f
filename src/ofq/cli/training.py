"""Commands that train a run or measure a finished one. Each imports what it needs when it is called."""

import logging
import os
from typing import TYPE_CHECKING

from ofq.cli.command import RUN, STUDY, Argument, Commands
from ofq.cli.run import REPLY
from ofq.environment import RESUME_ACROSS_CODE
from ofq.errors import UserError
from ofq.workflow.warm import end_with

if TYPE_CHECKING:
    from ofq.config.handover import JobSettings
    from ofq.config.resolve import Keeping
    from ofq.runs.paths import Run

COMMANDS = Commands()

_ACROSS: Argument = (
    "--resume-across-code",
    {"action": "store_true", "help": "go on from a state that other code saved; run.json will say so"},
)


@COMMANDS(RUN, _ACROSS, warm=True)
def teacher(run: str, resume_across_code: bool) -> None:
    """Train a full-precision teacher.

    Needs the study's data. Trains with recipes.*.teacher and writes the run's files into results/RUN. The coordinates
    of a teacher are study/model/fp/teacher/seedN.

    Ctrl-C saves the state under runs/RUN; the same command goes on from there. A finished run is trained again from its
    start; snakemake leaves it alone.

    example: python -m ofq teacher digits/vit_micro/fp/teacher/seed0
    """
    _train("teacher", run, resume_across_code)


@COMMANDS(RUN, _ACROSS, warm=True)
def qat(run: str, resume_across_code: bool) -> None:
    """Train a quantized student with its teacher's guidance, and measure it.

    Needs the study's data and the teacher of the same model and seed. Starts from the teacher's weights, sets the
    learned steps, trains with recipes.*.qat while the integer codes of every weight are followed, and writes the run's
    files into results/RUN.

    Ctrl-C saves the state under runs/RUN; the same command goes on from there. A finished run is trained again from its
    start; snakemake leaves it alone.

    example: python -m ofq qat digits/vit_micro/w2a2/statsq-qkr/seed0
    """
    _train("qat", run, resume_across_code)


@COMMANDS(RUN, _ACROSS, warm=True)
def cga(run: str, resume_across_code: bool) -> None:
    """Anneal the finished run of a variant's parent, and measure it.

    Needs what qat needs and the finished run of the variant's parent. Continues it with recipes.*.cga: in each step
    only weights near a rounding threshold train. The parent's files are left as they are.

    Ctrl-C saves the state under runs/RUN; the same command goes on from there. A finished run is trained again from its
    start; snakemake leaves it alone.

    example: python -m ofq cga digits/vit_micro/w2a2/statsq-qkr-cga/seed0
    """
    _train("cga", run, resume_across_code)


@COMMANDS(RUN, ("--steps", {"type": int, "help": "length of the window (default: 300)"}), warm=True)
def probe(run: str, steps: int | None) -> None:
    """Measure a finished run's oscillation again, over further steps of a copy.

    Takes a finished student's model and the state of its optimizer and trains a copy for a further window at the run's
    last learning rate, annealing nothing; writes probe.json and probe.parquet (with --steps N: probe-N.json and
    probe-N.parquet) beside the run's files, which stay as they are: shares of oscillating weights and reversals by
    layer group, how often gradients and codes turn round by the distance to the nearest rounding threshold, and whether
    query and key codes turn round together.

    example: python -m ofq probe digits/vit_micro/w2a2/statsq/seed0
    """
    from ofq.config.handover import job_settings
    from ofq.runs.paths import Run

    named = Run.named(run)
    job = job_settings(named)
    from ofq.measure.extent import WINDOW
    from ofq.measure.probe import run_probe

    run_probe(named, job.config, job.keeping, steps=WINDOW if steps is None else steps)


@COMMANDS(RUN, warm=True)
def noise(run: str) -> None:
    """Evaluate a finished run with noise on its codes, near rounding thresholds and anywhere.

    Takes a finished student and evaluates it with noise on its codes: weights near a rounding threshold get one of the
    two codes next to it at random, or as many weights anywhere get a neighbouring code; ten trials each, and without
    noise. Writes noise.parquet beside the run's files, which stay as they are. Nothing is trained.

    example: python -m ofq noise digits/vit_micro/w2a2/statsq/seed0
    """
    from ofq.config.handover import job_settings
    from ofq.runs.paths import Run

    named = Run.named(run)
    job = job_settings(named)
    from ofq.measure.noise import run_noise

    run_noise(named, job.config, job.keeping)


@COMMANDS(
    STUDY,
    ("model", {"metavar": "MODEL", "help": "of the study"}),
    ("variant", {"metavar": "VARIANT", "nargs": "?", "help": "of the study; left out: its first quantized one"}),
    ("--bits", {"metavar": "BITS", "help": "of the study, such as w2a2; left out: its first"}),
)
def model(study: str, model: str, variant: str | None, bits: str | None) -> None:
    """Print what of a model is quantized, to how many bits, and what share that is.

    Needs the study's data, prepared, for the size of their images; writes nothing. A line for each module that has
    quantizers: those of its weight and of its activations with their bits, the numbers in its weight, and its
    multiply-adds for one image. Then the shares of all weights and of all multiply-adds that have the bits of the
    study, those of the first and the last layer, and full precision.

    examples: python -m ofq model digits vit_micro
              python -m ofq model digits vit_micro statsq-qkr --bits w3a3
    """
    from ofq.config.grid import Grid
    from ofq.config.resolve import TeacherConfig, resolve
    from ofq.runs.paths import Run
    from ofq.workflow.targets import load_project

    params = load_project()
    grid = Grid(params, study)
    run = Run(study, model, bits or grid.bits[0], variant or grid.quantized[0], grid.seeds[0])
    config = resolve(params, run)
    if isinstance(config, TeacherConfig):
        raise UserError(f"{run.variant} at {run.bits} is in full precision: name bits and a variant of students")
    from ofq.measure.model import describe

    print(describe(run, config))


def _train(phase: str, name: str, resume_across_code: bool) -> None:
    from dataclasses import replace

    from ofq.cli.marks import failure_noted
    from ofq.config.handover import job_settings
    from ofq.runs.paths import Run

    run = Run.named(name)
    job = job_settings(run)
    config = job.config
    if config.phase != phase:
        raise UserError(f"{run} is a {config.phase} run; use: python -m ofq {config.phase} {run}")
    across = resume_across_code or os.environ.get(RESUME_ACROSS_CODE) == "1"
    keeping = replace(job.keeping, resume_across_code=across)
    with failure_noted(run):
        if keeping.devices > 1 and REPLY not in os.environ:
            from ofq.cli.ranks import start

            start(run, config, keeping)
        else:
            _train_here(run, job, keeping)


def _train_here(run: "Run", job: "JobSettings", keeping: "Keeping") -> None:
    """Train a run in this process, alone or as one of several."""
    config = job.config
    from ofq.training.distributed import joined

    with joined(config.hardware.device) as rank:
        if rank.count > 1:
            end_with(os.getppid())
        if not rank.leads:
            logging.getLogger("ofq").setLevel(logging.ERROR)  # the first tells what all of them do
        if config.phase == "teacher":
            from ofq.training.preflight import check_study
            from ofq.training.teacher import run_teacher

            # What its students would fail of should be known before it has been trained for days.
            check_study(run.study, [config, *job.students])
            run_teacher(run, config, keeping, rank)
        elif config.phase == "qat":
            from ofq.training.qat import run_qat

            run_qat(run, config, keeping, rank)
        else:
            from ofq.training.anneal import run_cga

            run_cga(run, config, keeping, rank)
