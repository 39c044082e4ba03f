"""Measure the oscillation of a finished run again: train on from its checkpoint for a window of steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofq.config.resolve import KEEPING, Keeping, QatConfig, RunConfig, TeacherConfig
from ofq.errors import UserError
from ofq.measure.extent import WINDOW
from ofq.oscillation.boundary import BoundaryObserver
from ofq.oscillation.coupling import CouplingObserver
from ofq.oscillation.thresholds import lift
from ofq.runs import states
from ofq.runs.files import replacing, write_json
from ofq.runs.paths import Run
from ofq.runs.published import digests_of, read_frame, sealed
from ofq.training.continued import hold_rate, last_state
from ofq.training.device import hardware_to_measure, tell_where
from ofq.training.job import Step, started
from ofq.training.loop import train
from ofq.training.student import loss_from

_LONGEST = 10**9
_COLUMNS = ["share", "share_high", "reversals"]
# Gives the images an order that neither the run nor an annealing of it saw.
_ORDER = 2_000_003


def outputs(run: Run, steps: int = WINDOW) -> tuple[Path, Path]:
    """Return the paths of a window's summary (JSON) and record by layer (Parquet).

    The names hold the number of steps unless it is the usual one.
    """
    name = "probe" if steps == WINDOW else f"probe-{steps}"
    return run.files.root / f"{name}.json", run.files.root / f"{name}.parquet"


def run_probe(run: Run, config: RunConfig, keeping: Keeping = KEEPING, *, steps: int = WINDOW) -> None:
    """Train a copy of a finished student on at its last learning rate, without remedy, and write what its codes did.

    Written are the oscillation of each layer, what weights near a rounding threshold did
    (:mod:`ofq.oscillation.boundary`), and whether query and key codes turned round together
    (:mod:`ofq.oscillation.coupling`). The run's own files stay as they are. The meter's directions and frequencies go
    on from the run's; reversals count from the start of the window.

    Args:
        run: quantized and finished.
        config: of the run.
        keeping: how its own state is kept, and how many runs share a card.
        steps: length of the window, in optimizer steps.

    Raises:
        UserError: the run is a teacher or not finished, one of its files is damaged, or the window is empty.
    """
    if isinstance(config, TeacherConfig):
        raise UserError(f"{run} is a full-precision run: it has no codes that could oscillate")
    if steps < 1:
        raise UserError(f"a window needs at least 1 step, not {steps}")
    if steps > _LONGEST:
        raise UserError(f"a window has at most {_LONGEST} steps, not {steps}")
    files = run.files
    inputs = [*run.teacher.files.taught, files.model, files.trainer]
    train_on, here = config.train.held(config.train.min_lr, steps), hardware_to_measure(config.hardware)
    window = config.model_copy(update={"train": train_on, "hardware": here})
    if isinstance(window, QatConfig):
        window = window.model_copy(update={"remedy": None})
    with started(run, window, Step(__name__, inputs, aside="probe", order=_ORDER), keeping) as job:
        tell_where(config.hardware, job.device)
        student, optimizer, recorder = last_state(job, run)
        before = read_frame(files.oscillation, ["step", "weights", *_COLUMNS])
        rate = optimizer.param_groups[0]["lr"]
        hold_rate(optimizer, rate)
        boundary, coupling = BoundaryObserver(recorder), CouplingObserver(student, recorder)
        held = window.model_copy(update={"train": config.train.held(rate, steps)})
        # The observers read what the recorder has counted.
        train(replace(job, config=held), student, optimizer, loss_from(job, student), [recorder, boundary, coupling])
        for hook in (recorder, boundary, coupling):
            hook.finish()
        summary, record = outputs(run, steps)
        with replacing(record) as temporary:
            recorder.oscillation().to_parquet(temporary, index=False)
        end = _last(recorder.oscillation())
        groups = {str(group): _means(part) for group, part in end.groupby("group", sort=False)}
        content = {
            "run": str(run),
            "steps": steps,
            "lr": rate,
            "all": _means(end),
            "groups": groups,
            "at_the_end_of_the_run": _means(_last(before)),
            "boundary": boundary.boundary(),
            "band": boundary.band(),
            "coupling": coupling.coupling(),
            "coupling_codes": coupling.codes,
            **job.device.described(),
            "digests": {**job.digests, "outputs": digests_of([record])},
        }
        write_json(summary, sealed(content))
        states.drop(job.state.directory)
    print(_report(run, rate, steps, {**groups, "all": _means(end)}, coupling))
    print(f"written to {summary}")


def _last(record: pd.DataFrame) -> pd.DataFrame:
    return record[record["step"] == record["step"].max()]


def _means(layers: pd.DataFrame) -> dict[str, Any]:
    """Return the means over all weights of some layers: shares in percent, reversals per weight."""
    means = {name: float(np.average(layers[name], weights=layers["weights"])) for name in _COLUMNS}
    return {"weights": int(layers["weights"].sum()), **means}


def _report(run: Run, rate: float, steps: int, groups: dict[str, dict[str, Any]], coupling: CouplingObserver) -> str:
    wide = max(6, *map(len, groups))
    lines = [
        f"{run}: {steps} further steps at learning rate {rate:g}",
        f"{'group':<{wide}} {'weights':>8} {'f > 0.005':>10} {'f > 0.02':>10} {'reversals a weight':>20}",
    ]
    for name, row in groups.items():
        lines.append(
            f"{name:<{wide}} {row['weights']:>8} {row['share']:>8.2f} % {row['share_high']:>8.2f} %"
            f" {row['reversals']:>20.3f}"
        )
    same, other = (lift(coupling.coupling(), key) for key in ("same", "other"))
    if other is not None:
        lines.append(
            f"query and key turn round in the same steps {same:.2f} times as often as by chance in a head,"
            f" {other:.2f} times between heads ({coupling.codes} codes)"
        )
    return "\n".join(lines)
