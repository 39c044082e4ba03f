"""One record for each run of a study on the disk, finished or in training.

A record comes from a run's event log and ``run.json`` alone, so that a mirror of it can be rebuilt at any time.
"""

import datetime
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ofq.errors import UserError, missing
from ofq.runs.files import AGAIN, reading
from ofq.runs.paths import RESULTS, STATE, Run
from ofq.runs.published import Info, check, read_info, read_metrics

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
    info: Info | None

    @property
    def finished(self) -> bool:
        """Whether the run has published its results."""
        return self.info is not None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Everything in ``params.yaml`` that the run depends on."""
        config: dict[str, Any] = self._events(0)[0].get("config", {})
        return config

    @property
    def steps(self) -> int:
        """Number of optimizer steps of a finished run, 0 where nothing was trained; its last event tells it."""
        steps: int = json.loads(self.text.splitlines()[-1])["steps"]
        return steps

    @property
    def params(self) -> dict[str, str]:
        """The configuration, flattened: ``train.lr``, ``quantization.weight`` and the like."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in _flat(self.config)}

    @property
    def tags(self) -> dict[str, str]:
        """Coordinates, component switches, what the run came from, and a description for MLflow's page of it."""
        run, quantization = self.run, self.config.get("quantization", {})
        tags = {
            "run": str(run),
            **{name: str(value) for name, value in asdict(run).items()},
            "statsq": json.dumps(quantization.get("weight") == "statsq"),
            "qkr": json.dumps(quantization.get("qkr", False)),
            "cga": json.dumps("cga" in self.config),
            "run_key": self.key,
            "mlflow.note.content": self._description,
        }
        if self.info is not None:
            tags["digest.code"] = self.info["digests"]["code"]
            tags["digest.inputs"] = digest(json.dumps(self.info["digests"]["inputs"], sort_keys=True).encode())
            if "git" in self.info:
                tags["git"] = self.info["git"]
            if "dirty" in self.info:
                tags["git.dirty"] = json.dumps(self.info["dirty"])
        return tags

    @property
    def _description(self) -> str:
        run, settings = self.run, self.config.get("quantization", {})
        what = ", ".join(f"{name} {value}" for name, value in settings.items()) or "full precision"
        return (
            f"`{run.model}` of study `{run.study}`, `{run.bits}`, variant `{run.variant}`, seed {run.seed}: {what}.\n\n"
            f"Files: `{run.files.root}`. Where its numbers come from: `python -m ofq why {run.files.metrics}`"
        )

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
                # Four digits fit into a column; metrics.json, an artifact of the run, has all.
                points += [(f"final/{name}", 0, float(f"{event[name]:.4g}")) for name in event if name not in _SETTINGS]
        return points

    def time_of(self, step: int) -> datetime.datetime | None:
        """Return when a step of a finished run was made, as if all took equally long; None while the run trains."""
        if self.info is None:
            return None
        left = 1 - step / self.steps if self.steps else 0.0
        finished = datetime.datetime.fromisoformat(self.info["finished"])
        return finished - datetime.timedelta(seconds=self.info["seconds"] * left)

    def check(self) -> None:
        """Look at every event and, of a finished run, at the files from which it is mirrored.

        Raises:
            UserError: one of them is damaged, not of the form that a run writes, or was changed since.
        """
        events = self._events(0)
        if events[0]["event"] != "start" or not isinstance(self.config, dict) or "phase" not in self.config:
            raise self._damaged("it does not begin with the settings of the run")
        if self.info is not None:
            with reading(self.run.files.info):
                datetime.datetime.fromisoformat(self.info["finished"])
            check(self.run.files.events)
            if not isinstance(events[-1].get("steps"), int):
                raise self._damaged("it does not end with the number of steps")
            read_metrics(self.run.files.metrics, "seed")

    def _events(self, start: int) -> list[dict[str, Any]]:
        try:
            events = [json.loads(line) for line in self.text[start:].splitlines()]
        except ValueError:
            raise self._damaged("a line is no JSON") from None
        for event in events:
            if not isinstance(event, dict) or not isinstance(event.get("event"), str):
                raise self._damaged("a line is no event")
            if event["event"] == "step" and not isinstance(event.get("step"), int):
                raise self._damaged("an event names no step")
            for name, value in event.items() if event["event"] in ("step", "end") else ():
                if name != "event" and not (isinstance(value, int | float) and math.isfinite(value)):
                    raise self._damaged(f"{name} is {value!r}, no number")
        return events

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"the event log of {self.run} is damaged ({reason}); {AGAIN}")


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def studies() -> list[str]:
    """Return the names of the studies that have runs, finished or in training."""
    return sorted({run.study for run in (*_finished("*"), *_in_training("*"))})


def find(study: str) -> tuple[list[RunLog], list[UserError]]:
    """Return one record for each run of a study, in order of the coordinates, and what is wrong with other runs.

    If a finished run is being trained again, the newer log counts.
    """
    finished, training = _finished(study), _in_training(study)
    records, wrong = [], []
    for run in sorted({*finished, *training}):
        try:
            log = _newest(run, training.get(run, []), finished=run in finished)
            if log is not None:
                log.check()
                records.append(log)
        except UserError as error:
            wrong.append(error)
    return records, wrong


def _newest(run: Run, training: list[Path], *, finished: bool) -> RunLog | None:
    newest = max(training, key=_changed, default=None)
    newer = newest is not None and (not finished or _changed(newest) > _changed(run.files.info))
    if newest is not None and newer and (log := _read(run, newest.parent.name, newest, None)):
        return log
    if not finished:
        return None
    info = read_info(run.files.info, "state", "finished", "seconds", "digests")
    log = _read(run, info["state"], run.files.events, info)  # the name that its state had in training
    if log is None:
        raise missing(run.files.events)
    return log


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


def _read(run: Run, key: str, path: Path, info: Info | None) -> RunLog | None:
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
