"""What finished runs took: of the runs here, and in the committed records."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from ofq.config.recipes import TrainingRecipe
from ofq.config.resolve import RunConfig
from ofq.errors import UserError
from ofq.measure.pace import Pace, evaluations
from ofq.measure.shape import Shape
from ofq.runs.files import read_json
from ofq.runs.paths import REFERENCE, RESULTS, Run, RunFiles
from ofq.runs.provenance import machine
from ofq.runs.published import Info, digest_of, read_info

_NEEDED = ("config", "cpu_seconds", "peak_memory_mib", "machine")
# A run takes as long at another seed, rate or width of a band; up to six bits at any.
_NO_TIME = {"seed", "steps", "constant_steps", "calibration_batches", "parent", "factor", "start"}
_BITS, _FEW_BITS = {"weight_bits", "input_bits"}, 6
# What an evaluated image takes of what a training image does.
_FORWARD = 0.5


@dataclass(frozen=True)
class Took:
    """What a finished run took.

    Attributes:
        steps: of its recipe.
        seconds: of the processor or, on a card, of the card.
        memory_mib: largest memory of the process or, on a card, of the card.
        published: bytes of its files.
        state: bytes of a checkpoint.
    """

    steps: int
    seconds: float
    memory_mib: int
    published: int
    state: int

    def pace(self, recipe: TrainingRecipe, phase: str, shape: Shape | None) -> Pace:
        """Return the pace of runs of a phase and recipe; of unknown images the evaluation is in the steps."""
        size = recipe.batch_size
        images = evaluated(recipe.held(recipe.min_lr, self.steps), phase, shape)
        step = self.seconds / (self.steps + _FORWARD * images / size)
        image = _FORWARD * step / size if shape else 0.0
        return Pace(step, image, 0.0, self.memory_mib, self.published, self.state)


class _Recorded(TypedDict):
    """What is read of a committed record; an older one has nothing of it."""

    took: NotRequired[dict[str, dict[str, int | float]]]


def kind_of(config: dict[str, Any]) -> str:
    """Return what the settings of a run have in common with those of others that take as long a step: a digest."""
    return digest_of(json.dumps(_timed(config), sort_keys=True))[:16]


def recipe_of(config: RunConfig, shape: Shape | None) -> TrainingRecipe | None:
    """Return how a run is trained, in steps; None where it is not, or in epochs of images that are not known."""
    train = config.train
    if train is None or (train.steps is None and shape is None):
        return None
    return train.for_images(shape.train if shape else 0)


def evaluated(recipe: TrainingRecipe | None, phase: str, shape: Shape | None, first: int = 0) -> int:
    """Return how many images a run evaluates after its first steps, 0 for unknown ones.

    A teacher's outputs for its students are among them.
    """
    if shape is None:
        return 0
    times = evaluations(recipe, first) if recipe else 1  # given weights are evaluated once
    return times * shape.evaluated + (shape.train if phase == "teacher" else 0)


def finished_here() -> dict[str, list[Took]]:
    """Return what the finished runs of this machine, or of cards, took, by kind; unreadable ones are passed over."""
    cpu = machine()["cpu"]
    found: dict[str, list[Took]] = {}
    for path in RESULTS.glob("*/*/*/*/seed*/run.json"):
        with contextlib.suppress(UserError, KeyError):
            info = read_info(path, *_NEEDED)
            if "gpu_seconds" in info or info["machine"].get("cpu") == cpu:
                _add(found, path, info)
    return found


def recorded() -> dict[str, list[Took]]:
    """Return what the committed records say that runs took, by kind."""
    found: dict[str, list[Took]] = {}
    for path in sorted(REFERENCE.glob("*/record.json")):
        for kind, took in read_json(path, _Recorded).get("took", {}).items():
            found.setdefault(kind, []).append(Took(**took))
    return found


def to_record(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Return what a committed record notes of finished runs: by kind, what the one with the median time took."""
    found: dict[str, list[Took]] = {}
    for run in runs:
        _add(found, run.files.info, read_info(run.files.info, *_NEEDED))
    return {kind: asdict(middle(took)) for kind, took in sorted(found.items())}


def middle(took: list[Took]) -> Took:
    """Return the one with the median time."""
    return sorted(took, key=lambda one: one.seconds)[len(took) // 2]


def _add(found: dict[str, list[Took]], path: Path, info: Info) -> None:
    """Add what a finished run took, unless half of it was trained by a process that did not end it."""
    config, card = info["config"], "gpu_seconds" in info
    files = RunFiles(path.parent, config["phase"] == "teacher")
    steps = read_json(files.metrics, dict[str, Any]).get("steps", 0)
    trained = steps - info.get("resumed_after", 0)
    if 2 * trained <= steps:
        return
    own = [*files.published, *([] if files.full_precision else [files.annealing])]
    size = {path.name: path.stat().st_size for path in own if path.exists()}
    model = size.get(files.model.name, 0)
    # The optimizer has two numbers for each weight; what a student's trainer has beside that is the meter's.
    state = 3 * model if files.full_precision else model + size.get(files.trainer.name, 0)
    seconds = (info["gpu_seconds"] if card else info["cpu_seconds"] * info.get("devices", 1)) * steps / trained
    memory = info["gpu_memory_mib"] if card else info["peak_memory_mib"]
    took = Took(steps, round(seconds, 2), round(memory), sum(size.values()), state)
    found.setdefault(kind_of(config), []).append(took)


def _timed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if name not in _NO_TIME}
        return {
            name: max(each, _FEW_BITS) if name in _BITS else each if name == "model" else _timed(each)
            for name, each in kept.items()
        }
    if isinstance(value, list):
        return [_timed(each) for each in value]
    return "a number" if isinstance(value, float) else value
