"""What a study would run, as a table for people: why, from which step, hours, memory and disk."""

from dataclasses import dataclass

from tabulate import tabulate  # type: ignore[import-untyped]

from ofq.config.params import Params
from ofq.config.resolve import resolve
from ofq.errors import UserError, counted
from ofq.measure.extent import PLACES, RANGES, TRAIN_IMAGES, TRIALS, WINDOW
from ofq.measure.pace import Pace
from ofq.measure.shape import Shape, shape_of
from ofq.runs.paths import Run
from ofq.workflow.forecast.jobs import Job, jobs_of
from ofq.workflow.forecast.paces import paces_of
from ofq.workflow.forecast.records import evaluated, recipe_of

_HEAD = ("job", "why", "from step", "steps", "hours", "MiB", "MiB on disk")
_ALIGNED = ("left", "left", "right", "right", "right", "right", "right")
TRAINING = ("teacher", "qat", "cga")
_UNITS = {"cpu": "CPU-hours", "cuda": "GPU-hours"}
_MIB = 2**20
_KEPT = 2  # checkpoints of a run
# CPU-seconds beside training: of a snakemake and the process from which its jobs start, of each job, and of each part
# of the report. Of `digits`, on two cores of an AMD EPYC.
_SNAKEMAKE, _JOB, _PART = 12.0, 0.5, 3.0


def forecast(params: Params, study: str, group: str | None) -> str:
    """Return a line for each job that Snakemake would run for a study or a group of it, and the total.

    Hours are of processors or, where runs have a card, of cards. Where the pace of a run cannot be known they are
    unknown, and the total says so.

    Raises:
        UserError: no such study or group, a mistake in the project, or a model that cannot be built or trained.
    """
    jobs, others = jobs_of(params, study, group)
    unit = _UNITS[params.studies[study].hardware.device]
    if not jobs and not others:
        return f"nothing to do\ntotal: 0 runs, 0 {unit}"
    estimates: dict[Job, Estimate] = {}
    notes: list[str] = []
    for name in dict.fromkeys(job.made.study for job in jobs):
        found, note = _all_estimated(params, name, [job for job in jobs if job.made.study == name])
        estimates |= found
        notes += note
    trained = [estimate for job, estimate in estimates.items() if job.made.step in TRAINING]
    seconds = sum(estimate.seconds or 0.0 for estimate in estimates.values())
    if unit == _UNITS["cpu"]:
        seconds += _SNAKEMAKE + _JOB * len(jobs) + _PART * others
    if others:
        notes.append(f"and {counted(others, 'job')} more: parts of the report, the toy, MLflow")
    unknown = sum(estimate.seconds is None for estimate in estimates.values())
    told = [
        counted(len(trained), "run"),
        f"{sum(estimate.steps for estimate in trained):,} steps",
        f"{sum(estimate.bytes for estimate in trained) / _MIB:,.0f} MiB on disk",
        *([f"hours of {counted(unknown, 'job')} unknown"] if unknown else []),
        f"{'at least ' if unknown else ''}{_hours(seconds)} {unit}",
    ]
    rows = [_HEAD, *(estimate.row(job) for job, estimate in estimates.items())] if jobs else []
    table = tabulate(rows, tablefmt="plain", colalign=_ALIGNED, disable_numparse=True)
    return "\n".join([*table.splitlines(), *notes, f"total: {', '.join(told)}"])


@dataclass(frozen=True)
class Estimate:
    """What is expected of a job; seconds of the processor or the card, None where nothing tells."""

    steps: int = 0
    seconds: float | None = 0.0
    memory_mib: int | None = None
    bytes: int = 0

    def row(self, job: Job) -> list[str]:
        """Return its line of the table."""
        trains = job.made.step in TRAINING
        return [
            str(job.made),
            job.why,
            f"{job.first:,}" if trains else "",
            f"{self.steps:,}" if self.steps else "",
            "?" if self.seconds is None else _hours(self.seconds) if self.steps or self.seconds else "",
            "" if self.memory_mib is None else f"{self.memory_mib:,}",
            f"{self.bytes / _MIB:,.1f}" if self.bytes else "",
        ]


def _all_estimated(params: Params, study: str, jobs: list[Job]) -> tuple[dict[Job, Estimate], list[str]]:
    """Return what is expected of the jobs of one study, and what is to be told of it."""
    notes = []
    try:
        shape = shape_of(study, params.studies[study].data)
    except UserError as error:
        shape = None
        notes.append(str(error))
    runs = list(dict.fromkeys(job.made.of for job in jobs if isinstance(job.made.of, Run)))
    paces, source = paces_of(params, runs, shape) if runs else ({}, "")
    notes += [f"{study}: {source}"] if source else []
    return {job: estimated(params, job, paces, shape) for job in jobs}, notes


def estimated(params: Params, job: Job, paces: dict[Run, Pace], shape: Shape | None) -> Estimate:
    """Return what is expected of a job, from the paces of runs and the shape of its study's images."""
    run, step = job.made.of, job.made.step
    if not isinstance(run, Run):
        return Estimate()
    config, pace = resolve(params, run), paces.get(run)
    memory = pace.memory_mib if pace else None
    if step == "noise":
        rows = 1 + len(RANGES) * len(PLACES) * TRIALS
        images = rows * (shape.evaluated + min(TRAIN_IMAGES, shape.train)) if shape else 0
        return Estimate(0, pace.seconds(0, images) if pace else None, memory)
    recipe = recipe_of(config, shape)
    if recipe is None and config.train is not None:  # epochs of unknown images
        return Estimate(seconds=None)
    if recipe and step == "probe":
        recipe = recipe.held(recipe.min_lr, WINDOW)
    steps, images = recipe.length - job.first if recipe else 0, evaluated(recipe, step, shape, job.first)
    seconds = pace.seconds(steps, images) if pace else None
    size = pace.published + _KEPT * pace.state if pace and step in TRAINING else 0
    return Estimate(steps, seconds, memory, size)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"
