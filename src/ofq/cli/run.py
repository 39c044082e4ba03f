"""Find a command and run it in this process, and end with the right exit code.

A module of commands is imported only when those before it do not have the command: a job that is handed to the warm
process (:mod:`ofq.workflow.warm`) must start in an instant.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from ofq.cli.command import PROGRAM, Command
from ofq.environment import check_variables, configure_logging
from ofq.errors import Missing, Stopped, UserError, refused, unknown
from ofq.workflow.warm import SIGNALS

INTERRUPTED = 128  # plus the signal's number, as shells count
# How torch says it; what Python and numpy raise is a MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
_MODULES = ("ofq.cli.training", "ofq.cli.project", "ofq.cli.reporting")


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
    except Missing as error:
        return fail(_made_by(error))
    except UserError as error:
        return fail(str(error))
    except Stopped as error:
        print(f"ofq: {error}", file=sys.stderr)
        return INTERRUPTED + error.signum
    except BrokenPipeError:
        return reader_gone()
    except OSError as error:
        if problem := refused(error):
            return fail(str(problem))
        raise
    except KeyboardInterrupt as error:
        return interrupted(*error.args)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        return fail("out of memory; run fewer jobs at once (snakemake --cores 1), or lower batch_size in params.yaml")
    return 0


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
    print(f"ofq: stopped by {name}; what is finished or saved is kept, the same command does the rest", file=sys.stderr)
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
    print(f"ofq: error: {message}", file=sys.stderr)
    return 2
