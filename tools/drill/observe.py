"""What a run is doing, as its files in ``runs/``, ``results/`` and ``logs/`` show it."""

import re
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from ofq.runs.paths import RESULTS, STATE, Run
from tools.drill.plan import Moment

_RESUMED = re.compile(r"resumed after step \d+")
_PROGRESS = re.compile(r"step +\d+/\d+")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, of that many optimizer ``steps``, in the copy of the workflow at ``root``."""

    root: Path
    run: Run
    steps: int

    def has_reached(self, moment: Moment, share: float) -> bool:
        """Return whether the run is in a moment and has that share of its steps saved or of its files published."""
        if moment == "publishing":
            there = [(self.root / path).exists() for path in self.run.files.published]
            return self._is_publishing and sum(there) >= share * len(there)
        saved = self._saved_step or 0
        return saved >= share * self.steps and (self._is_saving if moment == "checkpoint" else saved > 0)

    def doing(self) -> str:
        """Say what the run is doing."""
        if self._is_publishing:
            return "publishing"
        saved = self._saved_step
        if self._is_saving:
            return f"writing state, {f'step {saved} saved' if saved else 'nothing saved yet'}"
        return "starting" if saved is None else f"training, step {saved} of {self.steps} saved"

    @property
    def log_size(self) -> int:
        """Bytes in the run's log, to which every process that trains it appends."""
        return self._log.stat().st_size if self._log.exists() else 0

    def went_on(self, start: int) -> str:
        """Say how the process that wrote the log from a byte on went on; nothing if none did."""
        if self.log_size <= start:
            return ""
        text = self._log.read_bytes()[start:].decode(errors="replace")
        if resumed := _RESUMED.search(text):
            return resumed[0]
        published = (self.root / self.run.files.metrics).exists()
        return "began at the start" if published or _PROGRESS.search(text) else ""

    @property
    def _log(self) -> Path:
        return self.root / "logs" / f"{self.run}.log"

    @property
    def _is_saving(self) -> bool:
        """Whether a file is being written into its state: a checkpoint, its checksum."""
        return bool(self._named(STATE, "*/.*"))

    @property
    def _is_publishing(self) -> bool:
        """Whether a file is being published."""
        return bool(self._named(RESULTS, ".*"))

    @property
    def _saved_step(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        names = self._named(STATE, "*/checkpoint-*.pt")
        return max((int(Path(name).stem.removeprefix("checkpoint-")) for name in names), default=None)

    def _named(self, kind: Path, pattern: str) -> list[str]:
        """Return the files of the run in ``runs/`` or ``results/`` that a pattern names."""
        # Unlike Path.glob, this takes a directory that vanishes meanwhile for an empty one.
        return glob(f"{self.root / kind / str(self.run)}/{pattern}")  # noqa: PTH207
