"""The event log of a run: JSON lines, the record from which MLflow is mirrored."""

import json
from pathlib import Path
from typing import Any


class EventLog:
    """Append-only JSON lines, one object a line.

    A run that resumes cuts the log back to the length that its checkpoint knows, so that no step stands
    in it twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def __len__(self) -> int:
        """Length in bytes."""
        return self.path.stat().st_size

    def append(self, event: str, **values: Any) -> None:
        """Write one event and hand it to the operating system."""
        line = json.dumps({"event": event, **values}, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")

    def cut(self, length: int) -> None:
        """Forget everything after the first ``length`` bytes."""
        with self.path.open("r+b") as file:
            file.truncate(length)
