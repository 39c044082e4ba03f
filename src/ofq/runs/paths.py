"""The paths of all files that the pipeline reads or writes, from a run's coordinates.

All paths are relative to the project's root, the directory that holds ``params.yaml``.
``results/`` holds finished artefacts, ``runs/`` the resumable state of training.
"""

import os
import re
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path

from ofq.errors import UserError, shortened

PARAMS = Path("params.yaml")
RESULTS = Path("results")
STATE = Path("runs")
LOGS = Path("logs")
EXAMINED = STATE / ".files"
"""Notes of image files that were read and found whole; no study's, because several may have the same images."""
REFERENCE = RESULTS / "reference"
TOY = RESULTS / "toy"
"""The toy regression, which belongs to no study."""

TEACHER = "teacher"
FULL_PRECISION = "fp"
EXPORTS = "exports"
"""Name of the target that exports the main grid of a study, at its first seed."""
CRATE = "crate"
"""Name of the target that puts the main grid of a study into an RO-Crate."""
EVERYTHING = "everything"
"""Name of the target that makes a study with all its groups and the claims, and of its report folder."""
SEEDS = 2**31
"""Upper bound of the seeds, itself excluded."""

_WIDTH = "[2-8]"
LOW_BITS = f"^w{_WIDTH}a({_WIDTH}|32)$"
"""Regular expression of the bit widths that ``params.yaml`` may list."""
_BITS = re.compile(f"w({_WIDTH})a({_WIDTH}|32)")

# One run has one path: no leading zeros in its seed, and no digits of other scripts.
_RUN = re.compile(
    r"(?:results/)?(?P<study>[^/]+)/(?P<model>[^/]+)/(?P<bits>[^/]+)/(?P<variant>[^/]+)/seed(?P<seed>0|[1-9][0-9]{0,18})"
    r"(?:/.*)?"
)


@total_ordering
@dataclass(frozen=True)
class Bits:
    """Bit widths of weights and inputs, None where they keep full precision: ``w2a2``, ``w3a32``, ``fp``.

    Full precision comes first in order, and weights alone after the same weights with any inputs.
    """

    weights: int | None = None
    inputs: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Bits":
        """Return the widths that a text names.

        Raises:
            UserError: it names none.
        """
        if text == FULL_PRECISION:
            return cls()
        match = _BITS.fullmatch(text)
        if match is None:
            raise UserError(f"'{shortened(text)}' names no bits; write w2a2 and the like, w2a32 or {FULL_PRECISION}")
        return cls(int(match[1]), None if match[2] == "32" else int(match[2]))

    def __str__(self) -> str:
        return FULL_PRECISION if self.weights is None else f"w{self.weights}a{self.inputs or 32}"

    def __lt__(self, other: "Bits") -> bool:
        return (self.weights or 0, self.inputs or 32) < (other.weights or 0, other.inputs or 32)


@dataclass(frozen=True, order=True)
class Run:
    """The coordinates of one training run: ``study/model/bits/variant/seedN``.

    ``bits`` is the text of :class:`Bits`: ``w2a2`` and the like, or ``fp`` for a full-precision teacher.
    """

    study: str
    model: str
    bits: str
    variant: str
    seed: int

    @classmethod
    def parse(cls, text: str) -> "Run | None":
        """Return the run that a path names (with or without ``results/`` and a file's name), or None."""
        match = _RUN.fullmatch(text)
        return (
            cls(match["study"], match["model"], match["bits"], match["variant"], int(match["seed"])) if match else None
        )

    @classmethod
    def named(cls, text: str) -> "Run":
        """Return the run that a person's text names, as :meth:`parse` does.

        Raises:
            UserError: the text names no run.
        """
        run = cls.parse(text)
        if run is None:
            raise UserError(
                f"'{shortened(text, 200)}' names no run; write study/model/bits/variant/seedN, N without leading zeros"
            )
        return run

    def __str__(self) -> str:
        return f"{self.study}/{self.model}/{self.bits}/{self.variant}/seed{self.seed}"

    @property
    def label(self) -> str:
        """Short name for progress lines and run lists: ``w2a2 statsq-qkr s0``."""
        return f"{self.bits} {self.variant} s{self.seed}"

    @property
    def full_precision(self) -> bool:
        """Whether the run is a full-precision teacher."""
        return self.bits == FULL_PRECISION

    @property
    def widths(self) -> Bits:
        """Its bits as numbers."""
        return Bits.parse(self.bits)

    @property
    def teacher(self) -> "Run":
        """The full-precision run of the same study, model and seed."""
        return Run(self.study, self.model, FULL_PRECISION, TEACHER, self.seed)

    def sibling(self, variant: str) -> "Run":
        """Return the run of another variant at otherwise equal coordinates."""
        return Run(self.study, self.model, self.bits, variant, self.seed)

    @property
    def files(self) -> "RunFiles":
        """The published files of the run."""
        return RunFiles(RESULTS / str(self), self.full_precision)

    @property
    def log(self) -> Path:
        """The file to which Snakemake sends what its training prints."""
        return LOGS / f"{self}.log"

    def state(self, key: str) -> Path:
        """Return the directory of the resumable state under a configuration key."""
        return STATE / str(self) / key


class _File:
    """The path of a file of a run, by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, files: "RunFiles", owner: type) -> Path:
        return files.root / self._name


@dataclass(frozen=True)
class RunFiles:
    """The published files of one run."""

    root: Path
    full_precision: bool

    metrics = _File("metrics.json")
    """Deterministic results."""
    info = _File("run.json")
    """Everything that is not deterministic: times, versions, device, digests."""
    model = _File("model.safetensors")
    """Weights and quantizer steps."""
    logits = _File("logits.safetensors")
    """A teacher's output on every training image, from which students learn."""
    trainer = _File("trainer.pt")
    """Optimizer and oscillation state, from which annealing continues."""
    events = _File("events.jsonl")
    """The event log, JSON lines."""
    oscillation = _File("oscillation.parquet")
    """Oscillation by layer at intervals."""
    weights = _File("weights.parquet")
    """Histogram of the final latent weights in step units, by layer."""
    annealing = _File("annealing.parquet")
    """Weights left free and quantizer steps of an annealed run."""
    probe = _File("probe.json")
    """What a student's codes do in a further window of training; only if requested."""
    noise = _File("noise.parquet")
    """What noise on its codes does to a student; only if requested."""

    sizes = _File("export/sizes.json")
    """What the run takes in each file that one can take home; only if requested, as the files themselves."""
    packed = _File("export/packed.safetensors")
    """Integer codes, steps and biases."""
    onnx = _File("export/model.onnx")
    """The same as ONNX."""

    @property
    def exported(self) -> list[Path]:
        """The files of an exported run."""
        return [self.packed, self.onnx, self.sizes]

    @property
    def taught(self) -> list[Path]:
        """The files of a teacher that its students read."""
        return [self.model, self.logits]

    @property
    def published(self) -> list[Path]:
        """The files that every teacher, or every student, publishes."""
        common = [self.metrics, self.info, self.model, self.events]
        own = [self.logits] if self.full_precision else [self.trainer, self.oscillation, self.weights]
        return [*common, *own]


def data_dir(study: str) -> Path:
    """Return the directory of a study's verified data and its manifest."""
    return RESULTS / study / "data"


def folder_named(text: str) -> Path:
    """Return the folder that settings name, with ``$VARIABLES`` and a leading ``~`` replaced.

    Raises:
        UserError: no such variable or home directory.
    """
    path = os.path.expandvars(text)
    if (unset := re.search(r"\$(\w+|\{\w+\})", path)) and not Path(path).exists():
        raise UserError(
            f"data.root '{text}': no environment variable {unset[1].strip('{}')}; set it, or write the path"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"data.root '{text}': no such home directory; write the whole path, without ~") from None


def data_info(study: str) -> Path:
    """Return the file that says what made a study's data: all that is not deterministic, like a run's ``run.json``."""
    return data_dir(study) / "prepared.json"


def report_dir(study: str, group: str | None = None) -> Path:
    """Return the directory of the tables and figures of a study's main grid, or of one of its groups."""
    return RESULTS / study / "report" / (group or "")


def record_note(study: str) -> Path:
    """Return the file that says what made a study's committed record."""
    return REFERENCE / study / "record.json"


def record_dir(report: Path) -> Path:
    """Return the place of a report's committed record: results/digits/report/controls -> reference/digits/controls."""
    study, _, *group = report.relative_to(RESULTS).parts
    return REFERENCE.joinpath(study, *group)
