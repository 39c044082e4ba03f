"""The event log of a run: JSON lines, the record from which MLflow is mirrored."""

import json
from pathlib import Path
from typing import Any

from ofq.runs.files import write_text


class EventLog:
    """The event log of one run: JSON lines, one object a line, the first of them ``start``.

    A checkpoint holds the text of the log up to its step. A run that resumes restores it, so that no step appears twice
    and none is missing, whatever was on the disk.

    Args:
        path: file of the log; not touched before :meth:`restore`.
        start: values of the first event.
    """

    def __init__(self, path: Path, **start: Any) -> None:
        self.path = path
        self.beginning = _line("start", **start)

    def text(self) -> str:
        """Return the whole log."""
        return self.path.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the values of every event of one kind, in order."""
        events = map(json.loads, self.text().splitlines())
        return [event for event in events if event["event"] == kind]

    def append(self, event: str, **values: Any) -> None:
        """Write one event and hand it to the operating system."""
        with self.path.open("a") as file:
            file.write(_line(event, **values))

    def restore(self, text: str | None = None) -> None:
        """Set the log to its text at a checkpoint, or to its first event alone."""
        text = self.beginning if text is None else text
        if not self.path.exists() or self.path.read_bytes() != text.encode():
            write_text(self.path, text)


def _line(event: str, **values: Any) -> str:
    return json.dumps({"event": event, **values}, allow_nan=False) + "\n"
