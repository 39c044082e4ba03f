"""The processes that a drill started, and nobody else's.

Everything that a drill starts inherits an environment variable with a value of its own, whoever adopts it later. A
process is held by a file descriptor (pidfd) before the variable is looked up, so that a signal can never reach
another process that was given the same number since.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ofq.runs.paths import Run

MARK = "OFQ_DRILL"
"""Environment variable that the processes of a drill inherit."""

_TRAINING = {"teacher", "qat", "cga"}
_KERNEL_THREAD = 0x00200000  # of the flags in /proc/PID/stat


@dataclass(frozen=True)
class Process:
    """One process of the drill.

    ``role`` is ``warm process``, ``trainer``, ``caller`` (the ``python -m ofq qat ...`` that a trainer works for;
    without a warm process it trains itself), ``step`` (``python -m ofq tables ...`` and the like) or ``other``.
    ``log`` is the file that it prints to, relative to the copy's root.
    """

    pid: int
    handle: int
    since: float
    role: str
    step: str
    log: str

    @property
    def run(self) -> Run | None:
        """The run that it trains, as its log says."""
        return Run.parse(self.log.removeprefix("logs/").removesuffix(".log")) if self.log.startswith("logs/") else None

    def send(self, signum: signal.Signals) -> bool:
        """Send a signal; whether the process was still there."""
        try:
            signal.pidfd_send_signal(self.handle, signum)
        except ProcessLookupError:
            return False
        return True


class Processes:
    """All living processes that carry a drill's mark, below one root directory."""

    def __init__(self, root: Path, value: str) -> None:
        self._root = f"{root}/"
        self._mark = f"{MARK}={value}".encode()
        self._held: dict[int, tuple[str, int, float]] = {}  # process id: start time, pidfd, first seen
        self._foreign: dict[int, str] = {}
        self._sockets: set[Path] = set()

    def scan(self, now: float) -> list[Process]:
        """Those that live now."""
        started = dict(_start_times())
        for pid in [pid for pid, (start, _, _) in self._held.items() if started.get(pid) != start]:
            os.close(self._held.pop(pid)[1])
        self._foreign = {pid: start for pid, start in self._foreign.items() if started.get(pid) == start}
        for pid, start in started.items():
            if pid not in self._held and pid not in self._foreign:
                self._meet(pid, start, now)
        return [self._describe(pid, handle, since) for pid, (_, handle, since) in self._held.items()]

    def end(self) -> None:
        """Kill all that live, until none is left, and remove the sockets of warm processes that were killed."""
        while living := self.scan(0.0):
            for process in living:
                process.send(signal.SIGKILL)
            time.sleep(0.01)
        for socket in self._sockets:
            socket.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                socket.parent.rmdir()

    def _meet(self, pid: int, start: str, now: float) -> None:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # another user's
            variables = b"unreadable"
        if self._mark in variables.split(b"\0"):
            self._held[pid] = (start, handle, now)
            return
        os.close(handle)
        if variables:  # a process that is just being started shows none for a moment
            self._foreign[pid] = start

    def _describe(self, pid: int, handle: int, since: float) -> Process:
        words = _read(pid, "cmdline").decode(errors="replace").split("\0")
        step = words[words.index("ofq") + 1] if words[1:3] == ["-m", "ofq"] and len(words) > 4 else ""
        log = ""
        with contextlib.suppress(OSError):
            log = str(Path(f"/proc/{pid}/fd/1").readlink())
        log = log.removeprefix(self._root) if log.startswith(f"{self._root}logs/") else ""
        role = "other"
        if step == "warm":  # a fork keeps the command line, but prints to the log of its job
            role = "trainer" if log else "warm process"
            self._sockets.add(Path(words[4]))
        elif step:
            role = "caller" if step in _TRAINING else "step"
        return Process(pid, handle, since, role, step, log)


def _start_times() -> Iterator[tuple[int, str]]:
    """Number and start time of every living process."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of times a second
        if name.isdigit():
            # After the name of the program, which may hold anything: state, ..., start time as the 20th.
            fields = _read(int(name), "stat").rpartition(b")")[2].split()
            if len(fields) > 19 and fields[0] != b"Z" and not int(fields[6]) & _KERNEL_THREAD:
                yield int(name), fields[19].decode()


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
