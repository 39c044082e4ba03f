"""Decide which saved state a run goes on from: its own, or that of other code if this was asked for."""

import logging
from pathlib import Path

from ofq.config.resolve import Keeping
from ofq.runs import states
from ofq.runs.paths import Run

_log = logging.getLogger(__name__)


def state_to_continue(run: Run, state: states.State, found: list[states.State], keeping: Keeping) -> Path | None:
    """Return the state of other code to continue from, if that was asked for; warn where a state is left behind."""
    if state.step or not found:
        return None
    same = [other for other in found if other.origin.differences(state.origin) == ["code"]]
    if same and keeping.across_code:
        return same[-1].directory
    last = (same or found)[-1]
    _log.warning(
        "%s: %s changed since step %d was saved; starting from the first step in %s; the earlier state stays in %s%s",
        run,
        " and ".join(last.origin.differences(state.origin)),
        last.step,
        state.directory,
        last.directory,
        "; to go on from it: --resume-across-code" if same else "",
    )
    return None
