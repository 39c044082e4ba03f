"""How far each run of a study is, by its files and its lock, and how long the rest will take."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ofq.config.params import Params
from ofq.data.manifest import manifest_path
from ofq.environment import LOCKS
from ofq.errors import UserError
from ofq.measure.shape import shape_of
from ofq.runs import states
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from ofq.runs.progress import SILENCE, clock
from ofq.runs.published import read_info
from ofq.runs.standing import Standing, failure, standing
from ofq.workflow.finished import Finished, Made
from ofq.workflow.forecast.jobs import Job
from ofq.workflow.forecast.paces import paces_of
from ofq.workflow.forecast.table import TRAINING, estimated
from ofq.workflow.limits import cards, processors

STATES = ("training", "failed", "interrupted", "waiting", "finished")
"""What a run can be, that which may ask for attention first."""


@dataclass(frozen=True)
class Seen:
    """A run as it stands now.

    Attributes:
        made: the run, with the step that trains it.
        state: one of :data:`STATES`.
        told: what there is to say, in cells of a table.
        first: the step that its training goes on from.
        left: seconds that it has left by itself, if it is training and knows.
        at: when it ended, in seconds since the epoch, if it is finished.
    """

    made: Made
    state: str
    told: tuple[str, ...] = ()
    first: int = 0
    left: float | None = None
    at: float = 0.0


@dataclass(frozen=True)
class Rest:
    """What is left of a study.

    Attributes:
        seconds: on the wall; of runs whose pace is known.
        at_once: how many runs are trained at once.
        unknown: of how many runs the pace is not known.
    """

    seconds: float
    at_once: int
    unknown: int


def look(params: Params, study: str, group: str | None) -> list[Seen]:
    """Return how far the trainings of a study's target, or of one of its groups, are; in the order in which they run.

    Raises:
        UserError: no such study or group.
    """
    finished = Finished(params)
    return [
        _seen(finished, made, made.of)
        for made in finished.wanted(study, group)
        if made.step in TRAINING and isinstance(made.of, Run)
    ]


def rest(params: Params, study: str, seen: Sequence[Seen]) -> Rest:
    """Return how long what is not finished will take, by what finished runs took; nothing is tried."""
    waiting = [each for each in seen if each.state not in ("finished", "training")]
    training = [each for each in seen if each.state == "training"]
    seconds, unknown = sum(each.left or 0.0 for each in training), sum(each.left is None for each in training)
    for name in {each.made.study for each in waiting}:
        runs = [each for each in waiting if each.made.study == name]
        hardware, threads = params.studies[name].hardware, params.studies[name].threads
        # What is known of a run are seconds of all its threads, or of all its cards.
        per = threads if hardware.device == "cpu" else hardware.devices / hardware.runs_per_gpu
        shape = None
        with contextlib.suppress(UserError):
            shape = shape_of(name, params.studies[name].data) if manifest_path(name).exists() else None
        paces, _ = paces_of(
            params, [each.made.of for each in runs if isinstance(each.made.of, Run)], shape, trial=False
        )
        for each in runs:
            took = estimated(params, Job(each.made, "", each.first), paces, shape).seconds
            unknown += took is None
            seconds += (took or 0.0) / per
    hardware, threads = params.studies[study].hardware, params.studies[study].threads
    if hardware.device == "cpu":
        places = processors(len(os.sched_getaffinity(0))) // threads
    else:
        places = cards() * hardware.runs_per_gpu // hardware.devices
    at_once = min(len(training) or max(1, places), max(1, len(training) + len(waiting)))
    return Rest(seconds / at_once, at_once, unknown)


def _seen(finished: Finished, made: Made, run: Run) -> Seen:
    directory = run.state("")
    told, failed = standing(directory), failure(directory)
    if _is_trained(run, told):
        return Seen(made, "training", *_progress(told))
    why = finished.glance(made)
    if not why:
        return _finished(made, run)
    replaced = () if why == ["missing"] else (f"replaces an earlier result: {'; '.join(why)}",)
    if failed:
        return Seen(made, "failed", (failed.error, f"log: {failed.log}" if failed.log else "no log"))
    first = 0 if any(finished.glance(needed) for needed in finished.needs(made)) else finished.saved_step(made)
    if first or told:
        where = f"stopped at step {max(told.step, first)} of {told.steps}" if told and told.steps else "stopped"
        return Seen(made, "interrupted", (where, f"will resume after step {first}" if first else "begins anew"), first)
    return Seen(made, "waiting", replaced)


def _is_trained(run: Run, told: Standing | None) -> bool:
    """Return whether a process trains a run; where locks lie elsewhere, one on another machine shows by its file."""
    if states.trainer(run.state("")):
        return True
    return bool(os.environ.get(LOCKS)) and told is not None and time.time() - told.at < 2 * SILENCE


def _progress(told: Standing | None) -> tuple[tuple[str, ...], int, float | None]:
    if told is None or not told.steps:
        return ("getting ready",), 0, None
    left = None if told.left is None else max(0.0, told.left - (time.time() - told.at))
    cells = (
        f"step {told.step}/{told.steps}",
        "" if told.loss is None else f"loss {told.loss:.3f}",
        "" if told.top1 is None else f"top1 {told.top1:.2f} %",
        "" if told.osc is None else f"osc {told.osc:.2f} %",
        "" if told.rate is None else f"{told.rate:.0f} images/s",
        "" if left is None else f"left {clock(left)}",
    )
    return tuple(filter(None, cells)), told.step, left


def _finished(made: Made, run: Run) -> Seen:
    try:
        metrics, info = read_json(run.files.metrics, dict[str, float]), read_info(run.files.info)
        ended = run.files.metrics.stat().st_mtime
    except (UserError, OSError) as error:  # it may be made anew just now
        return Seen(made, "waiting", (str(error),))
    cells = (
        f"top1 {metrics['top1']:.2f} %" if "top1" in metrics else "",
        f"osc {metrics['osc_share']:.2f} %" if "osc_share" in metrics else "",
        f"took {clock(info['seconds'])}" if "seconds" in info else "",
    )
    return Seen(made, "finished", tuple(filter(None, cells)), at=ended)
