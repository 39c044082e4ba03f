"""A trial of trainings: a few real steps of each on random images, in a folder that goes away afterwards."""

import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from ofq.config.recipes import Augmentation, TrainingRecipe
from ofq.config.resolve import KEEPING, Keeping, RunConfig
from ofq.data.manifest import Files, Manifest, write_manifest
from ofq.data.prepare import store
from ofq.environment import UNDER_SNAKEMAKE
from ofq.errors import UserError
from ofq.measure.pace import Pace
from ofq.measure.shape import Shape
from ofq.runs.paths import RESULTS, STATE, Run
from ofq.runs.published import read_info
from ofq.training.anneal import run_cga
from ofq.training.qat import run_qat
from ofq.training.teacher import run_teacher

_STEPS: dict[str, Callable[..., None]] = {"teacher": run_teacher, "qat": run_qat, "cga": run_cga}
_WRITTEN = {str(RESULTS), str(STATE)}
_FEW, _MOST = 4, 2000  # steps
# Pixels of a batch and of the evaluation images, which a processor looks at in some seconds.
_BATCH, _EVALUATED, _TRAINED = 2**19, 2**22, 2**24
_MIB = 2**20


@dataclass(frozen=True)
class _Spent:
    """What a short run took: seconds of the processor or the card, memory before and at most, bytes of files."""

    seconds: float
    before_mib: float
    memory_mib: int
    published: int
    state: int


def trials(
    runs: dict[Run, RunConfig], asked: set[Run], shape: Shape, seconds: float, keeping: Keeping = KEEPING
) -> Iterator[tuple[Run, Pace]]:
    """Try runs of one study: their real code, models, teachers and hooks, on random images.

    Each is trained with few steps and with more, and with few and more evaluations, which tells apart what a step, an
    evaluated image and the rest take. One device has its part of a batch; what several tell each other is not counted,
    and runs that would share a card have it alone. On the processor a batch of large images is cut, and a step is taken
    to be proportional to it. Classes beside ``params.yaml`` are found; nothing of the project is written.

    Args:
        runs: with their settings, each after the teacher and the parent that it needs.
        asked: which of them to measure; the others are there for these.
        shape: of the study's images.
        seconds: of training that are measured for each run, roughly.
        keeping: among how many devices a run is divided, and how many images each computes at a time.

    Raises:
        UserError: a model cannot be built or trained as its settings say, or its device is not here.
    """
    with tempfile.TemporaryDirectory(prefix="ofq-trial-") as name:
        folder = Path(name)
        for path in Path.cwd().iterdir():
            if path.name not in _WRITTEN:
                (folder / path.name).symlink_to(path)
        # A teacher that is not trained has no recipe, and teaches here what it has at random.
        given = {"pretrained": None, "train": next(config.train for config in runs.values() if config.train)}
        runs = {run: config if config.train else config.model_copy(update=given) for run, config in runs.items()}
        largest = max(_recipe(config).batch_size for config in runs.values())
        tried = replace(
            shape,
            train=min(shape.train, max(largest, _TRAINED // shape.pixels)),
            evaluated=min(shape.evaluated, 1024, max(16, _EVALUATED // shape.pixels)),
        )
        _apart(folder, _write_images, next(iter(runs)).study, tried)
        trial = _Trial(folder, shape, tried, keeping, seconds)
        for run, config in runs.items():
            if run in asked:
                yield run, trial.pace(run, config)
            else:
                trial.spent(run, config, _FEW, 1)


@dataclass(frozen=True)
class _Trial:
    """Short runs in a folder.

    Attributes:
        folder: where they are made.
        shape: of the study's images.
        tried: of the random images.
        keeping: among how many devices a run is divided, and how many images each computes at a time.
        seconds: of training that are measured for each run, roughly.
    """

    folder: Path
    shape: Shape
    tried: Shape
    keeping: Keeping
    seconds: float

    def pace(self, run: Run, config: RunConfig) -> Pace:
        """Tell apart what short runs of some settings take by their steps and evaluations."""
        spent = partial(self.spent, run, config)
        if config.hardware.compile:
            spent(_FEW, 1)  # what it compiles is kept for the others
        few, batch, evaluated = spent(_FEW, 1), self._batch(config), self.tried.evaluated
        steps, more = 2 * _FEW, 0.0
        while more < self.seconds / 4 and steps < _MOST:  # what few steps take drowns in what surrounds them
            steps = min(_MOST, math.ceil(steps * self.seconds / max(more, self.seconds / 16)) if more else steps)
            more = max(spent(_FEW + steps, 1).seconds - few.seconds, 1e-9)
        step = more / steps
        # An evaluated image may take as long as one that is trained on; then these are as many seconds.
        often = min(steps, max(_FEW, math.ceil(self.seconds / max(step, 1e-3) / (1 + evaluated / batch))))
        beyond = spent(often, often).seconds - few.seconds - (often - _FEW) * step
        image = max(beyond / ((often - 1) * evaluated), 0.0)
        outputs = self.tried.train if config.phase == "teacher" else 0
        absent = self.shape.train - self.tried.train
        whole = _recipe(config).batch_size
        kept = 0 if self.shape.streamed else absent * self.shape.pixels / _MIB
        grown = few.before_mib + (few.memory_mib - few.before_mib) * whole / self.keeping.devices / batch
        return Pace(
            step=step * whole / batch,
            image=image,
            start=max(few.seconds - _FEW * step - (2 * evaluated + outputs) * image, 0.0),
            memory_mib=round(grown + kept),
            published=few.published + (4 * self.shape.classes * absent if outputs else 0),
            state=few.state,
        )

    def spent(self, run: Run, config: RunConfig, steps: int, times: int) -> _Spent:
        """Train so many steps and evaluate so many times, at a rate at which random images do no harm."""
        recipe = _recipe(config).held(_recipe(config).min_lr, steps)
        known = {name: getattr(recipe.augment, name) for name in ("crop", "flip", "cutout")}
        changes = {"batch_size": self._batch(config), "evaluations": times, "augment": Augmentation(**known)}
        short = config.model_copy(update={"train": recipe.model_copy(update=changes)})
        found: _Spent = _apart(self.folder, _train, run, short, replace(self.keeping, devices=1, runs_per_gpu=1))
        return found

    def _batch(self, config: RunConfig) -> int:
        """Return the images of a step that is tried."""
        part = _recipe(config).batch_size // self.keeping.devices
        return part if config.hardware.device != "cpu" else min(part, max(8, _BATCH // self.shape.pixels // 2 * 2))


def _recipe(config: RunConfig) -> TrainingRecipe:
    assert config.train is not None, "a teacher of given weights has another's recipe here"
    return config.train


def _apart(folder: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do some work in a folder, in a process of its own: its memory is its own, and CUDA does not outlive a fork.

    As a child of this process it has the libraries at once.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=_go, initargs=(folder,)) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise UserError("a trial of the training was killed, often for want of memory") from None


def _go(folder: Path) -> None:
    os.chdir(folder)
    os.environ[UNDER_SNAKEMAKE] = "1"  # states stay, so that they can be weighed
    logging.getLogger("ofq").setLevel(logging.ERROR)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, for the life of this process


def _write_images(study: str, shape: Shape) -> None:
    draw = np.random.default_rng(0)
    stored = {}
    for split, count in (("train", shape.train), ("eval", shape.evaluated)):
        images = draw.integers(256, size=(count, shape.channels, *shape.size), dtype=np.uint8)
        stored[split] = store(study, split, images, np.arange(count) % shape.classes, classes=shape.classes)
    middle, spread = [0.5] * shape.channels, [0.3] * shape.channels
    write_manifest(
        study,
        Manifest(
            data="random",
            terms="",
            evaluate="test",
            classes=shape.classes,
            image_size=shape.size,
            channels=shape.channels,
            mean=middle,
            std=spread,
            files=Files(**stored),
            source={},
        ),
    )


def _train(run: Run, config: RunConfig, keeping: Keeping) -> _Spent:
    shutil.rmtree(run.state(""), ignore_errors=True)  # nothing resumes
    before = psutil.Process().memory_info().rss / _MIB
    _STEPS[config.phase](run, config, keeping)
    info = read_info(run.files.info, "cpu_seconds", "peak_memory_mib")
    card = config.hardware.device != "cpu"
    return _Spent(
        seconds=info["gpu_seconds"] if card else info["cpu_seconds"],
        before_mib=0.0 if card else before,
        memory_mib=info["gpu_memory_mib"] if card else round(info["peak_memory_mib"]),
        published=sum(path.stat().st_size for path in run.files.root.iterdir()),
        state=max(path.stat().st_size for path in run.state("").glob("*/checkpoint-*.pt")),
    )
