"""What jobs may use together: processors, memory and cards of this machine, or of the container of Snakemake."""

import math
import os
import subprocess
from collections.abc import Iterator
from itertools import chain, takewhile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_GROUPS = Path("/sys/fs/cgroup")
_DEVICES = Path("/dev")
_OWN_GROUP = Path("/proc/self/cgroup")
_NONE = ("max", "-1")  # no limit, in versions 2 and 1 of control groups


def processors(available: int) -> int:
    """Return how many processors to use of those that are there: a container's quota may be less.

    Args:
        available: the machine's, or those that this process is bound to.
    """
    # Microseconds of processor time, and those of the period in which they may be used.
    quotas = chain(
        (text.split() for text in _found("", "cpu.max")),
        zip(_found("cpu", "cpu.cfs_quota_us"), _found("cpu", "cpu.cfs_period_us"), strict=True),
    )
    limits = [math.ceil(int(quota) / int(period)) for quota, period in quotas if quota not in _NONE]
    return min([available, *limits])


def memory_mb() -> int:
    """Return the machine's memory or the container's, the lesser of them, in megabytes."""
    limits = [*_found("", "memory.max"), *_found("memory", "memory.limit_in_bytes")]
    return int(min([psutil.virtual_memory().total, *(int(each) for each in limits if each not in _NONE)]) // 10**6)


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


def _found(controller: str, name: str) -> Iterator[str]:
    """Yield what a file says in the control groups that this process is in, from its own to the outermost.

    Args:
        controller: of version 1 of control groups; none, as in ``/proc/self/cgroup``, for version 2.
        name: of the file.
    """
    root = _GROUPS / controller
    for line in _OWN_GROUP.read_text().splitlines() if _OWN_GROUP.exists() else ():
        _, controllers, path = line.split(":", maxsplit=2)
        if controller in controllers.split(","):
            inner = root / path.lstrip("/")
            # A container may see the path of its group on the host, which is not there.
            for group in (inner, *inner.parents):
                if group.is_relative_to(root) and (file := group / name).exists():
                    yield file.read_text().strip()
