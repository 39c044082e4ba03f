"""The short study of a drill, and a copy of the workflow that it is run in."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ofq.config.params import Params
from ofq.runs.paths import RESULTS, Run
from tools.scratch import copy_workflow, environment

NAME = "drill"
RECIPE: dict[str, Any] = {
    "teacher": {"lr": 1.0e-2, "min_lr": 1.0e-5, "batch_size": 64, "steps": 1000, "warmup": 0.1},
    "qat": {"lr": 1.6e-2, "min_lr": 8.0e-4, "batch_size": 64, "steps": 400, "warmup": 0.05, "constant_steps": 50},
    "cga": {"steps": 200},
}
_MODEL = {
    "timm": "vit_tiny_patch16_224",
    "arguments": {
        "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "class_token": False,
        "global_pool": "avg",
    },
}  # fmt: skip
_VARIANTS: dict[str, Any] = {
    "lsq": {"weight": "lsq"},
    "statsq": {"weight": "statsq"},
    "statsq-qkr": {"weight": "statsq", "qkr": True},
    "statsq-cga": {"parent": "statsq", "cga": {"boundary_range": 0.005}},
    "statsq-qkr-cga": {"parent": "statsq-qkr", "cga": {"boundary_range": 0.005}},
}


@dataclass(frozen=True)
class ShortStudy:
    """A study that trains in about a minute: one bit width, one seed, a teacher and each variant once.

    Checkpoints are so frequent that kills find runs with and without one, and some in the middle of writing.
    """

    variants: tuple[str, ...] = tuple(_VARIANTS)
    recipe: dict[str, Any] = field(default_factory=lambda: RECIPE)
    checkpoint_seconds: float = 0.2

    @property
    def params(self) -> str:
        """Text of its ``params.yaml``."""
        study = {
            "data": {"name": "digits"},
            "models": ["vit_micro"],
            "bits": ["w2a2"],
            "variants": list(self.variants),
            "seeds": [0],
            "recipe": NAME,
            "checkpoint_seconds": self.checkpoint_seconds,
        }
        content = {
            "study": NAME,
            "studies": {NAME: study},
            "recipes": {NAME: self.recipe},
            "models": {"vit_micro": _MODEL},
            "variants": _VARIANTS,
        }
        return yaml.safe_dump(content, sort_keys=False)

    @property
    def resolved(self) -> Params:
        """Its parameters."""
        return Params.model_validate(yaml.safe_load(self.params))

    @property
    def runs(self) -> list[Run]:
        """Its runs, the teacher first."""
        runs = self.resolved.runs(NAME)
        return [runs[0].teacher, *runs]

    def steps(self, run: Run) -> int:
        """Optimizer steps of one of its runs."""
        return self.resolved.resolve(run).train.steps


@dataclass(frozen=True)
class Copy:
    """A copy of the workflow at ``root``; what Snakemake prints goes to ``root`` with the suffix ``.log``."""

    root: Path
    study: ShortStudy
    mark: dict[str, str] = field(default_factory=dict)  # environment variables of all that is started in it

    def make(self, source: Path) -> None:
        """Copy the workflow of the project at ``source``."""
        copy_workflow(source, self.root, self.study.params)

    @property
    def log(self) -> Path:
        """All that Snakemake printed here."""
        return self.root.with_suffix(".log")

    @property
    def results(self) -> Path:
        """Finished files of the study."""
        return self.root / RESULTS / NAME

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start ``snakemake`` as a user would, in a session of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["snakemake", *options],
                cwd=self.root,
                env=environment(self.root) | self.mark,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def nothing_to_do(self) -> bool:
        """Whether ``snakemake -n`` plans no job."""
        before = self.log.stat().st_size
        code = self.start("-n").wait()
        return code == 0 and b"Nothing to be done" in self.log.read_bytes()[before:]

    def unrecorded(self) -> list[str]:
        """Files of the study of which Snakemake does not know what made them, so that no later change would rerun them.

        A job that outlives a killed Snakemake can leave such files.
        """
        command = ["snakemake", "--summary"]
        done = subprocess.run(command, cwd=self.root, env=environment(self.root), capture_output=True, text=True)
        rows = [line.split("\t") for line in done.stdout.splitlines()[1:]]
        # The fourth column is the log of the job, as recorded: every rule has one.
        return [row[0] for row in rows if len(row) > 3 and row[3] == "-"] if rows else ["any file"]

    def last_lines(self, count: int = 5) -> str:
        """The end of what Snakemake printed, for an error."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-count:])
