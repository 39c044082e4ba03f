"""The digest of the code that a step executes: what makes a finished run one of other code."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "ofq"
# A run's share of these is its resolved settings, which Snakemake compares beside the code; the names of its files,
# which are the rules' outputs; or the words of an error.
_APART = {f"ofq.config.{name}" for name in ("settings", "studies", "params", "checks", "grid", "resolve", "yaml_model")}
_APART |= {"ofq.runs.paths", "ofq.errors"}
_ROOT = Path(__file__).parents[1]


def code_digest(*modules: str) -> str:
    """Digest of the package's code that the named modules run, their imports followed.

    It is taken from the syntax tree without docstrings, so that a comment, a docstring or formatting
    changes nothing, and any other edit to a module in the closure of imports does. The types of the
    parameters and the names of files are left out: what they come to for a run is compared by itself.

    Args:
        modules: entry modules, such as ``"ofq.training.qat"``, or modules of the user's in the working directory,
            whose imports are followed through the working directory too.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(modules)):
        digest.update(f"{name}\0{_fingerprint(name)}\0".encode())
    return digest.hexdigest()[:16]


def find_class(module: str, name: str) -> str | None:
    """What is wrong if a module, of the package or in the working directory, does not define a class; else None."""
    path = module_file(module)
    if path is None:
        return f"no module '{module}' here; it should be the file {module.replace('.', '/')}.py beside params.yaml"
    try:
        body = _tree(module).body
    except (SyntaxError, ValueError, OSError) as error:
        return f"{path} cannot be read ({error}); mend it"
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    return None if name in classes else f"{path} defines no class '{name}'; it has {', '.join(classes) or 'none'}"


def module_file(module: str) -> Path | None:
    """File of a module of the package or in the working directory, or None where there is none."""
    parts = module.split(".")
    base = _ROOT.joinpath(*parts[1:]) if parts[0] == PACKAGE else Path(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _closure(modules: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in _APART:
            seen.add(name)
            waiting += _imports(name)
    return seen


@cache
def _tree(module: str) -> ast.Module:
    path = module_file(module)
    if path is None:
        raise ValueError(f"no module {module}")
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_docstring = [isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in node.body[:1]]
            if is_docstring == [True]:
                node.body = node.body[1:]
    return tree


@cache
def _fingerprint(module: str) -> str:
    return hashlib.sha256(ast.dump(_tree(module)).encode()).hexdigest()


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules that a module imports, anywhere in it, with the packages that contain them.

    A public name of a package is followed to the module that defines it. Of the package's modules only those of the
    package are followed, so that no file in the working directory changes its digests.
    """
    found = {module}
    for node in _executed(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _base(module, node)):
            found.add(base)
            for alias in node.names:
                found.update((f"{base}.{alias.name}", *_defined_in(base, alias.name)))
    parents = {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 1)}
    followed = (found | parents) - {module}
    if _first(module) == PACKAGE:
        followed = {name for name in followed if _first(name) == PACKAGE}
    return tuple(sorted(name for name in followed if module_file(name)))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _executed(node)


def _defined_in(package: str, name: str) -> list[str]:
    """The module from which a package has a public name, which it may import only when it is asked for."""
    path = module_file(package)
    if path is None or path.name != "__init__.py":
        return []
    nodes = [node for node in ast.walk(_tree(package)) if isinstance(node, ast.ImportFrom)]
    return [_base(package, node) for node in nodes if name in {alias.asname or alias.name for alias in node.names}]


def _first(module: str) -> str:
    return module.split(".")[0]


def _base(module: str, node: ast.ImportFrom) -> str:
    """What a ``from`` statement imports from, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    path = module_file(module)
    package = module.split(".") if path and path.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
