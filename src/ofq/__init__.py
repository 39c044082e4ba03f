"""Oscillation-free quantization for low-bit vision transformers (OFQ, ICML 2023), reproduced."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING


def lazy_names(package: str) -> tuple[Callable[[str], object], list[str]]:
    """Return a package's ``__getattr__``, which imports a public name from its module on first use, and ``__all__``.

    Public names are those that the package's file imports for type checkers, from the modules that define them.

    Args:
        package: path of the package's file.

    Raises:
        AttributeError: raised by the returned function for any other name.
    """
    nodes = [node for node in ast.walk(ast.parse(Path(package).read_text())) if isinstance(node, ast.ImportFrom)]
    modules = {alias.asname: str(node.module) for node in nodes for alias in node.names if alias.asname}

    def __getattr__(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"no public name '{name}'; there are {', '.join(modules)}")
        return getattr(import_module(modules[name]), name)

    return __getattr__, sorted(modules)


if TYPE_CHECKING:
    from ofq.export.load import load as load

__getattr__, __all__ = lazy_names(__file__)
