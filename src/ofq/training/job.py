"""The surroundings of every training run: threads, seeds, its locked directory, the files it publishes."""

import datetime
import logging
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ofq.config.resolve import Keeping, RunConfig
from ofq.environment import UNDER_SNAKEMAKE
from ofq.errors import missing
from ofq.runs import checkpoint, states
from ofq.runs.checkpoint import Checkpoints, Maker
from ofq.runs.code_digest import code_digest
from ofq.runs.events import EventLog
from ofq.runs.files import remove_unfinished, write_bytes, write_json, write_text
from ofq.runs.paths import Run
from ofq.runs.provenance import file_digest, git_commit, machine, versions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """A run that is being trained, with the place of its state and its origin."""

    run: Run
    config: RunConfig
    keeping: Keeping
    state: states.State
    checkpoints: Checkpoints
    events: EventLog
    started: float
    started_cpu: float

    @property
    def digests(self) -> dict[str, Any]:
        """Digests of the code and of the files that the run reads."""
        return {"code": self.state.origin.code, "inputs": self.state.origin.inputs}

    def publish(self, model: nn.Module, metrics: dict[str, float], trainer: dict[str, Any] | None = None) -> None:
        """Write the run's results, ``metrics.json`` last.

        Args:
            model: trained model; its state goes to ``model.safetensors``.
            metrics: deterministic results; seed and steps are added.
            trainer: optimizer and oscillation state from which a later phase continues, if any.
        """
        files = self.run.files
        write_bytes(files.model, save({name: value.contiguous() for name, value in model.state_dict().items()}))
        if trainer is not None:
            checkpoint.write(files.trainer, trainer)
        metrics = {**metrics, "seed": self.run.seed, "steps": self.config.train.steps}
        self.events.append("end", **metrics)
        write_text(files.events, self.events.text())
        write_json(files.info, self._info())
        write_json(files.metrics, metrics)
        if UNDER_SNAKEMAKE not in os.environ:
            states.drop(self.state.directory)

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
            "state": self.state.directory.name,
            "rerun_on_code": self.keeping.rerun_on_code,
            "resume_across_code": self.keeping.resume_across_code,
            "history": self.checkpoints.history,
            **({"git": commit} if (commit := git_commit()) else {}),
        }


@contextmanager
def session(
    run: Run, config: RunConfig, keeping: Keeping, module: str, inputs: Sequence[Path], *, aside: str = ""
) -> Iterator[Session]:
    """Prepare a run: fixed threads, deterministic kernels, a locked directory keyed by all that the run depends on.

    Args:
        run: coordinates.
        config: everything in ``params.yaml`` that the run depends on.
        keeping: how the resumable state is kept.
        module: the step's module; its code, imports followed, is part of the key.
        inputs: files that the run reads; their content is part of the key.
        aside: folder for the state of work beside the run itself, so that its event log is not taken for the run's.

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
    code, read = code_digest(module, *config.modules), {str(path): file_digest(path) for path in inputs}
    base = run.state(aside)
    key = config.key(str({"code": code, "inputs": read}))
    state = states.State(base / key, states.Origin(config.canonical(), read, code))
    with states.only_trainer(base):
        earlier = _earlier(run, state, states.of_run(base), keeping)
        state.begin()
        remove_unfinished(state.directory)
        if not aside:
            remove_unfinished(run.files.root)
        yield Session(
            run,
            config,
            keeping,
            state,
            Checkpoints(
                state.directory,
                Maker(code, versions()),
                seconds=keeping.checkpoint_seconds,
                earlier=earlier,
            ),
            EventLog(
                state.directory / "events.jsonl",
                run=str(run),
                config=config.model_dump(mode="json", exclude_none=True),
            ),
            started,
            started_cpu,
        )


def _earlier(run: Run, state: states.State, found: list[states.State], keeping: Keeping) -> Path | None:
    """Return the state of other code to continue from, if that was asked for; warn where a state is left behind."""
    if state.step or not found:
        return None
    same = [other for other in found if other.origin.differences(state.origin) == ["code"]]
    if same and keeping.across_code:
        return same[-1].directory
    last = (same or found)[-1]
    _log.warning(
        "%s: %s changed since step %d was saved; starting from the first step in %s; the earlier state stays in %s%s",
        run,
        " and ".join(last.origin.differences(state.origin)),
        last.step,
        state.directory,
        last.directory,
        "; to go on from it: --resume-across-code" if same else "",
    )
    return None
