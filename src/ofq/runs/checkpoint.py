"""Checkpoints of a run: each is whole or absent, the latest two are kept, damaged ones are skipped."""

import contextlib
import hashlib
import io
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ofq.errors import UserError, missing
from ofq.runs.files import write_bytes, write_text
from ofq.runs.provenance import file_digest
from ofq.runs.states import CHECKPOINT

_log = logging.getLogger(__name__)

KEPT = 2
_SHARE_OF_TIME = 0.02  # largest share spent on saving: a large model on a slow disk is saved less often


@dataclass(frozen=True)
class Maker:
    """The code digest, the versions of the libraries and the number of processes that made a checkpoint."""

    code: str
    versions: dict[str, str]
    devices: int = 1

    def noted(self) -> dict[str, Any]:
        """Return the entry of a checkpoint; it has the number of processes only where there are several."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("devices", 1)}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they are stored.
        maker: recorded in every checkpoint that is saved.
        seconds: least time from one to the next.
        earlier: another directory, whose newest checkpoint is used if this one has none.

    Attributes:
        history: the earlier makers, oldest first, each with the step up to which it trained.
        first: the step that was resumed from, 0 for none.
    """

    def __init__(self, directory: Path, maker: Maker, *, seconds: float, earlier: Path | None = None) -> None:
        self.directory = directory
        self.history: list[dict[str, Any]] = []
        self.first = 0
        self._maker = maker.noted()
        self._seconds = seconds
        self._earlier = earlier
        self._saved = time.monotonic()
        self._cost = 0.0

    def latest(self) -> dict[str, Any] | None:
        """Return the state in the newest whole checkpoint, or None if there is none; report damaged ones."""
        state = load_latest(self.directory) or (load_latest(self._earlier) if self._earlier else None)
        if state is None:
            return None
        self.history, self.first = list(state["history"]), state["step"]
        if state["maker"] != self._maker:
            self.history.append({**state["maker"], "until_step": state["step"]})
            whats = {"code": "code", "versions": "versions of libraries", "devices": "devices"}
            other = [what for name, what in whats.items() if state["maker"].get(name) != self._maker.get(name)]
            _log.warning("going on under other %s than made the first %d steps", " and ".join(other), state["step"])
        return state

    def due(self) -> bool:
        """Return whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved > max(self._seconds, self._cost / _SHARE_OF_TIME)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after ``step`` steps with its checksum; keep the latest two checkpoints.

        Raises:
            UserError: no space or no permission; the earlier checkpoints are kept.
        """
        started = time.monotonic()
        save(self.directory, step, {**state, "step": step, "maker": self._maker, "history": self.history})
        self._saved = time.monotonic()
        self._cost = self._saved - started


def save(directory: Path, step: int, state: dict[str, Any]) -> None:
    """Write one checkpoint with its checksum and remove all but the latest two.

    Raises:
        UserError: no space or no permission; the earlier checkpoints are kept.
    """
    path = directory / f"checkpoint-{step:09d}.pt"
    content = _serialise(state)
    # The checksum is written first, so that a checkpoint is whole as soon as it appears.
    write_text(_checksum(path), hashlib.sha256(content).hexdigest())
    try:
        write_bytes(path, content)
    except BaseException:
        _checksum(path).unlink(missing_ok=True)
        raise
    # A checkpoint of a later step can only be a damaged one that was skipped.
    kept = sorted(other for other in directory.glob(f"{CHECKPOINT}.pt") if other.name <= path.name)[-KEPT:]
    for other in (each for suffix in ("pt", "sha256") for each in directory.glob(f"{CHECKPOINT}.{suffix}")):
        if other.with_suffix(".pt") not in kept:
            other.unlink(missing_ok=True)


def write(path: Path, state: dict[str, Any]) -> None:
    """Write trainer state, whole or not at all; equal states give equal bytes."""
    write_bytes(path, _serialise(state))


def load_latest(directory: Path) -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint, or None if there is none; report and skip damaged ones."""
    damaged: list[Path] = []
    for path in sorted(directory.glob(f"{CHECKPOINT}.pt"), reverse=True):
        with contextlib.suppress(OSError, UserError):
            if _checksum(path).read_text() == file_digest(path):
                state = load(path)
                if damaged:
                    _log.warning("going on from %s, the one before", path)
                return state
        damaged.append(path)
        _log.warning("%s is damaged and passed over", path)
    if damaged:
        _log.warning("no whole checkpoint is left in %s; starting from the first step", directory)
    return None


def load(path: Path) -> dict[str, Any]:
    """Read trainer state; only tensors and plain values are accepted, so a file cannot run code.

    Raises:
        UserError: missing, damaged, or holding anything else.
    """
    try:
        return dict(torch.load(path, weights_only=True, map_location="cpu"))
    except FileNotFoundError:
        raise missing(path) from None
    except Exception as error:  # arbitrary bytes can make torch.load raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is damaged or no trainer state ({reason})") from None


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _serialise(state: dict[str, Any]) -> memoryview:
    # In memory first: on a full disk torch.save raises an error of its own that does not say so.
    buffer = io.BytesIO()
    torch.save(_canonical(state), buffer)
    return buffer.getbuffer()


def _canonical(value: Any) -> Any:
    """Return an equal value in new containers, with equal strings as one object.

    A pickle refers back to an object that it has already written, so equal states that share objects differently, such
    as one read from a file, would give different bytes. Tensors are those of the processor, whichever card had them.
    """
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_canonical, value))
    return value
