"""What every training run has around it: threads, seeds, its locked directory, the files it publishes."""

import datetime
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ofq.errors import missing
from ofq.files import replacing, write_json, write_text
from ofq.params import RunConfig
from ofq.paths import Run
from ofq.provenance import code_digest, file_digest, git_commit, machine, versions
from ofq.training import checkpoint
from ofq.training.events import EventLog


@dataclass(frozen=True)
class Session:
    """A run that is being trained: where its state lies and what it came from."""

    run: Run
    config: RunConfig
    directory: Path
    events: EventLog
    digests: dict[str, Any]
    started: float
    started_cpu: float

    def publish(self, model: nn.Module, metrics: dict[str, float], trainer: dict[str, Any] | None = None) -> None:
        """Write the run's results, ``metrics.json`` last, and drop the resumable state.

        Args:
            model: trained model; its state goes to ``model.safetensors``.
            metrics: what is deterministic; seed and steps are added.
            trainer: optimizer and oscillation state from which a later phase continues.
        """
        files = self.run.files
        with replacing(files.model) as temporary:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
        if trainer is not None:
            checkpoint.write(files.trainer, trainer)
        metrics = {**metrics, "seed": self.run.seed, "steps": self.config.train.steps}
        self.events.append("end", **metrics)
        write_text(files.events, self.events.path.read_text())
        write_json(files.info, self._info())
        write_json(files.metrics, metrics)
        shutil.rmtree(self.directory)

    def _info(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.started, 2),
            "cpu_seconds": round(time.process_time() - self.started_cpu, 2),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "device": "cpu",
            "threads": self.config.threads,
            "machine": machine(),
            "versions": versions(),
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "digests": self.digests,
            **({"git": commit} if (commit := git_commit()) else {}),
        }


@contextmanager
def session(run: Run, config: RunConfig, module: str, inputs: Sequence[Path], *, aside: str = "") -> Iterator[Session]:
    """Prepare a run: fixed threads, deterministic kernels, a locked directory keyed by all that it depends on.

    Args:
        run: coordinates.
        config: everything in ``params.yaml`` that the run depends on.
        module: the step's module, whose code (imports followed) is part of the key.
        inputs: files that the run reads; their content is part of the key.
        aside: folder for the state of what is not the run itself, so that its event log is not taken for the run's.

    Raises:
        UserError: an input is missing, or another process trains this run.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    # A debugging aid that would cost a tenth of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(config.seed)
    if absent := [path for path in inputs if not path.exists()]:
        raise missing(absent[0])
    digests = {"code": code_digest(module), "inputs": {str(path): file_digest(path) for path in inputs}}
    directory = run.state(aside) / config.key(str(digests))
    with checkpoint.lock(directory):
        events = EventLog(directory / "events.jsonl")
        if not len(events):
            events.append("start", run=str(run), config=config.model_dump(mode="json", exclude_none=True))
        yield Session(run, config, directory, events, digests, started, started_cpu)
