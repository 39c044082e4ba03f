"""Start training jobs from a warm process.

Importing torch and timm and building the first optimizer costs some nine CPU seconds, about as much as training one run
of the digits study, and Snakemake starts one process for each of its 57 runs. So the Snakefile starts one server beside
local jobs: it imports the libraries (none of this package's modules) at the first request and forks a child for each
job. The child gets the caller's arguments, directory, environment, standard streams and signals, and its exit code, and
``ps`` shows it as ``ofq qat digits/...``; killing the caller kills the child. Without a server, or where it does not
answer, a job runs in its own process, with the same numbers.

Three lines go over a caller's connection: from the server the child's process id, from the caller the job, which the
child reads, and from the server the exit code. If the connection ends before that, the other side is gone.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from ofq.environment import WARM_SOCKET

LIBRARIES = ("pydantic", "yaml", "pandas", "pyarrow.parquet", "safetensors.torch", "timm", "torch._dynamo")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What tells a job to stop: passed on by its caller to the child."""

_REFUSED = 0  # in place of a child's process id: the server is ending, or its Snakemake is gone
_PR_SET_PDEATHSIG = 1


def delegate(address: str, job: Sequence[Any]) -> int | None:
    """Run a job in a child of the warm process and return its exit code, or None where no server answers.

    Args:
        address: of the server.
        job: what JSON can hold; the server's ``run`` gets it as its arguments.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, connection.makefile() as answers:
        try:
            connection.connect(address)
            child = int(answers.readline())
            if child != _REFUSED:
                title = " ".join(["ofq", *sys.argv[1:]])
                request = json.dumps({"job": job, "title": title, "cwd": str(Path.cwd()), "env": dict(os.environ)})
                socket.send_fds(connection, [b" "], [0, 1, 2])  # file descriptors travel with a byte
                connection.sendall(f"{request}\n".encode())
        except (OSError, ValueError):  # there is no server, or it ended before it answered
            return None
        if child == _REFUSED:
            print("ofq: error: the snakemake of this job is ending; run snakemake again", file=sys.stderr)
            return 1

        def forward(signum: int, frame: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signum)

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, forward)
        if code := answers.readline():
            return int(code)
        print("ofq: error: the warm process ended; run snakemake again", file=sys.stderr)
        return 1


class WarmProcess:
    """The server beside a Snakemake process: started for its local jobs, stopped with it."""

    def __init__(self) -> None:
        self.started: float | None = None  # seconds since the epoch
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def start(self) -> None:
        """Start the server and lead the jobs of this process to it; elsewhere than on Linux do nothing.

        Call it in a thread that lives as long as the process: to Linux, that thread is the server's parent.
        """
        if sys.platform != "linux":
            return
        self.started = time.time()
        self._folder = tempfile.mkdtemp(prefix="ofq-")
        address = Path(self._folder) / "socket"
        self._process = subprocess.Popen([sys.executable, "-m", "ofq", "warm", str(address)])
        atexit.register(self.stop)
        while not address.exists() and self._process.poll() is None:
            time.sleep(0.01)
        os.environ[WARM_SOCKET] = str(address)

    def stop(self) -> None:
        """End the server; a job that is still running saves its state and ends first."""
        if self._process is not None:
            os.environ.pop(WARM_SOCKET, None)
            self._process.terminate()
            self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._process = None


def serve(address: str, run: Callable[..., int]) -> None:
    """Answer callers until SIGTERM comes or the process that started this one is gone; the children then save and end.

    Snakemake deletes what the children of a killed Snakemake would still write, so going on would be in vain.

    Args:
        address: a new file, removed at the end.
        run: runs a job in a child and returns its exit code.

    Raises:
        OSError: the file cannot be made.
    """
    owner = os.getppid()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)  # before anything is changed: it may fail
    listener.listen(64)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a fork must find no running threads
    stopping: list[int] = []
    children: dict[int, tuple[int, socket.socket]] = {}  # process id and caller, by the caller's file descriptor
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:  # what a terminal sends reaches the children too; they save and end
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: stopping.append(signum))
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)  # only signals with a handler are written to the pipe
    signals, pipe = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    end_with(owner)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    epoll.register(signals, select.EPOLLIN)
    try:
        # Who still waits at the end is answered too: they would otherwise run in processes of their own.
        while ready := epoll.poll(0 if stopping and not children else None):
            for source, _ in ready:
                if source == listener.fileno():
                    caller, _ = listener.accept()
                    for name in () if stopping else LIBRARIES:  # takes seconds; meanwhile SIGTERM may come
                        importlib.import_module(name)
                    pid = _REFUSED if stopping else _fork(caller, run, heard)
                    _send(caller, pid)
                    if pid != _REFUSED:
                        children[caller.fileno()] = pid, caller
                        epoll.register(caller, select.EPOLLONESHOT)  # tells its end, once
                elif source in children:  # its caller is gone: the child goes as it would have gone
                    os.kill(children[source][0], signal.SIGKILL)
                elif signal.SIGTERM in os.read(signals, 4096):
                    for pid, _ in children.values():
                        os.kill(pid, signal.SIGTERM)
            for source, (pid, caller) in list(children.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    _send(caller, code if code >= 0 else 128 - code)
                    epoll.unregister(caller)
                    caller.close()
                    del children[source]
    finally:
        Path(address).unlink(missing_ok=True)
        if os.getppid() != owner:  # nobody else is left to remove the folder that was made for the socket
            with contextlib.suppress(OSError):
                Path(address).parent.rmdir()


def _fork(caller: socket.socket, run: Callable[..., int], heard: Iterable[signal.Signals]) -> int:
    """Fork a child that runs the job of a caller and hears some signals, and return its process id."""
    server = os.getpid()
    # The child starts with the server's handlers; a signal that it got then would be lost.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for signum in (*heard, signal.SIGTERM, signal.SIGCHLD):  # until the job runs, it simply ends
            signal.signal(signum, signal.SIG_DFL)
        end_with(server)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            _, streams, _, _ = socket.recv_fds(caller, 1, 3)
            with caller.makefile() as lines:
                request = json.loads(lines.readline())
        except (OSError, ValueError):  # the caller is gone
            os._exit(code)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        setproctitle(request["title"])  # what ps and top show; while the environment is still that of its start
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        if signal.SIGINT in heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(*request["job"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def end_with(parent: int) -> None:
    """Let this process get SIGTERM when its parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before
        signal.raise_signal(signal.SIGTERM)


def _send(caller: socket.socket, number: int) -> None:
    """Send a number to a caller, if it is still there."""
    with contextlib.suppress(OSError):
        caller.sendall(b"%d\n" % number)
