"""The kernel that rounds probabilities on a card does what its counterpart does."""

import os
import subprocess
import sys

import pytest


def test_the_interpreted_kernel_agrees_with_its_counterpart() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.quant.probabilities"]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
