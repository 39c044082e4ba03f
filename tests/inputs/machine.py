"""Machines on which nothing can be written, made from this one: a full disk, a read-only one, no permission."""

import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STEPS = """
import contextlib, io, json, sys
from ofq.cli.main import main

outcomes = []
for argv in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(argv)
    outcomes.append((code, said.getvalue()))
print(json.dumps(outcomes), file=sys.__stdout__)
"""


@dataclass(frozen=True)
class Outcome:
    """What a step said on standard error, and its exit code."""

    code: int
    said: str


def steps_on(machine: str, root: Path, steps: Sequence[Sequence[str]]) -> list[Outcome]:
    """Run steps one after the other in a project on a machine that refuses to write.

    Args:
        machine: ``full`` (no space on the disk), ``file-size`` (the same for a limit on files, which needs no
            namespaces), ``no-temporary`` (not even a byte can be written anywhere), ``read-only`` (``results`` on a disk that is mounted so) or ``permission`` (no right to write
            ``results``, not even for root).
        root: the project; what the steps leave behind stands there afterwards.
        steps: arguments of ``python -m ofq``.
    """
    python = shlex.join([sys.executable, "-c", _STEPS, json.dumps([list(step) for step in steps])])
    match machine:
        case "full":
            script = f"""
                mount -t tmpfs -o size=32m tmpfs /mnt && cp -r . /mnt && mkdir /mnt/runs /mnt/logs
                (cd /mnt && cat /dev/zero > fill 2>/dev/null; {python}); code=$?
                rm /mnt/fill && cp -r /mnt/. . && exit $code
            """
            return _outcomes(["unshare", "-rm", "sh", "-c", script], root)
        case "read-only":
            script = f"mount --bind results results && mount -o remount,bind,ro results && {python}"
            return _outcomes(["unshare", "-rm", "sh", "-c", script], root)
        case "permission":
            return _read(without_permission(["sh", "-c", python], root))
        case "file-size":
            return _outcomes(["sh", "-c", python], root, file_size=16)
        case "no-temporary":
            return _outcomes(["sh", "-c", python], root, file_size=0)
    raise ValueError(machine)


@cache
def namespaces() -> bool:
    """Whether this user may mount disks in a namespace of their own."""
    try:
        done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def without_permission(
    command: list[str], root: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a project whose ``results`` it may not write, not even as root."""
    without = "-dac_override,-dac_read_search"
    prefix = [] if os.geteuid() else ["setpriv", "--bounding-set", without, "--inh-caps", without]
    folders = [root / "results", *(path for path in (root / "results").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        return subprocess.run([*prefix, *command], cwd=root, env=environment, capture_output=True, text=True)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def _outcomes(command: list[str], root: Path, *, file_size: int | None = None) -> list[Outcome]:
    def limit() -> None:
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    return _read(subprocess.run(command, cwd=root, capture_output=True, text=True, preexec_fn=limit))


def _read(done: subprocess.CompletedProcess[str]) -> list[Outcome]:
    assert done.returncode == 0, done.stdout + done.stderr
    return [Outcome(*outcome) for outcome in json.loads(done.stdout.splitlines()[-1])]
