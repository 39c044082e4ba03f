"""What a run is doing, as its files in ``runs/`` and ``results/`` show it."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ofq.runs.paths import RESULTS, STATE, Run

_RESUMED = re.compile(r"resumed after step (\d+)")
_PROGRESS = re.compile(r"step +\d+/\d+")


class RunFolder:
    """The files of one run in a copy of the workflow."""

    def __init__(self, root: Path, run: Run, steps: int) -> None:
        self.run = run
        self.steps = steps
        self._state = root / STATE / str(run)
        self._results = root / RESULTS / str(run)
        self._metrics = root / run.files.metrics
        self._log = root / "logs" / f"{run}.log"

    @property
    def finished(self) -> bool:
        """Whether its results are published."""
        return self._metrics.exists()

    @property
    def writes_state(self) -> bool:
        """Whether a file is being written into its state: a checkpoint, its checksum."""
        return any(_hidden(name) for key in _names(self._state) for name in _names(self._state / key))

    @property
    def writes_results(self) -> bool:
        """Whether a file is being published."""
        return any(map(_hidden, _names(self._results)))

    @property
    def saved_step(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        names = [name for key in _names(self._state) for name in _names(self._state / key)]
        steps = [int(name[11:-3]) for name in names if name.startswith("checkpoint-") and name.endswith(".pt")]
        return max(steps, default=None)

    @property
    def saved_share(self) -> float:
        """Share of the steps that the newest checkpoint holds."""
        return (self.saved_step or 0) / self.steps

    @property
    def published_share(self) -> float:
        """Share of the run's files that are published."""
        there = set(_names(self._results))
        names = [path.name for path in self.run.files.published]
        return sum(name in there for name in names) / len(names)

    def doing(self) -> str:
        """In words."""
        if self.writes_results:
            return "publishing"
        step = self.saved_step
        if self.writes_state:
            return f"writing state, {f'step {step} saved' if step else 'nothing saved yet'}"
        return "starting" if step is None else f"training, step {step} of {self.steps} saved"

    def went_on(self) -> str | None:
        """How the process that writes the log now began: resumed, or from the start; None while it is not known."""
        try:
            text = self._log.read_text(errors="replace")
        except FileNotFoundError:
            return None
        if found := _RESUMED.search(text):
            return f"resumed after step {found[1]}"
        return "began at the start" if _PROGRESS.search(text) or self.finished else None


def leftovers(root: Path, study: str) -> Iterator[str]:
    """Files that a finished study must not have: state of runs, and temporary files."""
    for path in sorted((root / STATE / study).rglob("*")):
        if path.is_file():
            yield str(path.relative_to(root))
    for path in sorted((root / RESULTS).rglob(".*")):
        yield str(path.relative_to(root))


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _names(directory: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(directory)  # noqa: PTH208 - hundreds of times a second
    return []
