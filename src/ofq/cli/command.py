"""A command of ``python -m ofq``: one function, whose docstring is its help."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, NoReturn

from ofq.errors import UserError

PROGRAM = "python -m ofq"

STUDY = ("study", {"metavar": "STUDY", "help": "name under studies in params.yaml"})
GROUP = ("group", {"metavar": "GROUP", "nargs": "?", "help": "of the study; left out: its main grid"})
RUN = ("run", {"metavar": "RUN", "help": "study/model/bits/variant/seedN; a path below results/ will do"})

Function = Callable[..., None]
Argument = tuple[str, dict[str, Any]]  # a name or flag, and what argparse's add_argument takes beside it


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: name on the command line.
        function: takes the arguments by their names.
        arguments: the arguments that it takes.
        help: what the list of commands shows; then, after a blank line, what is read and written, and an example.
        warm: whether it may run in a child of the warm process.
    """

    name: str
    function: Function
    arguments: tuple[Argument, ...]
    help: str
    warm: bool = False

    @property
    def summary(self) -> str:
        """The first sentence of its help."""
        return " ".join(self.help.partition("\n\n")[0].split())

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Parse the arguments and return them by name.

        Raises:
            UserError: an argument is wrong; names the first.
            SystemExit: help was asked for, and printed.
        """
        parser = _Parser(
            prog=f"{PROGRAM} {self.name}",
            description=self.help,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, options in self.arguments:
            parser.add_argument(name, **options)
        return vars(parser.parse_args(argv))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise an error of one line instead of printing the usage."""
        raise UserError(f"{message}; see: {self.prog} --help")


class Commands(dict[str, Command]):
    """Commands of one module by name; an instance is also the decorator that adds a command."""

    def __call__(self, *arguments: Argument, warm: bool = False) -> Callable[[Function], Function]:
        """Return a decorator that makes a function a command, named after the function.

        Args:
            arguments: the arguments that it takes.
            warm: whether it may run in a child of the warm process.
        """

        def add(function: Function) -> Function:
            name = function.__name__.replace("_", "-")
            self[name] = Command(name, function, arguments, cleandoc(function.__doc__ or ""), warm)
            return function

        return add
