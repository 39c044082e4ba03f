"""The runs of a study as people see them: a table in a terminal, lines in a pipe, once or until all are finished."""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ofq.config.params import Params
from ofq.errors import counted
from ofq.runs.paths import LOGS
from ofq.runs.progress import clock
from ofq.workflow.clean import snakemake_works_here
from ofq.workflow.watch.look import STATES, Rest, Seen, look, rest

_INTERVAL = 2.0  # seconds
_STYLES = {"training": "cyan", "failed": "bold red", "interrupted": "yellow", "waiting": "dim", "finished": "green"}
_OTHER_LINES = 4  # of a screen, beside the rows of the table
_FEWEST = 5  # rows, however low the terminal is


def show(params: Params, study: str, group: str | None, *, watch: bool) -> None:
    """Print how far the runs of a study are; with ``watch`` again and again, until all are finished or Ctrl-C.

    Raises:
        UserError: no such study or group.
    """
    console = Console(highlight=False)
    seen = look(params, study, group)
    if not console.is_terminal:
        _lines(params, study, group, seen, watch=watch)
        return
    first = _screen(params, study, group, seen, console)
    if not watch:
        console.print(first)
        return
    with contextlib.suppress(KeyboardInterrupt), Live(first, console=console, auto_refresh=False) as live:
        while not _over(seen):
            time.sleep(_INTERVAL)
            seen = look(params, study, group)
            live.update(_screen(params, study, group, seen, console), refresh=True)


def _lines(params: Params, study: str, group: str | None, seen: list[Seen], *, watch: bool) -> None:
    """Print a line for the study and one for each run; then one for each that changes its state."""
    width = max(len(str(each.made)) for each in seen)
    _say(_head(study, group, seen, rest(params, study, seen)), *(_line(each, width) for each in seen))
    with contextlib.suppress(KeyboardInterrupt):
        while watch and not _over(seen):
            time.sleep(_INTERVAL)
            before, seen = seen, look(params, study, group)
            changed = [each for each, was in zip(seen, before, strict=True) if each.state != was.state]
            if changed:
                _say(*(_line(each, width) for each in changed), _head(study, group, seen, rest(params, study, seen)))


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def _over(seen: Sequence[Seen]) -> bool:
    return all(each.state == "finished" for each in seen)


def _line(seen: Seen, width: int) -> str:
    return "  ".join([f"{seen.state:<11}", f"{seen.made!s:<{width}}", *seen.told]).rstrip()


def _head(study: str, group: str | None, seen: Sequence[Seen], left: Rest) -> str:
    """Return the line of the study: how many runs are in which state, and how long the rest will take."""
    counts = Counter(each.state for each in seen)
    told = ", ".join(f"{counts[state]} {state}" for state in reversed(STATES) if counts[state])
    head = f"{' '.join(filter(None, (study, group)))}: {counted(len(seen), 'run')}: {told}"
    if _over(seen):
        return head
    unknown = f"; the pace of {counted(left.unknown, 'run')} is not known" if left.unknown else ""
    known = f"; about {clock(left.seconds)} left, {left.at_once} at a time" if left.seconds else ""
    nobody = "" if counts["training"] or snakemake_works_here() else "; no snakemake works here now"
    return f"{head}{known}{unknown}{nobody}"


def _screen(params: Params, study: str, group: str | None, seen: list[Seen], console: Console) -> Group:
    """Return what fits a screen: what is going on or went wrong, then what was finished last, then what waits."""
    ordered = sorted(seen, key=lambda each: (_shown_as(each), -each.at))
    rows = max(_FEWEST, console.size.height - _OTHER_LINES)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("state", "step", "run", ""):
        table.add_column(name, no_wrap=name != "", overflow="fold")
    for each in ordered[:rows]:
        state = Text(each.state, style=_STYLES[each.state])
        table.add_row(state, each.made.step, _short(each, study), Text("  ".join(each.told)))
    more = Counter(each.state for each in ordered[rows:])
    hidden = f"and {', '.join(f'{number} {state}' for state, number in more.items())} more; " if more else ""
    head = Text(_head(study, group, seen, rest(params, study, seen)), style="bold")
    return Group(head, table, Text(f"{hidden}logs: {LOGS / study}/MODEL/BITS/VARIANT/seedN.log", style="dim"))


def _shown_as(seen: Seen) -> int:
    return ("training", "failed", "interrupted", "finished", "waiting").index(seen.state)


def _short(seen: Seen, study: str) -> str:
    return str(seen.made.of).removeprefix(f"{study}/")
