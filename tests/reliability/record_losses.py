"""Write the losses of a short run of every variant, with which ``test_numbers.py`` compares.

    python -m tests.reliability.record_losses

Renew them when a change of the numbers is meant, and say so in the commit. The file names the machine and the versions
that made it.
"""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from ofq.runs.provenance import machine, versions
from tests.reliability.conftest import EPOCH, VARIANTS, prepare_small_data, run_of, train

RECORD = Path(__file__).parent / "recorded_losses.json"


def made_by() -> dict[str, str]:
    """What two machines must share for their losses to be equal to the last bit."""
    return {
        "cpu": machine()["cpu"],
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{name: versions()[name] for name in ("torch", "timm", "numpy")},
    }


def losses(variant: str) -> dict[str, list[float]]:
    """Training and evaluation loss of each step of a finished run."""
    events = [json.loads(line) for line in run_of(variant).files.events.read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    return {name: [step[name] for step in steps] for name in ("train/loss", "val/loss")}


def record() -> dict[str, Any]:
    """Train every variant in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        prepare_small_data(train=64 * EPOCH, eval=32)
        names = ["teacher", *VARIANTS]
        for variant in names:
            train(run_of(variant))
        return {"made_by": made_by(), "losses": {variant: losses(variant) for variant in names}}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")
