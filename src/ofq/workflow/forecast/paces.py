"""The pace of each run of a study: from finished runs, or from a trial of a minute."""

import logging
from collections import Counter
from collections.abc import Sequence

from ofq.config.grid import with_sources
from ofq.config.params import Params
from ofq.config.resolve import RunConfig, keeping, resolve
from ofq.measure.pace import Pace
from ofq.measure.shape import Shape
from ofq.runs.paths import Run
from ofq.workflow.finished import STEPS
from ofq.workflow.forecast.records import Took, finished_here, kind_of, middle, recipe_of, recorded
from ofq.workflow.limits import cards

_log = logging.getLogger(__name__)

_TRIAL, _LEAST = 20.0, 1.0  # seconds of training that are measured of all kinds together, and of one


def paces_of(
    params: Params, runs: Sequence[Run], shape: Shape | None, *, trial: bool = True
) -> tuple[dict[Run, Pace], str]:
    """Return the pace of runs as far as it can be known, and where it comes from, in words.

    In this order: finished runs here of the same kind and length, a trial, finished runs of another length, the
    committed records.

    Args:
        params: the project's.
        runs: of one study.
        shape: of its images, if it is known.
        trial: whether kinds that finished runs do not tell of may be tried.

    Raises:
        UserError: a model cannot be built or trained as its settings say.
    """
    configs = {run: resolve(params, run) for run in runs}
    kinds = {run: kind_of(config.shown()) for run, config in configs.items()}
    first = {kind: run for run, kind in reversed(kinds.items())}
    known: dict[str, Pace] = {}
    sources = Counter[str]()

    def take(source: str, found: dict[str, list[Took]], *, same_length: bool = False) -> None:
        for kind, run in first.items():
            recipe = recipe_of(configs[run], shape)
            took = [one for one in found.get(kind, []) if recipe and (one.steps == recipe.steps or not same_length)]
            if recipe and kind not in known and took:
                known[kind] = middle(took).pace(recipe, configs[run].phase, shape)
                sources[source] += 1

    here = finished_here()
    take("finished runs here", here, same_length=True)
    left = [run for kind, run in first.items() if kind not in known and configs[run].train]
    possible = not trial or configs[runs[0]].hardware.device == "cpu" or cards() > 0
    if trial and left and shape and possible:
        for run, pace in _tried(params, left, shape):
            known[kinds[run]] = pace
            sources["a trial"] += 1
    take("finished runs of another length", here)
    take("the committed records", recorded())
    told = [f"{count} from {source}" for source, count in sources.items()]
    if unknown := len(first) - len(known):
        told.append(f"{unknown} unknown, {'their images are not here' if possible else 'no card here to try them on'}")
    return {run: known[kind] for run, kind in kinds.items() if kind in known}, f"kinds of run: {', '.join(told)}"


def _tried(params: Params, runs: Sequence[Run], shape: Shape) -> list[tuple[Run, Pace]]:
    """Try runs, each after what it needs."""
    from ofq.measure.trial import trials

    seconds = max(_LEAST, _TRIAL / len(runs))
    _log.info("measuring %d kinds of training on random images, some %.0f s", len(runs), len(runs) * (seconds + 3) * 2)
    configs: dict[Run, RunConfig] = {run: resolve(params, run) for run in with_sources(params, runs)}
    ordered = sorted(configs, key=lambda run: STEPS.index(configs[run].phase))
    tried = {run: configs[run] for run in ordered}
    return list(trials(tried, set(runs), shape, seconds, keeping(params, runs[0].study)))
