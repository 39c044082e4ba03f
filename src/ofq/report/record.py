"""``record.json``: what is noted of a study's committed record, and which runs repeat what it recorded."""

import json
from typing import Any, NotRequired

from typing_extensions import TypedDict

from ofq.config.grid import Grid
from ofq.config.resolve import RunConfig, resolve
from ofq.runs.files import read_json
from ofq.runs.paths import Run, record_note
from ofq.runs.published import Info, digest_of, read_info


class Note(TypedDict):
    """What is read of ``record.json``; an older one has no settings."""

    machine: dict[str, Any]
    device: str
    threads: int
    versions: dict[str, str]
    code: dict[str, str]
    settings: NotRequired[dict[str, str]]


def step_of(config: RunConfig) -> str:
    """Return the name of the code that a run executes: its step, and the modules of the classes that it names."""
    return " ".join([config.phase, *config.modules])


def settings_of(info: Info) -> str:
    """Return a digest of a run's settings."""
    return digest_of(json.dumps(info["config"], sort_keys=True))[:16]


def repeats(grid: Grid) -> set[Run]:
    """Return the runs of a grid that can only give what the record has.

    Their settings, code, libraries, threads, device and processor are those of the recorded runs.
    """
    path = record_note(grid.study)
    if not path.exists():
        return set()
    note: Note = read_json(path, Note, mend=f"write it anew: python -m ofq reference {grid.study}")
    return {run for run in grid.students if run.files.info.exists() and _repeats(grid, run, note)}


def _repeats(grid: Grid, run: Run, note: Note) -> bool:
    info = read_info(run.files.info, "config", "digests", "versions", "threads", "device", "machine")
    recorded = note["versions"], note["threads"], note["device"], note["machine"].get("cpu")
    return (
        note.get("settings", {}).get(str(run)) == settings_of(info)
        and note["code"].get(step_of(resolve(grid.params, run))) == info["digests"]["code"]
        and recorded == (info["versions"], info["threads"], info["device"], info["machine"].get("cpu"))
    )
