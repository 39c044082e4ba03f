"""The MLflow store: where it is, who may write it, and its errors, each in one line."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ofq.errors import UserError
from ofq.runs.locks import exclusive
from ofq.runs.paths import STATE
from ofq.tracking.views import FIRST

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DEFAULT = "sqlite:///mlflow.db"  # what `mlflow ui` without flags opens in the project's root
_ARTIFACTS = Path("mlartifacts")  # and what it then serves as mlflow-artifacts:/
_PATIENCE = 60.0  # seconds to wait for another writer
_BUSY = f"another `track` has been writing for {_PATIENCE:.0f} s"


class StoreError(UserError):
    """The store cannot be written; the runs themselves are safe."""


@dataclass(frozen=True)
class Store:
    """An MLflow store, given by its address in MLflow."""

    uri: str

    @classmethod
    def chosen(cls) -> "Store":
        """Return the store that ``MLFLOW_TRACKING_URI`` names, or else the project's own."""
        return cls(os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT)

    def __str__(self) -> str:
        """Return the address without user name and password."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def artifact_location(self, study: str) -> str | None:
        """Return where a new experiment keeps its artifacts; None leaves that to the store.

        In the project's own store the location is relative to what the server serves: a path would be stored as
        absolute, and the artifacts would be lost when the project moves.
        """
        return f"mlflow-artifacts:/{study}" if self.uri == _DEFAULT else None

    def folder(self, artifact_uri: str) -> Path | None:
        """Return where `mlflow ui` looks for a run's artifacts; None if only MLflow's client can put them there."""
        uri = urlsplit(artifact_uri)
        return _ARTIFACTS / uri.path.lstrip("/") if self.uri == _DEFAULT and uri.scheme == "mlflow-artifacts" else None

    def page(self, experiment: str) -> str:
        """Return what to open to see an experiment's runs; MLflow's own start page leads elsewhere."""
        view = f"viewStateShareKey={FIRST}&compareRunsMode=CHART"
        page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&{view}"
        if self.uri.startswith("http"):
            return str(self).rstrip("/") + page
        command = "mlflow ui" if self.uri == _DEFAULT else f"mlflow ui --backend-store-uri {self}"
        return f"{command}, then http://127.0.0.1:5000{page}"

    @contextlib.contextmanager
    def opened(self) -> Iterator["MlflowClient"]:
        """Yield a client that is the only writer of the store.

        Raises:
            StoreError: the store is locked, damaged or out of reach, or MLflow reports another error.
        """
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        # A server that is down: seconds, not minutes. What is tried again is told once, at the end.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        # A pooled connection would outlive a deleted file, and what is written then would be lost.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        try:
            # Two writers in a new store would both create its tables, and one of them would fail.
            with exclusive(STATE / "mlflow.lock", patience=_PATIENCE, taken=lambda _: OSError(_BUSY)):
                self._check_database()
                try:
                    from mlflow import MlflowClient
                    from mlflow.exceptions import MlflowException
                    from sqlalchemy.exc import SQLAlchemyError
                # A user without a home directory, or without MLflow.
                except (RuntimeError, ModuleNotFoundError) as error:
                    raise self._failure(error) from None
                try:
                    yield MlflowClient(self.uri)
                except (MlflowException, SQLAlchemyError) as error:
                    raise self._failure(error) from None
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from None

    def _check_database(self) -> None:
        """Raise an error if an SQLite file is locked or not a database: MLflow itself would retry for minutes."""
        path = Path(self.uri.removeprefix("sqlite:///"))
        if self.uri.startswith("sqlite:///") and path.is_file():
            with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")

    def _failure(self, error: Exception) -> StoreError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = reason.removeprefix("(sqlite3.OperationalError) ").replace(self.uri, str(self))
        return StoreError(
            f"MLflow store {self}: {reason}; the runs are safe, mirror them when it works with: python -m ofq track"
        )
