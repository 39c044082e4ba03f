"""One record for each run of a study on the disk, finished or in training.

A record comes from a run's event log and ``run.json`` alone, so that a mirror of it can be rebuilt at any time.
"""

import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ofq.errors import UserError, missing
from ofq.runs.files import read_json
from ofq.runs.paths import RESULTS, STATE, Run

_BELOW_STUDY = "*/*/*/seed*"
# In the end event these two are settings, not results.
_SETTINGS = {"seed", "steps"}


@dataclass(frozen=True)
class RunLog:
    """Event log of one run, with ``run.json`` once the run is finished.

    ``key`` names the training (configuration, code and inputs); ``text`` holds the log's whole lines.
    """

    run: Run
    key: str
    text: bytes
    info: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether the run has published its results."""
        return self.info is not None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Everything in ``params.yaml`` that the run depends on."""
        return dict(self._events(0)[0]["config"])

    @property
    def params(self) -> dict[str, str]:
        """The configuration, flattened: ``train.lr``, ``quantization.weight`` and the like."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _flat(self.config)}

    @property
    def tags(self) -> dict[str, str]:
        """Coordinates, component switches, and what the run came from."""
        run, quantization = self.run, self.config.get("quantization", {})
        tags = {
            "run": str(run),
            **{name: str(value) for name, value in asdict(run).items()},
            "statsq": json.dumps(quantization.get("weight") == "statsq"),
            "qkr": json.dumps(quantization.get("qkr", False)),
            "cga": json.dumps("cga" in self.config),
            "run_key": self.key,
        }
        if self.info is not None:
            tags["digest.code"] = self.info["digests"]["code"]
            tags["digest.inputs"] = digest(json.dumps(self.info["digests"]["inputs"], sort_keys=True).encode())
            if "git" in self.info:
                tags["git"] = self.info["git"]
        return tags

    def points(self, start: int) -> list[tuple[str, int, float]]:
        """Return curve points after the log's first ``start`` bytes: name, step and value.

        Curves are named ``group/name``, results at the end ``final/name``.
        """
        points = []
        for event in self._events(start):
            kind = event.pop("event")
            if kind == "step":
                step = event.pop("step")
                points += [(name, step, value) for name, value in event.items()]
            elif kind == "end":
                # At step 0 MLflow draws one bar for each run; at the last step it would draw a curve of one point.
                points += [(f"final/{name}", 0, event[name]) for name in event if name not in _SETTINGS]
        return points

    def time_of(self, step: int) -> datetime.datetime | None:
        """Return when a step of a finished run was made, as if all took equally long; None while the run trains."""
        if self.info is None:
            return None
        left = 1 - step / self.config["train"]["steps"]
        finished = datetime.datetime.fromisoformat(self.info["finished"])
        return finished - datetime.timedelta(seconds=self.info["seconds"] * left)

    def _events(self, start: int) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self.text[start:].splitlines()]
        except ValueError:
            raise UserError(f"the event log of {self.run} is damaged; delete it and run snakemake again") from None


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def studies() -> list[str]:
    """Return the names of the studies that have runs, finished or in training."""
    return sorted({run.study for run in (*_finished("*"), *_in_training("*"))})


def find(study: str) -> list[RunLog]:
    """Return one record for each run of a study, in order of the coordinates.

    If a finished run is being trained again, the newer log counts.

    Raises:
        UserError: a file of a finished run is missing or damaged.
    """
    finished, training = _finished(study), _in_training(study)
    records = []
    for run in sorted({*finished, *training}):
        newest = max(training.get(run, []), key=_changed, default=None)
        log = None
        if newest is not None and (run not in finished or _changed(newest) > _changed(run.files.info)):
            log = _read(run, newest.parent.name, newest, None)
        if log is None and run in finished:
            info = read_json(run.files.info)
            if "state" not in info:
                raise UserError(f"{run.files.info} was written by another version of ofq; run snakemake again")
            log = _read(run, str(info["state"]), run.files.events, info)  # the name that its state had in training
            if log is None:
                raise missing(run.files.events)
        if log is not None:
            records.append(log)
    return records


def snapshot(study: str) -> list[tuple[str, float]]:
    """Return paths and times that differ whenever something that :func:`find` reads has changed."""
    training = [path for paths in _in_training(study).values() for path in paths]
    return [(str(path), _changed(path)) for path in (*training, *(run.files.metrics for run in _finished(study)))]


def _finished(study: str) -> list[Run]:
    paths = RESULTS.glob(f"{study}/{_BELOW_STUDY}/metrics.json")
    return [run for path in paths if (run := Run.parse(str(path)))]


def _in_training(study: str) -> dict[Run, list[Path]]:
    logs: dict[Run, list[Path]] = {}
    for path in sorted(STATE.glob(f"{study}/{_BELOW_STUDY}/*/events.jsonl")):
        if run := Run.parse(str(path.relative_to(STATE))):
            logs.setdefault(run, []).append(path)
    return logs


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # a run that ends may drop its state at any moment
        return 0.0


def _read(run: Run, key: str, path: Path, info: dict[str, Any] | None) -> RunLog | None:
    """Return the record, or None if the log is gone or not begun."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    text = text[: text.rfind(b"\n") + 1]
    return RunLog(run, key, text, info) if text else None


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in config.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return pairs
