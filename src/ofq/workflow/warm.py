"""Start training jobs from a warm process.

Importing torch and timm and building the first optimizer costs some nine CPU seconds, about as much as
training one run of the digits study, and Snakemake starts one process for each of its 57 runs. So the
Snakefile starts one server beside local jobs: it imports the libraries (none of this package's modules)
at the first request and forks a child for each job. The child gets the caller's arguments, directory,
environment, standard streams and signals, and its exit code; killing the caller kills the child.
Without a server, or where it does not answer, a job runs in its own process, with the same numbers.
"""

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ofq.environment import WARM_SOCKET

LIBRARIES = ("pydantic", "yaml", "pandas", "pyarrow.parquet", "safetensors.torch", "timm", "torch._dynamo")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What tells a job to stop: passed on by its caller to the child."""

_POLL_SECONDS = 1.0
_REFUSED = 0  # in place of a child's number: the server is ending, or its Snakemake is gone
_NUMBER = struct.Struct("<i")
_PR_SET_PDEATHSIG = 1


def delegate(address: str, job: Sequence[Any]) -> int | None:
    """Run a job in a child of the warm process: its exit code, or None where no server answers.

    Args:
        address: of the server.
        job: what JSON can hold; the server's ``run`` gets it as its arguments.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        try:
            connection.connect(address)
            request = json.dumps({"job": job, "cwd": str(Path.cwd()), "env": dict(os.environ)}).encode()
            socket.send_fds(connection, [_NUMBER.pack(len(request))], [0, 1, 2])
            connection.sendall(request)
            child = _read_number(connection)
        except OSError:
            return None
        if child is None:
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
        code = _read_number(connection)
        if code is None:
            print("ofq: error: the warm process ended; run snakemake again", file=sys.stderr)
            return 1
        return code


class WarmProcess:
    """The server beside a Snakemake process: started for its local jobs, stopped with it."""

    def __init__(self) -> None:
        self.started: float | None = None  # seconds since the epoch
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def start(self) -> None:
        """Start the server and lead the jobs of this process to it; elsewhere than on Linux do nothing."""
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
    """Answer requests until SIGTERM comes or the process that started this one is gone; the children then save and end.

    Snakemake deletes what the children of a killed Snakemake would still write, so going on would be in vain.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)  # first of all: it may fail
    listener.listen(64)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a fork must find no running threads
    owner = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the children; they save and end
    stopping: list[int] = []
    children: dict[int, socket.socket] = {}

    def ending() -> bool:
        return bool(stopping) or os.getppid() != owner

    def stop(signum: int, frame: object) -> None:
        stopping.append(signum)
        for pid in list(children):  # they save and end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    wakeup, wake = socket.socketpair()
    wakeup.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(wakeup, selectors.EVENT_READ)
    try:
        while children or not stopping:
            if os.getppid() != owner and not stopping:
                stop(signal.SIGTERM, None)
            for key, _ in selector.select(_POLL_SECONDS):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                    try:
                        if (pid := _start(connection, run, ending, mask)) is not None:
                            children[pid] = connection
                            selector.register(connection, selectors.EVENT_READ, pid)
                    finally:
                        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                elif key.fileobj is wakeup:
                    with contextlib.suppress(BlockingIOError):
                        wakeup.recv(4096)
                else:  # the caller is gone: the child goes as it would have gone
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)
            _report_ended(children, selector)
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:  # who still waits would otherwise run in a process of its own
                _refuse(listener.accept()[0])
    finally:
        Path(address).unlink(missing_ok=True)
        if os.getppid() != owner:  # nobody else is left to remove the folder that was made for the socket
            with contextlib.suppress(OSError):
                Path(address).parent.rmdir()


def _start(
    connection: socket.socket,
    run: Callable[..., int],
    ending: Callable[[], bool],
    mask: set[int | signal.Signals],
) -> int | None:
    """Read one request and fork a child for it, unless the server is ending; its process id.

    Args:
        connection: of the caller.
        run: runs a job and returns its exit code.
        ending: whether the server is told to stop or its owner is gone; importing the libraries takes seconds.
        mask: signals that are blocked in the child. In this process more are blocked until the caller restores it.
    """
    try:
        request, streams = _receive(connection)
    except (OSError, ValueError, struct.error):
        connection.close()
        return None
    for name in LIBRARIES:
        importlib.import_module(name)
    # A signal that came between the fork and the note of the child would reach neither of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if ending():
        _send_refusal(connection, streams)
        return None
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, 256)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.environ.clear()
            os.environ.update(request["env"])
            os.chdir(request["cwd"])
            code = run(*request["job"])
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):
        connection.sendall(_NUMBER.pack(pid))
    return pid


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A caller's request and its standard streams."""
    connection.setblocking(True)
    head, streams, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    return json.loads(_read(connection, _NUMBER.unpack(head)[0])), list(streams)


def _refuse(connection: socket.socket) -> None:
    """Tell a caller that nothing is started any more; read first what it sends, or it would take us for gone."""
    with contextlib.suppress(OSError, ValueError, struct.error):
        _send_refusal(connection, _receive(connection)[1])
    connection.close()


def _send_refusal(connection: socket.socket, streams: list[int]) -> None:
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):
        connection.sendall(_NUMBER.pack(_REFUSED))
    connection.close()


def _report_ended(children: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Send the exit codes of ended children to their callers."""
    for pid, connection in list(children.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                connection.sendall(_NUMBER.pack(code if code >= 0 else 128 - code))
            with contextlib.suppress(KeyError):
                selector.unregister(connection)
            connection.close()
            del children[pid]


def _read(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count and (part := connection.recv(count - len(content))):
        content += part
    return content


def _read_number(connection: socket.socket) -> int | None:
    content = _read(connection, _NUMBER.size)
    return int(_NUMBER.unpack(content)[0]) if len(content) == _NUMBER.size else None
