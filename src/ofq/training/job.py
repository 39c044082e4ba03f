"""The surroundings of every training run: threads, seeds, its locked directory, its images, the files it publishes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from ofq.config.recipes import TrainingRecipe
from ofq.config.resolve import KEEPING, Keeping, RunConfig
from ofq.data import batches
from ofq.data.batch import Batch, Batches
from ofq.data.mixing import mixed
from ofq.errors import missing
from ofq.runs import states
from ofq.runs.checkpoint import Checkpoints, Maker
from ofq.runs.code_digest import code_digest
from ofq.runs.events import EventLog
from ofq.runs.files import remove_unfinished
from ofq.runs.paths import Run, data_dir
from ofq.runs.provenance import file_digest, git_state, versions
from ofq.training.device import Device, device_of
from ofq.training.distributed import ALONE, Rank
from ofq.training.resume import state_to_continue

Config = TypeVar("Config", bound=RunConfig)
HeldConfig = TypeVar("HeldConfig", bound=RunConfig, covariant=True)


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Attributes:
        module: its code, imports followed, is part of the state's key.
        inputs: files that it reads besides the study's data; their content is part of the key.
        aside: folder for the state of work beside the run itself, so that its event log is not taken for the run's.
        order: added to the run's seed it gives the order of the images.
    """

    module: str
    inputs: Sequence[Path] = ()
    aside: str = ""
    order: int = 0


@dataclass(frozen=True)
class Job(Generic[HeldConfig]):
    """A run that is being trained.

    Attributes:
        run: its coordinates.
        config: everything in ``params.yaml`` that it depends on.
        keeping: how its resumable state is kept.
        state: where that stands, and what it is made from.
        checkpoints: what to resume from, and where to save.
        events: receives one ``step`` event per interval.
        data: training and evaluation images.
        device: where it computes.
        rank: which of its processes this is.
        seed: of the order of the images.
        label: names it in progress lines.
        started: monotonic and processor time of its start, in seconds; the latter is less by the time of others.
        git: what was checked out at its start.
    """

    run: Run
    config: HeldConfig
    keeping: Keeping
    state: states.State
    checkpoints: Checkpoints
    events: EventLog
    data: Batches
    device: Device
    rank: Rank
    seed: int
    label: str
    started: tuple[float, float]
    git: dict[str, Any]

    @property
    def digests(self) -> dict[str, Any]:
        """Digests of the code and of the files that the run reads."""
        return {"code": self.state.origin.code, "inputs": self.state.origin.inputs}

    @cached_property
    def recipe(self) -> TrainingRecipe:
        """How it is trained, in steps."""
        assert self.config.train is not None
        return self.config.train.for_images(self.data.count)

    @property
    def parts(self) -> int:
        """Into how many equal parts this process's images of a step are divided: the fewest that are small enough."""
        own = max(1, self.recipe.batch_size // self.rank.count)
        most = self.keeping.images_at_once or own
        return next(parts for parts in range(1, own + 1) if own % parts == 0 and own // parts <= most)

    def batch(self, step: int) -> Batch:
        """Return this process's part of the batch of an optimizer step, counted from 0, on the device."""
        rank = self.rank
        batch = self.data.train(self.seed, step, self.recipe.batch_size, rank.index, rank.count)
        return mixed(batch, self.recipe, self.data.classes, f"{self.seed}/{step}")

    def with_others(self) -> "Job[HeldConfig]":
        """Return the job with the processor time of its other processes in it; all have to call it."""
        now, own = self.started[0], time.process_time() - self.started[1]
        return replace(self, started=(now, self.started[1] + own - self.rank.total(own)))


@contextmanager
def started(
    run: Run, config: Config, step: Step, keeping: Keeping = KEEPING, rank: Rank = ALONE
) -> Iterator[Job[Config]]:
    """Prepare a run: its device, fixed threads, deterministic kernels, a locked directory keyed by what it depends on.

    Args:
        run: coordinates.
        config: everything in ``params.yaml`` that the run depends on.
        step: that trains or measures it.
        keeping: how the resumable state is kept, and how many runs share a card.
        rank: which of its processes this is; the first alone locks and cleans up.

    Raises:
        UserError: an input or the device is missing, the data are damaged, or another process trains this run.
    """
    inputs = [data_dir(run.study) / "manifest.json", *step.inputs]
    if absent := [path for path in inputs if not path.exists()]:
        raise missing(absent[0])
    device, label = device_of(config.hardware), f"{run.label} {step.aside}".rstrip()
    # Who starts several processes holds their cards.
    card = device.shared(keeping.runs_per_gpu, label) if rank.count == 1 else device.numbered(rank.local)
    with card, device.begun():
        now = time.monotonic(), time.process_time()
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        repeats, workers = config.train.repeats if config.train else 1, keeping.workers
        data = batches.load(run.study, config.augment, device.where, repeats=repeats, workers=workers)
        code, read = code_digest(step.module, *config.modules), {str(path): file_digest(path) for path in inputs}
        base = run.state(step.aside)
        key = config.key(str({"code": code, "inputs": read}))
        state = states.State(base / key, states.Origin(config.canonical(), read, code))
        maker = Maker(code, versions(), rank.count)
        with closing(data), states.only_trainer(base) if rank.leads else nullcontext():
            earlier = state_to_continue(run, state, states.of_run(base), keeping)
            if rank.leads:
                state.begin()
                remove_unfinished(state.directory)
                if not step.aside:
                    remove_unfinished(run.files.root)
            yield Job(
                run,
                config,
                keeping,
                state,
                Checkpoints(state.directory, maker, seconds=keeping.checkpoint_seconds, earlier=earlier),
                EventLog(state.directory / "events.jsonl", run=str(run), config=config.shown()),
                data,
                device,
                rank,
                seed=config.seed + step.order,
                label=label,
                started=now,
                git=git_state(config.modules),
            )
