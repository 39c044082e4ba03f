"""The directories of resumable state under ``runs/``: what each was made from, which one a run takes up.

A run has one directory for each set of things that its numbers depend on (settings, inputs, code), so that nothing is
ever continued under others by accident. It is kept until the run's results are complete.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ofq.errors import UserError
from ofq.runs.files import make_directory, read_json, write_json
from ofq.runs.locks import Held, exclusive
from ofq.runs.paths import STATE, Run

_PATIENCE = 5.0  # seconds for a trainer that was told to end and is saving
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")


@dataclass(frozen=True)
class Origin:
    """What the numbers of a run depend on.

    Attributes:
        settings: the run's resolved configuration, as canonical JSON.
        inputs: sha256 of each file that it reads.
        code: digest of the code that it executes.
    """

    settings: str
    inputs: dict[str, str]
    code: str

    def differences(self, other: "Origin") -> list[str]:
        """Which of the three differ: ``settings``, ``inputs``, ``code``."""
        return [name for name, value in asdict(self).items() if value != asdict(other)[name]]


@dataclass(frozen=True)
class State:
    """One directory of resumable state."""

    directory: Path
    origin: Origin

    @property
    def step(self) -> int:
        """The step of the newest checkpoint, whole or not; 0 where there is none."""
        found = (_CHECKPOINT.fullmatch(path.name) for path in self.directory.glob("checkpoint-*.pt"))
        return max((int(match[1]) for match in found if match), default=0)

    def begin(self) -> None:
        """Make the directory and note what it is made from."""
        make_directory(self.directory)
        if not (self.directory / "state.json").exists():
            write_json(self.directory / "state.json", asdict(self.origin))


@contextlib.contextmanager
def only_trainer(directory: Path, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a run's directory for this process, the only one that may train it.

    Raises:
        UserError: another trainer holds it; says which.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(directory / "lock", patience=patience))
        except Held as held:
            raise UserError(f"{directory} is being trained by {held.holder}; wait for it or end it") from None
        yield


def of_run(directory: Path) -> list[State]:
    """The states with a checkpoint in a run's directory, the newest last."""
    found = [state for path in directory.glob("*/state.json") if (state := _read(path)) and state.step]
    return sorted(found, key=lambda state: max(p.stat().st_mtime for p in state.directory.glob("checkpoint-*.pt")))


def unfinished() -> dict[Run, State]:
    """The newest state of each run that has one and whose results it did not make."""
    found = {}
    for run in _runs():
        states = of_run(run.state(""))
        if states and not _made(run, states[-1]):
            found[run] = states[-1]
    return found


def drop_finished() -> None:
    """Remove the states of runs whose results are complete; those that are being trained are left alone."""
    for run in _runs():
        for state in of_run(run.state("")):
            if _made(run, state):
                with contextlib.suppress(Held), exclusive(run.state("") / "lock"):
                    drop(state.directory)


def drop(directory: Path) -> None:
    """Remove one state."""
    # The note goes first: without it what is left of a half-removed state is nobody's.
    (directory / "state.json").unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _runs() -> list[Run]:
    paths = STATE.glob("*/*/*/*/seed*/*/state.json")
    return sorted({run for path in paths if (run := Run.parse(str(path.relative_to(STATE))))})


def _made(run: Run, state: State) -> bool:
    """Whether the run's results are there and were made from this state."""
    if not run.files.metrics.exists():
        return False
    try:
        return bool(read_json(run.files.info).get("state") == state.directory.name)
    except (UserError, AttributeError):
        return False


def _read(path: Path) -> State | None:
    """The state that a note describes, or None where the note is damaged: then nothing goes on from it."""
    try:
        return State(path.parent, Origin(**json.loads(path.read_text())))
    except (OSError, ValueError, TypeError):
        return None
