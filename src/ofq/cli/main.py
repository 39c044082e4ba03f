"""``python -m ofq COMMAND ...``: parse the command line once, and run the command here or in the warm process."""

import os
import sys
from typing import Any

from ofq.cli.command import PROGRAM
from ofq.cli.run import commands, fail, find, interrupted, reader_gone, run
from ofq.environment import OWN_PROCESS, WARM_SOCKET, check_checkout
from ofq.errors import UserError
from ofq.workflow import warm

_HELP = f"""\
usage: {PROGRAM} COMMAND [ARGUMENT ...]

The steps of the pipeline. Snakemake calls them; each can be called alone in the project's root.

A RUN is study/model/bits/variant/seedN, such as digits/vit_micro/w2a2/statsq/seed0; full-precision teachers stand under
bits 'fp', variant 'teacher'. {PROGRAM} COMMAND --help says what a command reads and writes, with an example. To make
whatever is missing before a step, ask snakemake for its file. OFQ_LOG_LEVEL=WARNING leaves out the lines of progress.

commands:
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 a user's mistake, 128 + n stopped by signal n.

    Args:
        argv: the command and its arguments; None: those of this process.
    """
    started, argv = argv is None, sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        summaries = [f"  {name:<16}{command.summary}" for name, command in commands().items()]
        try:
            print(_HELP + "\n".join(summaries), flush=True)
        except BrokenPipeError:
            return reader_gone()
        return 0
    try:
        if started:
            check_checkout()
        if not argv:
            raise UserError(f"which command? see: {PROGRAM} --help")
        command = find(argv[0])
        arguments = command.parse(argv[1:])
    except UserError as error:
        return fail(str(error))
    if command.warm and not _alone(arguments) and (address := os.environ.get(WARM_SOCKET)):
        try:
            code = warm.delegate(address, [command.name, arguments])
        except KeyboardInterrupt:  # before it was forked
            return interrupted()
        if code is not None:
            return code
    return run(command.name, arguments)


def _alone(arguments: dict[str, Any]) -> bool:
    """Whether a job's study has hardware for which a job starts in a process of its own."""
    return str(arguments["run"]).partition("/")[0] in os.environ.get(OWN_PROCESS, "").split()
