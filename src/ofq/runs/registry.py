"""The names of ``params.yaml`` that stand for classes: found in syntax trees, without running what they stand for.

A quantizer, a model family, a remedy and a reader of a data set are each one class in one file. In the package it is
registered under a name (:func:`register`); elsewhere it stands in a file beside ``params.yaml`` and is named
``module:Class``. Nothing else has to be told: planning finds the file here, and takes it into the digest of the code of
those runs that name it, and of no other.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ofq.errors import UserError, unknown
from ofq.runs.code_digest import PACKAGE, module_file, syntax_tree

Kind = Literal["quantizer", "family", "remedy", "reader"]
Made = TypeVar("Made", bound=type)

FOLDERS: dict[Kind, str] = {
    "quantizer": "quant.quantizers",
    "family": "quant.families",
    "remedy": "remedies",
    "reader": "data.readers",
}
"""The folder of the package whose files hold the registered classes of a kind."""
_PEOPLE: dict[Kind, str] = {"quantizer": "weight quantizer", "reader": "data set"}  # what errors call a kind
# What classes of a kind derive from: a method with another signature would fail in the middle of a training, and one
# with a mistyped name would never be called.
_BASES: dict[Kind, tuple[str, str]] = {
    "quantizer": ("ofq.quant.quantizers.base", "Quantizer"),
    "remedy": ("ofq.quant.hook", "Hook"),
    "reader": ("ofq.data.reader", "Reader"),
}


def register(name: str, **presets: Any) -> Callable[[Made], Made]:
    """Mark a class of the package as what a name in ``params.yaml`` stands for; the class itself stays as it is.

    The mark is read from the syntax tree, so name and presets are literals. A class may have several.

    Args:
        name: in ``params.yaml``.
        presets: keyword arguments with which the class is made under this name; of a family ``models``, and the
            ``switches`` of fidelity that no other family has.
    """
    del name, presets
    return lambda made: made


@dataclass(frozen=True)
class Entry:
    """A class that a name stands for.

    Attributes:
        kind: what it is.
        name: in ``params.yaml``.
        module: that defines the class.
        attribute: name of the class in its module.
        presets: of its registration.
        arguments: names of the arguments that its constructor takes.
    """

    kind: Kind
    name: str
    module: str
    attribute: str
    presets: dict[str, Any]
    arguments: tuple[str, ...]

    def load(self, base: type = object, public: str = "object") -> Any:
        """Import the class.

        Args:
            base: the class that it must derive from.
            public: the name under which people import that.

        Raises:
            UserError: its module cannot be imported, another module has its name, or it does not derive from the base.
        """
        source = module_file(self.module)
        place = f"{_PEOPLE.get(self.kind, self.kind)} {self.name}"
        if source is None:
            raise UserError(f"{place}: no module '{self.module}' beside params.yaml")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            found = importlib.import_module(self.module)
        except Exception as error:  # whatever a user's file does when it is imported
            what = f"{type(error).__name__}: {str(error)[:200]}"
            raise UserError(f"{place}: {source} cannot be imported ({what}); mend it") from None
        if Path(found.__file__ or "").resolve() != source.resolve():
            raise UserError(f"{place}: '{self.module}' is the name of another module; rename {source}")
        made = getattr(found, self.attribute, None)
        if not (isinstance(made, type) and issubclass(made, base)):
            raise UserError(f"{place}: the class should derive from {public}")
        return made

    def make(self, *arguments: Any, **options: Any) -> Any:
        """Import the class and make an object of it, with the presets of its name where no option says otherwise."""
        return self.load()(*arguments, **{**self.presets, **options})


@cache
def registered(kind: Kind) -> dict[str, Entry]:
    """Return the package's classes of a kind by name, in the order of their files and of their marks."""
    package = f"{PACKAGE}.{FOLDERS[kind]}"
    folder = Path(__file__).parents[1].joinpath(*FOLDERS[kind].split("."))
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.py")):
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        for node in _classes(module).values():
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == register.__name__:
                    name = ast.literal_eval(mark.args[0])
                    presets = {each.arg: ast.literal_eval(each.value) for each in mark.keywords if each.arg}
                    found[name] = Entry(kind, name, module, node.name, presets, _arguments(module, node.name))
    return found


def find(kind: Kind, name: str) -> Entry:
    """Return the class of a kind that a name stands for: a registered one, or ``module:Class`` beside ``params.yaml``.

    Whether a file beside ``params.yaml`` holds the class is told by :func:`problem`.

    Raises:
        ValueError: the name is no registered one, or not of the form ``module:Class``.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in registered(kind):
            told = unknown(_PEOPLE.get(kind, kind), name, registered(kind))
            raise ValueError(f"{told}; a class of your own should be named module:Class")
        return registered(kind)[name]
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise ValueError(f"'{name}' should be module:Class, such as calm:Calm for the class Calm of calm.py")
    return Entry(kind, name, module, attribute, {}, _arguments(module, attribute))


def family_of(timm_name: str) -> Entry:
    """Return the family of a timm model: the one whose ``models``, patterns of names, fit it most closely."""
    fits = [
        (len(pattern), entry)
        for entry in registered("family").values()
        for pattern in entry.presets.get("models", [])
        if fnmatchcase(timm_name, pattern)
    ]
    return max(fits, key=lambda fit: fit[0])[1]


def problem(entry: Entry) -> str | None:
    """Return what is wrong with the file of a class beside ``params.yaml``, in words for its user, else None."""
    path = module_file(entry.module)
    if path is None:
        place = f"{entry.module.replace('.', '/')}.py"
        return f"no module '{entry.module}' here; it should be the file {place} beside params.yaml"
    try:
        classes = _classes(entry.module)
    except UserError as error:
        return str(error)
    if entry.attribute not in classes:
        return f"{path} defines no class '{entry.attribute}'; it has {', '.join(classes) or 'none'}"
    base, name = _BASES.get(entry.kind, ("", ""))
    known = {method.name: _names(method) for method in _methods(_classes(base)[name])} if base else {}
    for method in _methods(classes[entry.attribute]):
        names, wanted = _names(method), known.get(method.name, [])
        if method.name.startswith("_") or method.args.vararg:
            continue
        optional = len(method.args.defaults) + len([each for each in method.args.kw_defaults if each])
        if wanted and not len(names) - optional <= len(wanted) <= len(names):
            call = f"{method.name}({', '.join(wanted)})"
            return f"{path}: {method.name}({', '.join(names)}) of {entry.attribute} should be {call}"
        if not wanted and (near := get_close_matches(method.name, known, n=1, cutoff=0.9)):
            return f"{path}: {entry.attribute} has a method {method.name}, which nothing calls; did you mean {near[0]}?"
    return None


def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in syntax_tree(module).body if isinstance(node, ast.ClassDef)}


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef)]


def _names(method: ast.FunctionDef) -> list[str]:
    return [each.arg for each in [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]]


def _arguments(module: str, attribute: str) -> tuple[str, ...]:
    """Return the names of the arguments of a class's own constructor; none where there is none to be read."""
    try:
        methods = _methods(_classes(module)[attribute]) if module_file(module) else []
    except (UserError, KeyError):
        return ()
    return next((tuple(_names(method)[1:]) for method in methods if method.name == "__init__"), ())
