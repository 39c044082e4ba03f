"""What Snakemake's scheduler costs does not grow with the number of jobs that have finished."""

import subprocess
import sys
from pathlib import Path

import pytest

SNAKEFILE = """\
import threading
from ofq.workflow import internals

rule all:
    input: expand("{n}.txt", n=range(40))

rule one:
    output: "{n}.txt"
    shell: "touch {output}"

onstart:
    if config["lifted"]:
        internals.start_jobs_at_once(workflow)

onsuccess:
    print("waiting:", sum(isinstance(thread, threading.Timer) for thread in threading.enumerate()))
"""


@pytest.mark.parametrize("lifted", [True, False])
def test_no_timer_is_left_of_jobs_that_have_finished(tmp_path: Path, lifted: bool) -> None:
    """With Snakemake's limit each job leaves one, which goes off every second; then this can go."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--config", f"lifted={int(lifted)}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    waiting = int(done.stdout.split("waiting:")[1].split()[0])
    assert waiting == 0 if lifted else waiting > 10
