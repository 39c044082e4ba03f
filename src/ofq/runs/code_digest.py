"""The digest of the code that a step executes, which tells whether other code made a finished run."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from ofq.errors import UserError

PACKAGE = "ofq"
APART = {
    **dict.fromkeys(
        (
            f"ofq.config.{name}"
            for name in (
                "section",
                "settings",
                "recipes",
                "studies",
                "params",
                "grid",
                "resolve",
                "yaml_model",
                "timm_models",
            )
        ),
        "a run takes only its resolved settings from it, which Snakemake compares separately",
    ),
    "ofq.runs.paths": "names of files, which are the outputs of the rules",
    "ofq.runs.files": "writes files whole or not at all, whatever they hold",
    "ofq.runs.locks": "says who holds a run",
    "ofq.runs.states": "says which saved state belongs to a run",
    "ofq.runs.progress": "says how far a run is, in its log and a file beside its states",
    "ofq.runs.standing": "says how far a run is and why it failed, in files that go when it ends well",
    "ofq.runs.published": "says whether a file is still what its run published",
    "ofq.runs.provenance": "says what a number came from, in files that nobody compares",
    "ofq.runs.code_digest": "is this digest",
    "ofq.runs.registry": "says which file holds a class that a run names, and that file counts",
    "ofq.training.resume": "chooses the saved state to go on from, which holds all that a run needs",
    "ofq.training.signals": "says when a run is told to stop",
    "ofq.errors": "words of errors",
    "ofq.environment": "names of environment variables, and how much is told",
}
"""Modules of the package that no digest counts, with the reason: they change no number."""
_ROOT = Path(__file__).parents[1]


def code_digest(*modules: str) -> str:
    """Return the digest of the package's code that the named modules run, including what they import.

    It is taken from the syntax tree without words: a comment, a docstring, formatting, the arguments of errors,
    ``warnings.warn`` and logging calls, and the descriptions of settings do not change it; any other edit to one of the
    modules or to what they import does. Left out are the modules of :data:`APART`, and what a package's ``__init__``
    only passes on.

    Args:
        modules: entry modules, such as ``"ofq.training.qat"``, or the user's modules in the working directory, whose
            imports are followed in the working directory too.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(modules)):
        digest.update(f"{name}\0{_fingerprint(name)}\0".encode())
    return digest.hexdigest()[:16]


def module_file(module: str) -> Path | None:
    """Return the file of a module of the package or the working directory, or None if there is none."""
    parts = module.split(".")
    base = _ROOT.joinpath(*parts[1:]) if parts[0] == PACKAGE else Path(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def module_files(module: str) -> list[Path]:
    """Return the files of a module and of what it imports, of the package or the working directory."""
    return [path for name in sorted(_closure([module])) if (path := module_file(name))]


def _closure(modules: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in APART:
            seen.add(name)
            waiting += _imports(name)
    return {name for name in seen if _first(name) != PACKAGE or not _is_package(name)}


@cache
def syntax_tree(module: str) -> ast.Module:
    """Return what a module does, without its words: docstrings, arguments of errors, warnings and logs.

    Raises:
        UserError: its file cannot be read or parsed.
    """
    path = module_file(module)
    if path is None:
        raise ValueError(f"no module {module}")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); mend it") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Docstrings of modules, classes and functions, and those below constants.
            node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _tells(node.value.func):
            node.value.args, node.value.keywords = [], []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id.endswith("Error"):  # made here, raised elsewhere
                node.args, node.keywords = [], []
            elif node.func.id in ("Field", "later"):  # of a setting
                node.keywords = [each for each in node.keywords if each.arg != "description"]
    return tree


def _tells(function: ast.expr) -> bool:
    """Whether a call of the function tells people something: ``_log.info``, ``logging.warning``, ``warnings.warn``."""
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in ("_log", "logging", "warnings")
    )


@cache
def _fingerprint(module: str) -> str:
    return hashlib.sha256(ast.dump(syntax_tree(module)).encode()).hexdigest()


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Return the modules that a module imports, anywhere in it, and the packages that contain them.

    A public name of a package is followed to the module that defines it; who imports a whole package, or ``*`` from
    it, may use all its names. From a module of this package only modules of
    this package are followed, so that no file in the working directory changes their digests.
    """
    imported = {module}
    for node in _executed(syntax_tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.update((alias.name, *_defined_in(alias.name, "*")))
        elif isinstance(node, ast.ImportFrom) and (base := _base(module, node)):
            imported.add(base)
            for alias in node.names:
                named = f"{base}.{alias.name}"
                imported.update((named, *_defined_in(base, alias.name), *_defined_in(named, "*")))
    parents = {".".join(name.split(".")[:n]) for name in imported for n in range(1, name.count(".") + 1)}
    followed = (imported | parents) - {module}
    if _first(module) == PACKAGE:
        followed = {name for name in followed if _first(name) == PACKAGE}
    return tuple(sorted(name for name in followed if module_file(name)))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node except those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _executed(node)


def _defined_in(package: str, name: str) -> list[str]:
    """Return the modules from which a package imports a public name, or all its names, at once or on first use."""
    if not _is_package(package):
        return []
    nodes = [node for node in ast.walk(syntax_tree(package)) if isinstance(node, ast.ImportFrom)]
    return [_base(package, node) for node in nodes if name in {"*", *(a.asname or a.name for a in node.names)}]


def _is_package(module: str) -> bool:
    path = module_file(module)
    return path is not None and path.name == "__init__.py"


def _first(module: str) -> str:
    return module.split(".")[0]


def _base(module: str, node: ast.ImportFrom) -> str:
    """Return the module that a ``from`` statement imports from, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    package = module.split(".") if _is_package(module) else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
