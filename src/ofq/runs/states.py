"""The directories of resumable state under ``runs/``: what each was made from, and which one a run resumes.

A run has one directory for each combination of what its numbers depend on (settings, inputs, code), so that no state is
continued under another combination by accident. It is kept until the run's results are complete.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ofq.errors import UserError
from ofq.runs import standing
from ofq.runs.files import make_directory, read_json, remove_empty, remove_unfinished, write_json
from ofq.runs.locks import Held, exclusive, holder
from ofq.runs.paths import STATE, Run
from ofq.runs.progress import kept

_PATIENCE = 5.0  # seconds to wait for a trainer that was told to stop and is saving
LOCK = "lock"
"""Name of the lock that the trainer of a run holds in its directory."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pt")
CHECKPOINT = f"checkpoint-{'[0-9]' * 9}"
"""Pattern of the names of checkpoints, without the suffix; a copy by another name is a person's."""


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
        """Return which of ``settings``, ``inputs`` and ``code`` differ."""
        return [name for name, value in asdict(self).items() if value != asdict(other)[name]]


@dataclass(frozen=True)
class State:
    """One directory of resumable state."""

    directory: Path
    origin: Origin

    @property
    def step(self) -> int:
        """The step of the newest checkpoint, whole or not; 0 if there is none."""
        matches = (_CHECKPOINT.fullmatch(path.name) for path in self.directory.glob("checkpoint-*.pt"))
        return max((int(match[1]) for match in matches if match), default=0)

    def begin(self) -> None:
        """Make the directory and record what it is made from."""
        make_directory(self.directory)
        if not (self.directory / "state.json").exists():
            write_json(self.directory / "state.json", asdict(self.origin))


def only_trainer(directory: Path, *, patience: float = _PATIENCE) -> AbstractContextManager[None]:
    """Hold a run's directory, so that only this process may train it, and keep its progress there.

    Raises:
        Held: another trainer holds it; says which. Raised where the directory is entered.
    """
    return _trained(directory, patience)


@contextlib.contextmanager
def _trained(directory: Path, patience: float) -> Iterator[None]:
    def taken(holder: str) -> Held:
        return Held(f"{directory} is being trained by {holder}; wait for it or end it")

    with exclusive(directory / LOCK, patience=patience, taken=taken), kept(directory):
        yield


def trainer(directory: Path) -> str | None:
    """Return which process trains the run of a directory now, as far as this machine can see; None: no one."""
    return holder(directory / LOCK)


def of_run(directory: Path) -> list[State]:
    """Return the states with a checkpoint in a run's directory, the newest last."""
    states = [state for path in directory.glob("*/state.json") if (state := _read(path)) and state.step]
    return sorted(states, key=lambda state: max(p.stat().st_mtime for p in state.directory.glob("checkpoint-*.pt")))


def unfinished() -> dict[Run, State]:
    """Return the newest state of each run that has one, unless the run's results were made from it."""
    newest = {}
    for run in _runs():
        states = of_run(run.state(""))
        if states and not _made(run, states[-1]):
            newest[run] = states[-1]
    return newest


def drop_finished() -> None:
    """Remove the states of runs whose results are complete, except of runs that are being trained."""
    for run in _runs():
        for state in of_run(run.state("")):
            if _made(run, state):
                with contextlib.suppress(Held), exclusive(run.state("") / LOCK):
                    drop(state.directory)
                    standing.forget(run.state(""))


def drop(directory: Path) -> None:
    """Remove one state, but nothing that a person put beside it."""
    # state.json goes first: without it nothing resumes from what is left of a half-removed state.
    for pattern in ("state.json", f"{CHECKPOINT}.pt", f"{CHECKPOINT}.sha256", "events.jsonl"):
        for path in directory.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()
    with contextlib.suppress(OSError):
        remove_unfinished(directory)
    remove_empty(directory)


def _runs() -> list[Run]:
    paths = STATE.glob("*/*/*/*/seed*/*/state.json")
    return sorted({run for path in paths if (run := Run.parse(str(path.relative_to(STATE))))})


def _made(run: Run, state: State) -> bool:
    """Return whether the run's results exist and were made from this state."""
    if not run.files.metrics.exists():
        return False
    try:
        return bool(read_json(run.files.info).get("state") == state.directory.name)
    except (UserError, AttributeError):
        return False


def _read(path: Path) -> State | None:
    """Return the state that a ``state.json`` describes, or None if it is damaged: then nothing resumes from it."""
    try:
        return State(path.parent, Origin(**json.loads(path.read_text())))
    except (OSError, ValueError, TypeError):
        return None
