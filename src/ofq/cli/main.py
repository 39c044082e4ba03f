"""``python -m ofq <step> ...``: one subcommand for each rule, and a few for people.

Nothing heavy is imported before a subcommand is known: a job that is handed to the warm process
(:mod:`ofq.workflow.warm`) must start in an instant.
"""

import argparse
import contextlib
import os
import re
import sys
from typing import NoReturn

from ofq.cli import steps
from ofq.cli.help import DETAILS
from ofq.environment import WARM_SOCKET
from ofq.errors import UserError, refused
from ofq.workflow import warm

INTERRUPTED = 128  # plus the signal's number, as shells count
# How torch says it; what Python and numpy raise is a MemoryError.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory", re.IGNORECASE)

# name: (function, its argument, help)
_COMMANDS: dict[str, tuple[steps.Step, str | None, str]] = {
    "data": (steps.data, None, "prepare a study's images, or verify what is prepared"),
    "teacher": (steps.training("teacher"), "run", "train a full-precision teacher"),
    "qat": (steps.training("qat"), "run", "train a quantized student with its teacher's guidance, and measure it"),
    "cga": (steps.training("cga"), "run", "anneal the finished run of a variant's parent, and measure it"),
    "tables": (steps.report("tables", "write_tables"), "study", "write a study's tables from the metrics of its runs"),
    "figures": (
        steps.report("figures", "write_figures"),
        "study",
        "draw a study's figures from the records of its runs",
    ),
    "comparison": (
        steps.report("comparison", "write_comparison"),
        "study",
        "write the differences between pairs of variants",
    ),
    "annealing": (
        steps.report("annealing", "write_annealing"),
        "study",
        "draw how many weights annealing leaves in the band",
    ),
    "boundary-range": (
        steps.report("boundary_range", "write_boundary_range"),
        "study",
        "write what the width of the annealing band changes, and draw where the steps go",
    ),
    "noise-table": (steps.report("noise", "write_noise"), "study", "write what noise in trained weights does"),
    "probes": (
        steps.report("probes", "write_probes"),
        "study",
        "write what the probes of trained runs saw near thresholds",
    ),
    "claims": (steps.claims, "study", "give each claim of the papers its verdict on a study"),
    "learning-rates": (
        steps.report("learning_rates", "write_learning_rates"),
        "study",
        "write table and figure of a study that compares learning rates",
    ),
    "probe": (steps.probe, "run", "measure a finished run's oscillation again, over further steps of a copy"),
    "noise": (
        steps.noise,
        "run",
        "evaluate a finished run with noise on its codes, near rounding thresholds and anywhere",
    ),
    "toy": (
        steps.toy,
        None,
        "simulate weights that are pulled towards targets through a quantizer, and write their way",
    ),
    "toy-figure": (steps.toy_figure, None, "draw how latent weight and step move in the toy"),
    "why": (steps.why, "file", "say which runs, settings and versions a cell of a table, or a figure, comes from"),
    "track": (steps.track, None, "mirror the event logs of one study, or of all, into the MLflow store"),
    "cost": (steps.cost, "study", "print what each step of a study cost"),
    "reference": (steps.reference, "study", "copy a study's report to results/reference, with versions and machine"),
    "schema": (steps.schema, None, "print the JSON schema of params.yaml, or the page that explains its keys"),
    "clean": (steps.clean, None, "remove results, logs and caches, after asking"),
    "stages": (steps.stages, None, "print dvc.yaml for the study that params.yaml names"),
    "drill": (steps.drill, None, "a tool of the project now: python -m tools.drill"),
    "warm": (steps.warm, "socket", "serve training jobs from one warm process (the Snakefile starts it)"),
}
_ARGUMENTS = {
    "study": "name under studies in params.yaml",
    "run": "study/model/bits/variant/seedN; a path below results/ will do",
    "file": "a CSV or figure of results/STUDY/report, or of results/reference",
    "socket": "address to listen on",
}
# Steps that take a group of the study too.
_GRIDS = ("tables", "figures", "comparison", "annealing", "boundary-range", "noise-table", "probes")
_TRAINING = {"teacher", "qat", "cga", "probe", "noise"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line in place of the usage."""
        self.exit(_fail(f"{message}; see: {self.prog} --help"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ofq",
        description="The steps of the pipeline. Snakemake calls them; each can be called alone in the project's root.",
        epilog="A RUN is study/model/bits/variant/seedN, such as digits/vit_micro/w2a2/statsq/seed0; "
        "full-precision teachers stand under bits 'fp', variant 'teacher'. python -m ofq STEP --help says what a step "
        "reads and writes, with an example. To make whatever is missing before a step, ask snakemake for its file.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="STEP")
    for name, (function, argument, text) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.\n\n{DETAILS[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if argument:
            command.add_argument(argument, metavar=argument.upper(), help=_ARGUMENTS[argument])
        command.set_defaults(function=function, execute=execute)
    for name in ("teacher", "qat", "cga"):
        commands.choices[name].add_argument(
            "--resume-across-code",
            action="store_true",
            help="go on from a state that other code saved; run.json will say so",
        )
    data = commands.choices["data"]
    data.add_argument("study", metavar="STUDY", nargs="?", help="with --verify left out: all studies that have data")
    data.add_argument(
        "--verify", action="store_true", help="read prepared files and their sources again, write nothing"
    )
    commands.choices["probe"].add_argument("--steps", type=int, help="length of the window (default: 300)")
    for name in _GRIDS:
        commands.choices[name].add_argument(
            "group", metavar="GROUP", nargs="?", help="of the study; left out: its main grid"
        )
    why = commands.choices["why"]
    why.add_argument("bits", metavar="BITS", nargs="?", help="such as w2a2; left out: every bit width")
    why.add_argument("variant", metavar="VARIANT", nargs="?", help="such as statsq; left out: every variant")
    track = commands.choices["track"]
    track.add_argument("study", metavar="STUDY", nargs="?", help="all studies that have runs where it is left out")
    track.add_argument("--follow", action="store_true", help="go on until interrupted, while runs are in training")
    track.add_argument(
        "--keep-going", action="store_true", help="end well where the store cannot be written, with a warning"
    )
    schema = commands.choices["schema"]
    schema.add_argument("--markdown", action="store_true", help="print docs/params.md instead")
    clean = commands.choices["clean"]
    clean.add_argument("--yes", action="store_true", help="do not ask, and remove runs/ too")
    drill = commands.choices["drill"]
    drill.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def main(argv: list[str]) -> int:
    """Run one subcommand and return the exit code: 0 done, 2 a user's mistake, 128 + n stopped by signal n."""
    arguments = _parser().parse_args(argv)
    if arguments.command in _TRAINING and (address := os.environ.get(WARM_SOCKET)):
        code = warm.delegate(address, argv)
        if code is not None:
            return code
    return execute(argv)


def execute(argv: list[str]) -> int:
    """Run one subcommand in this process."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output went away
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if problem := refused(error):
            return _fail(str(problem))
        raise
    except MemoryError:
        return _fail(_too_little_memory())
    except KeyboardInterrupt:
        return INTERRUPTED + 2
    except Exception as error:
        if type(error).__name__ == "Stopped":  # by name: importing the training loop to ask would cost seconds
            print(f"ofq: {error}", file=sys.stderr)
            return INTERRUPTED + error.signum  # type: ignore[attr-defined]
        if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
            return _fail(_too_little_memory())
        raise
    return 0


def _too_little_memory() -> str:
    return "out of memory; run fewer jobs at once (snakemake --cores 1), or lower batch_size in params.yaml"


def _fail(message: str) -> int:
    print(f"ofq: error: {message}", file=sys.stderr)
    return 2
