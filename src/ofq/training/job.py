"""The surroundings of every training run: threads, seeds, its locked directory, the files it publishes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ofq.config.resolve import Keeping, RunConfig
from ofq.errors import missing
from ofq.runs import states
from ofq.runs.checkpoint import Checkpoints, Maker
from ofq.runs.code_digest import code_digest
from ofq.runs.events import EventLog
from ofq.runs.files import remove_unfinished
from ofq.runs.paths import Run
from ofq.runs.provenance import file_digest, versions
from ofq.training.resume import state_to_continue


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
        earlier = state_to_continue(run, state, states.of_run(base), keeping)
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
