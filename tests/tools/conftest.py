"""What the tests of the drill share: the runs of its study, and a project in which one is finished."""

import random
from pathlib import Path

import torch

from ofq.runs.paths import Run

LSQ, STATSQ, *OTHERS = (
    Run("drill", "vit_micro", "w2a2", variant, 0)
    for variant in ("lsq", "statsq", "statsq-qkr", "statsq-cga", "statsq-qkr-cga")
)


def finished(root: Path) -> Path:
    """Two files of a run, its trainer state, and a table."""
    folder = root / "results" / str(STATSQ)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "run.json").write_text(f'{{"seconds": {random.random()}}}')
    torch.save({"step": 3, "moments": torch.tensor([0.0, float("nan")])}, folder / "trainer.pt")
    tables = root / "results/drill/report/tables"
    tables.mkdir(parents=True)
    (tables / "main.csv").write_text("n\n1\n")
    return folder
