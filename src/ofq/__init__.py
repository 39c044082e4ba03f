"""Oscillation-free quantization for low-bit vision transformers (OFQ, ICML 2023), reproduced."""

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(modules: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__`` that imports a public name from its module on first use.

    Args:
        modules: full name of the module that defines each public name.

    Raises:
        AttributeError: raised by the returned function for any other name.
    """

    def __getattr__(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"no public name '{name}'; there are {', '.join(modules)}")
        return getattr(import_module(modules[name]), name)

    return __getattr__
