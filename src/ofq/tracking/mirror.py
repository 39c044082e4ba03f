"""Bring an MLflow store up to date with the event logs of the runs.

The logs are the record and the store is a copy: training never touches it, and a deleted store is rebuilt in full.
MLflow is imported late, because the import takes seconds.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

from typing_extensions import TypedDict

from ofq.errors import UserError, counted
from ofq.export.mark import digest_if_of
from ofq.runs.files import read_json, remove_empty, write_json
from ofq.runs.paths import RESULTS, Run, report_dir
from ofq.tracking import logs
from ofq.tracking.logs import RunLog, digest
from ofq.tracking.store import Store, StoreError
from ofq.tracking.views import MAIN, views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

_log = logging.getLogger(__name__)

_FORMAT = 2  # version of what is written for a run; a new number writes every run anew
_GROUP = "group"  # tag: where params.yaml names the run now
_EXPORTED = "exported"  # tag: digest of the packed file that is kept as an artifact
_MARK = "mirrored"  # tag: how much of a run's log is in the store; empty while the run is being written
_METRICS, _SETTINGS = 1000, 100  # what MLflow takes in one call: metrics, and parameters or tags
_MEND = "delete it and mirror the runs again: python -m ofq track"
_INTERVAL = 5.0  # seconds between two looks at the logs


class Stamp(TypedDict):
    """What says which MLflow run each run of a study has; ``results`` tells the attempts of a run apart."""

    store: str
    runs: dict[str, str]
    experiment: NotRequired[str]
    results: NotRequired[dict[str, str]]
    error: NotRequired[str]


def stamp(study: str) -> Path:
    """Return the file that names a study's store and its runs' MLflow runs; ``error`` in it says why there are none."""
    return RESULTS / study / "mlflow.json"


def read_stamp(study: str) -> Stamp | None:
    """Return the content of a study's stamp, or None if there is none.

    Raises:
        UserError: it is damaged or of another form.
    """
    path = stamp(study)
    content: Stamp | None = read_json(path, Stamp, mend=_MEND) if path.is_file() else None
    return content


def is_current(content: Stamp, run: Run) -> bool:
    """Return whether the MLflow run of a finished run is of the attempt whose files there are, if it has one."""
    if str(run) not in content["runs"]:
        return True
    if "results" not in content:  # of an earlier version
        return stamp(run.study).stat().st_mtime >= run.files.info.stat().st_mtime
    return content["results"].get(str(run)) == _results(run)


def warnings(studies: Iterable[str]) -> list[str]:
    """Return the errors in the studies' stamps of a store that could not be written.

    Raises:
        UserError: a stamp is damaged or of another form.
    """
    stamps = [content for study in studies if (content := read_stamp(study))]
    return [content["error"] for content in stamps if "error" in content]


def track(study: str | None = None, groups: Mapping[Run, str] | None = None, *, keep_going: bool = False) -> None:
    """Bring the MLflow store up to date with the logs of one study or of all.

    Args:
        study: its name; None for every study that has runs.
        groups: part of its study in which ``params.yaml`` names a run, for the saved views; None: the main grid.
        keep_going: report a store that cannot be written as a warning and in the stamp, not as an error.

    Raises:
        UserError: there are no runs, the store cannot be written, or, once all others are mirrored, a run is damaged.
    """
    found = {name: logs.find(name) for name in ([study] if study else logs.studies())}
    records = {name: runs for name, (runs, _) in found.items() if runs}
    wrong = [str(error) for _, errors in found.values() for error in errors]
    if not records and not wrong:
        raise UserError(f"there are no runs{f' of study {study}' if study else ''} yet; make some with: snakemake")
    store = Store.chosen()
    try:
        with store.opened() as client:
            for name, runs in records.items():
                print(_Mirror(client, store, name, runs, groups).update(), flush=True)
    except StoreError as error:
        if not keep_going:
            raise
        _log.warning("%s", error)
        for name in records:
            write_json(stamp(name), {"store": str(store), "error": str(error), "runs": {}})
    if wrong:
        more = f"; and {len(wrong) - 1} more, each in a warning above" if len(wrong) > 1 else ""
        for line in wrong[1:]:
            _log.warning("%s", line)
        raise UserError(f"not mirrored: {wrong[0]}{more}")


def follow(study: str | None = None, groups: Mapping[Run, str] | None = None) -> None:
    """Mirror runs in training every few seconds until interrupted; a busy store is tried again."""
    seen: list[Any] = []
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            current = [logs.snapshot(name) for name in ([study] if study else logs.studies())]
            if any(current) and current != seen:
                try:
                    track(study, groups)
                    seen = current
                except StoreError as error:
                    _log.warning("%s", error)
                except UserError as error:  # of a run's files, which may change
                    _log.warning("%s", error)
                    seen = current
            time.sleep(_INTERVAL)


@dataclass(frozen=True)
class _Mirror:
    """One study's experiment in an open store."""

    client: "MlflowClient"
    store: Store
    study: str
    runs: list[RunLog]
    groups: Mapping[Run, str] | None

    def update(self) -> str:
        """Bring the experiment up to date and return a line that says what was done."""
        stored = self._stored()
        ids: dict[str, str] = {}
        new = replaced = 0
        for log in self.runs:
            known = stored.pop(str(log.run), [])
            run, start = _continued(known, log)
            # A server that went away while it answered may have been asked twice for the same run.
            self._replace([one for one in known if run is not None and one is not run], [])
            if run is None:
                new, replaced = new + (not known), replaced + bool(known)
                self._replace(known, [*_kept(log.run), *_kept(log.run, exported=True)])
                tags = {**log.tags, _MARK: ""}
                run = self.client.create_run(self.experiment, _milliseconds(log, 0, start), tags, log.run.label)
            if run.data.tags.get(_MARK) != _mark(log):
                self._write(run, log, start)
            group = self._group(log)
            if run.data.tags.get(_GROUP) != group:
                self.client.set_tag(run.info.run_id, _GROUP, group)
            if log.finished and (packed := _exported(log.run)) and run.data.tags.get(_EXPORTED) != packed:
                self._attach(run, {name: path for name, path in _kept(log.run, exported=True).items() if path.exists()})
                self.client.set_tag(run.info.run_id, _EXPORTED, packed)
            ids[str(log.run)] = run.info.run_id
        self._update_report(stored.get(f"{self.study}/report", []))
        results = {str(log.run): _results(log.run) for log in self.runs if log.finished}
        content = Stamp(store=str(self.store), experiment=self.experiment, runs=ids, results=results)
        write_json(stamp(self.study), content)
        return (
            f"{self.study}: {counted(len(ids), 'run')} in {self.store}, {new} of them new, {replaced} replaced; "
            f"to see them: {self.store.page(self.experiment)}"
        )

    def _group(self, log: RunLog) -> str:
        return MAIN if self.groups is None else self.groups.get(log.run, "none")

    @cached_property
    def experiment(self) -> str:
        """Id of the study's experiment, made or restored where needed, with its saved views."""
        tags = views([log for log in self.runs if self._group(log) == MAIN])
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
        """Return the experiment's runs that were made here, by their tag ``run``."""
        runs: dict[str, list[StoredRun]] = {}
        token = None
        while token != "":
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                if _MARK in run.data.tags:
                    runs.setdefault(run.data.tags.get("run", ""), []).append(run)
            token = page.token or ""
        return runs

    def _replace(self, runs: list["StoredRun"], names: Iterable[str]) -> None:
        """Put runs into MLflow's trash, without those artifacts that another run gets in their place."""
        for run in runs:
            self.client.delete_run(run.info.run_id)
            if folder := self.store.folder(run.info.artifact_uri):
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                remove_empty(folder.parent)

    def _write(self, run: "StoredRun", log: RunLog, start: int) -> None:
        """Log what is new. A writer that dies halfway leaves no mark, and the run is then written anew."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = run.info.run_id
        self.client.set_tag(run_id, _MARK, "")
        self.client.log_batch(run_id, tags=[RunTag(*item) for item in log.tags.items()])
        params = [Param(*item) for item in log.params.items()]
        for first in range(0, len(params), _SETTINGS):
            self.client.log_batch(run_id, params=params[first : first + _SETTINGS])
        points = log.points(start)
        metrics = [Metric(name, value, _milliseconds(log, step, start), step) for name, step, value in points]
        for first in range(0, len(metrics), _METRICS):
            self.client.log_batch(run_id, metrics=metrics[first : first + _METRICS])
        if log.finished:
            self._attach(run, _kept(log.run))
            self.client.set_terminated(run_id, end_time=_milliseconds(log, log.steps, start))
        self.client.set_tag(run_id, _MARK, _mark(log))

    def _update_report(self, known: list["StoredRun"]) -> None:
        """Keep the study's tables and figures as the artifacts of a run named ``report``."""
        root = report_dir(self.study)
        files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.*")) if path.is_file()}
        content = "".join(name + digest(path.read_bytes()) for name, path in files.items())
        mark = f"{_FORMAT} {digest(content.encode())}"
        if not files or any(run.data.tags.get(_MARK) == mark for run in known):
            return
        self._replace(known, files)
        modified = round(1000 * max(path.stat().st_mtime for path in files.values()))
        tags = {"run": f"{self.study}/report", "study": self.study, _MARK: ""}
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


def _mark(log: RunLog) -> str:
    """Return the mark of a mirrored run: format, length and digest of its log, digest of its results."""
    end = _results(log.run) if log.finished else "-"
    return f"{_FORMAT} {len(log.text)} {digest(log.text)} {end}"


def _kept(run: Run, *, exported: bool = False) -> dict[str, Path]:
    """Return the files that are kept as artifacts of a run, by their names below its folder."""
    files = run.files
    paths = files.exported if exported else [files.metrics, files.info]
    return {str(path.relative_to(files.root)): path for path in paths}


def _exported(run: Run) -> str | None:
    """Return the digest of the packed file that was made of a run's present weights; None if there is none."""
    try:
        return digest_if_of(run.files.model, run.files.packed)
    except UserError as error:
        _log.warning("%s", error)
        return None


def _results(run: Run) -> str:
    """Return what tells the results of a run from those of another attempt."""
    return digest(run.files.info.read_bytes() + run.files.metrics.read_bytes())


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
