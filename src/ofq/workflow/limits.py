"""What jobs may use together: processors, memory and cards of this machine, or of the container of Snakemake."""

import math
import os
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_GROUPS = Path("/sys/fs/cgroup")
_DEVICES = Path("/dev")
_OWN_GROUP = Path("/proc/self/cgroup")


def processors(available: int) -> int:
    """Return how many processors to use of those that are there: a container's quota may be less.

    Args:
        available: the machine's, or those that this process is bound to.
    """
    quotas = (text.split() for text in _limits("cpu.max"))  # microseconds of processor time in a period
    return min([available, *(math.ceil(int(quota) / int(period)) for quota, period in quotas)])


def memory_mb() -> int:
    """Return the machine's memory or the container's, the lesser of them, in megabytes."""
    return int(min([psutil.virtual_memory().total, *map(int, _limits("memory.max"))]) // 10**6)


def cards() -> int:
    """Return how many CUDA cards a job on this machine sees; ``CUDA_VISIBLE_DEVICES`` may hide some."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
        found = sum(line.startswith("GPU ") for line in listed.splitlines())
    except (OSError, subprocess.CalledProcessError):  # containers may lack it
        found = len(list(_DEVICES.glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return min(found, len(list(takewhile(lambda name: name.strip() not in ("", "-1"), visible.split(",")))))


def _limits(name: str) -> Iterator[str]:
    """Yield the limits of the control groups that this process is in, from its own to the outermost (version 2)."""
    own = _OWN_GROUP.read_text() if _OWN_GROUP.exists() else ""
    inner = _GROUPS / own.rpartition("0::/")[2].strip()
    for group in (inner, *inner.parents):
        file = group / name
        if group.is_relative_to(_GROUPS) and file.exists() and not (text := file.read_text()).startswith("max"):
            yield text
