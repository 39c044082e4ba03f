"""Bring an MLflow store up to date with the event logs of the runs.

The logs are the record and the store is a copy: training never touches it, and a deleted store is rebuilt in full.
MLflow is imported late, because the import takes seconds.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofq.errors import UserError
from ofq.runs.files import read_json, write_json
from ofq.runs.paths import RESULTS, report_dir
from ofq.tracking import logs
from ofq.tracking.logs import RunLog, digest
from ofq.tracking.store import Store, StoreError
from ofq.tracking.views import views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

_log = logging.getLogger(__name__)

_FORMAT = 1  # version of what is written for a run; a new number writes every run anew
_MARK = "mirrored"  # tag: how much of a run's log is in the store; empty while the run is being written
_BATCH = 1000  # metrics that MLflow takes in one call
_INTERVAL = 5.0  # seconds between two looks at the logs


def stamp(study: str) -> Path:
    """Return the file that names a study's store and its runs' MLflow runs; ``error`` in it says why there are none."""
    return RESULTS / study / "mlflow.json"


def warnings(studies: Iterable[str]) -> list[str]:
    """Return the errors in the studies' stamps of a store that could not be written."""
    stamps = [read_json(stamp(study)) for study in studies if stamp(study).is_file()]
    return [content["error"] for content in stamps if "error" in content]


def track(study: str | None = None, *, keep_going: bool = False) -> None:
    """Bring the MLflow store up to date with the logs of one study or of all.

    Args:
        study: its name; None for every study that has runs.
        keep_going: report a store that cannot be written as a warning and in the stamp, not as an error.

    Raises:
        UserError: there are no runs, a log is damaged, or the store cannot be written.
    """
    records = {name: logs.find(name) for name in ([study] if study else logs.studies())}
    if not any(records.values()):
        raise UserError(f"there are no runs{f' of study {study}' if study else ''} yet; make some with: snakemake")
    store = Store.chosen()
    try:
        with store.opened() as client:
            for name, runs in records.items():
                print(_Mirror(client, store, name, runs).update(), flush=True)
    except StoreError as error:
        if not keep_going:
            raise
        _log.warning("%s", error)
        for name in records:
            write_json(stamp(name), {"store": str(store), "error": str(error), "runs": {}})


def follow(study: str | None = None) -> None:
    """Mirror runs in training every few seconds until interrupted; a busy store is tried again."""
    seen: list[Any] = []
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            current = [logs.snapshot(name) for name in ([study] if study else logs.studies())]
            if any(current) and current != seen:
                try:
                    track(study)
                    seen = current
                except UserError as error:
                    _log.warning("%s", error)
            time.sleep(_INTERVAL)


@dataclass(frozen=True)
class _Mirror:
    """One study's experiment in an open store."""

    client: "MlflowClient"
    store: Store
    study: str
    runs: list[RunLog]

    def update(self) -> str:
        """Bring the experiment up to date and return a line that says what was done."""
        stored = self._stored()
        ids: dict[str, str] = {}
        new = replaced = 0
        for log in self.runs:
            known = stored.pop(str(log.run), [])
            run, start = _continued(known, log)
            if run is None:
                new, replaced = new + (not known), replaced + bool(known)
                self._delete(known)
                run = self.client.create_run(self.experiment, _milliseconds(log, 0, start), log.tags, log.run.label)
            if run.data.tags.get(_MARK) != _mark(log):
                self._write(run, log, start)
            ids[str(log.run)] = run.info.run_id
        self._update_report(stored.get(f"{self.study}/report", []))
        self._drop_artifacts()
        write_json(stamp(self.study), {"store": str(self.store), "experiment": self.experiment, "runs": ids})
        return (
            f"{self.study}: {len(ids)} runs in {self.store}, {new} of them new, {replaced} replaced; "
            f"to see them: {self.store.page(self.experiment)}"
        )

    @cached_property
    def experiment(self) -> str:
        """Id of the study's experiment, made or restored where needed, with its saved views."""
        tags = views(self.runs)
        existing = self.client.get_experiment_by_name(self.study)
        if existing is None:
            return str(self.client.create_experiment(self.study, self.store.artifact_location(self.study), tags))
        if existing.lifecycle_stage == "deleted":
            self.client.restore_experiment(existing.experiment_id)
        for key, value in tags.items():
            if existing.tags.get(key) != value:
                self.client.set_experiment_tag(existing.experiment_id, key, value)
        return str(existing.experiment_id)

    def _stored(self) -> dict[str, list["StoredRun"]]:
        """Return the experiment's runs by their tag ``run``, those of other origin under the empty name."""
        runs: dict[str, list[StoredRun]] = {}
        token = None
        while token != "":
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                runs.setdefault(run.data.tags.get("run", ""), []).append(run)
            token = page.token or ""
        return runs

    def _delete(self, runs: list["StoredRun"]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)

    def _write(self, run: "StoredRun", log: RunLog, start: int) -> None:
        """Log what is new. A writer that dies halfway leaves no mark, and the run is then written anew."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = run.info.run_id
        self.client.set_tag(run_id, _MARK, "")
        params = [Param(*item) for item in log.params.items()]
        self.client.log_batch(run_id, params=params, tags=[RunTag(*item) for item in log.tags.items()])
        points = log.points(start)
        metrics = [Metric(name, value, _milliseconds(log, step, start), step) for name, step, value in points]
        for first in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
        if log.finished:
            self._attach(run, {path.name: path for path in (log.run.files.metrics, log.run.files.info)})
            self.client.set_terminated(run_id, end_time=_milliseconds(log, log.config["train"]["steps"], start))
        self.client.set_tag(run_id, _MARK, _mark(log))

    def _update_report(self, known: list["StoredRun"]) -> None:
        """Keep the study's tables and figures as the artifacts of a run named ``report``."""
        root = report_dir(self.study)
        files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.*")) if path.is_file()}
        content = "".join(name + digest(path.read_bytes()) for name, path in files.items())
        mark = f"{_FORMAT} {digest(content.encode())}"
        if not files or any(run.data.tags.get(_MARK) == mark for run in known):
            return
        self._delete(known)
        modified = round(1000 * max(path.stat().st_mtime for path in files.values()))
        tags = {"run": f"{self.study}/report", "study": self.study}
        run = self.client.create_run(self.experiment, modified, tags, "report")
        self._attach(run, files)
        self.client.set_terminated(run.info.run_id, end_time=modified)
        self.client.set_tag(run.info.run_id, _MARK, mark)

    def _attach(self, run: "StoredRun", files: dict[str, Path]) -> None:
        """Store files as artifacts under the given names."""
        folder = self.store.folder(run.info.artifact_uri)
        for name, path in files.items():
            if folder:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
            else:
                parent = str(Path(name).parent)
                self.client.log_artifact(run.info.run_id, str(path), None if parent == "." else parent)

    def _drop_artifacts(self) -> None:
        """Remove the artifacts of runs that were replaced or belonged to an earlier store."""
        root = self.store.folder(self.store.artifact_location(self.study) or "")
        kept = {run.info.run_id for runs in self._stored().values() for run in runs}
        for folder in root.glob("*") if root else ():
            if folder.name not in kept:
                shutil.rmtree(folder)


def _mark(log: RunLog) -> str:
    """Return the mark of a mirrored run: format, length and digest of its log, digest of its results."""
    end = digest(log.run.files.info.read_bytes() + log.run.files.metrics.read_bytes()) if log.finished else "-"
    return f"{_FORMAT} {len(log.text)} {digest(log.text)} {end}"


def _continued(known: list["StoredRun"], log: RunLog) -> tuple["StoredRun | None", int]:
    """Return the stored run that the log continues and how many bytes of the log it holds; None if it must be new."""
    for run in known:
        mark = run.data.tags.get(_MARK, "").split()
        if run.data.tags.get("run_key") != log.key or len(mark) != 4 or mark[0] != str(_FORMAT):
            continue
        length, unfinished = int(mark[1]), mark[3] == "-"
        # A resumed run has cut its log back: the mirrored part then differs or is longer than the log.
        if " ".join(mark) == _mark(log) or (unfinished and digest(log.text[:length]) == mark[2]):
            return run, length
    return None, 0


def _milliseconds(log: RunLog, step: int, start: int) -> int:
    """Return when a step was made or, for a run followed in training, when it was seen, so that time only grows."""
    moment = None if start else log.time_of(step)
    return round(1000 * (moment.timestamp() if moment else time.time()))
