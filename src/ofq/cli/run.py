"""Find a command and run it in this process, and end with the right exit code.

A module of commands is imported only when those before it do not have the command: a job that is handed to the warm
process (:mod:`ofq.workflow.warm`) must start in an instant.
"""

import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ofq.cli.command import PROGRAM, Command
from ofq.environment import check_variables, configure_logging
from ofq.errors import Missing, Stopped, UserError, not_installed, refused, unknown
from ofq.workflow.warm import SIGNALS

_log = logging.getLogger(__name__)

INTERRUPTED = 128  # plus the signal's number, as shells count
# How torch says it; what Python and numpy raise is a MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
_NO_CARD_MEMORY = re.compile("CUDA (error: )?out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED", re.IGNORECASE)
_CARD = re.compile("(CUDA|cuDNN|cuBLAS|Triton) (error|driver)|CU(BLAS|DNN)_STATUS|NVIDIA driver", re.IGNORECASE)
_COMPILERS = ("torch._dynamo.exc", "torch._inductor.exc")
REPLY = "TORCHELASTIC_ERROR_FILE"
"""Variable with the file in which one of several processes of a run says why it ended."""
LOST = 75
"""Exit code of one whose connection to the others broke: one of these ended first."""
_LOST = re.compile("gloo|nccl|Connection (closed|reset)|Broken pipe|Timed out waiting", re.IGNORECASE)
KEPT = "what was saved is kept, and the same command goes on from it"
_NO_ORDER = "does not have a deterministic implementation"
_MODULES = ("ofq.cli.training", "ofq.cli.study", "ofq.cli.project", "ofq.cli.export", "ofq.cli.reporting")


def commands() -> dict[str, Command]:
    """Return every command by its name."""
    return {name: command for module in _MODULES for name, command in import_module(module).COMMANDS.items()}


def find(name: str) -> Command:
    """Return the command of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    for module in _MODULES:
        if name in (found := import_module(module).COMMANDS):
            command: Command = found[name]
            return command
    raise UserError(f"{unknown('command', name, commands())}; see: {PROGRAM} --help")


def run(name: str, arguments: dict[str, Any]) -> int:
    """Run a command with parsed arguments in this process, and return the exit code."""
    try:
        with _signals_end_in_order():
            check_variables()
            configure_logging()
            find(name).function(**arguments)
    except Stopped as error:
        _end_with(f"ofq: {error}")
        return INTERRUPTED + error.signum
    except BrokenPipeError:
        return reader_gone()
    except KeyboardInterrupt as error:
        return interrupted(*error.args)
    except Exception as error:
        if REPLY in os.environ and isinstance(error, RuntimeError) and _LOST.search(str(error)):
            fail(f"a process lost the others of its run ({str(error).splitlines()[0][:200]}); {KEPT}")
            return LOST
        if said := said_of(error):
            return fail(said)
        raise
    return 0


def said_of(error: BaseException) -> str | None:
    """Return what to say of an error in one line; None for a fault of this program."""
    if isinstance(error, UserError):
        return _made_by(error) if isinstance(error, Missing) else str(error)
    if isinstance(error, ImportError):
        return str(problem) if (problem := not_installed(error)) else None
    if isinstance(error, OSError):
        return str(problem) if (problem := refused(error)) else None
    if isinstance(error, MemoryError | RuntimeError) and (said := _of_hardware(error)):
        _log.debug("where it happened:", exc_info=True)
        return said
    return None


class Ended(SystemExit):
    """The processes of a run ended, with an exit code, and the first that failed had something to say."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(code)
        self.said = said


def _of_hardware(error: Exception) -> str | None:
    """Return what to say of an error of memory, of a card, or of what compiles for it; None for other faults."""
    text = str(error)
    first = " ".join((text.splitlines() or [""])[0].split())[:200]
    if _NO_CARD_MEMORY.search(text):
        return (
            "the card is out of memory; lower hardware.runs_per_gpu, or batch_size, in params.yaml; what was saved is "
            "kept, and with another runs_per_gpu or with fewer images_at_once the same command goes on from it"
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return "out of memory; run fewer jobs at once (snakemake --cores 1), or lower batch_size in params.yaml"
    if _CARD.search(text):
        return (
            f"the card failed ({first}); {KEPT}; nvidia-smi "
            "shows the card, OFQ_LOG_LEVEL=debug and CUDA_LAUNCH_BLOCKING=1 where it happened"
        )
    if type(error).__module__ in _COMPILERS:
        return (
            f"the model could not be compiled ({type(error).__name__}: {first}); torch.compile needs a C++ compiler, "
            "as g++ is; install one, or set hardware.compile: false in params.yaml"
        )
    if _NO_ORDER in text:
        return f"{first.partition(_NO_ORDER)[0]}{_NO_ORDER} on this device; use another operation in your own class"
    return None


def _made_by(error: Missing) -> str:
    """Return what to say about a missing file: how to make it, or that nothing makes it, and why."""
    from ofq.workflow.targets import check_target, load_project

    try:
        check_target(load_project(), str(error.path))
    except UserError as wrong:
        return f"{error.path} does not exist, and nothing makes it: {wrong}"
    return str(error)


def interrupted(signum: int = signal.SIGINT) -> int:
    """Say that a signal ended this process, and return the exit code."""
    name = signal.Signals(signum).name
    _end_with(f"ofq: stopped by {name}; what is finished or saved is kept, the same command does the rest")
    return INTERRUPTED + signum


@contextlib.contextmanager
def _signals_end_in_order() -> Iterator[None]:
    """Let the other signals that stop a process do what Ctrl-C does, where they would end it without a word."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt(signum)

    silent = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in silent:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in silent:
            signal.signal(number, signal.SIG_DFL)


def reader_gone() -> int:
    """Write nowhere from now on, since the reader of our output went away, and return the exit code."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def fail(message: str) -> int:
    """Print what is wrong in one line, and return the exit code of a user's mistake."""
    _end_with(f"ofq: error: {message}")
    return 2


def _end_with(line: str) -> None:
    """Print the last line of this process; one of several hands it to the process that started them."""
    if REPLY in os.environ:
        Path(os.environ[REPLY]).write_text(json.dumps({"message": line, "timestamp": int(time.time())}))
    else:
        print(line, file=sys.stderr)
