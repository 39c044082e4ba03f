"""What a number came from: digests of the code that ran, versions of the libraries, the device."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "ofq"
# A run's share of these is its resolved settings, which Snakemake compares beside the code; the names of its files,
# which are the rules' outputs; or the words of an error.
_APART = {"ofq.params", "ofq.settings", "ofq.yaml_model", "ofq.paths", "ofq.errors"}
_ROOT = Path(__file__).parent


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


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str | None:
    """The commit that is checked out in the project's root, or None outside a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    names = ["torch", "timm", "numpy", "scikit-learn", "snakemake", PACKAGE]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def machine() -> dict[str, Any]:
    """The processor that ran and how many of its cores this process may use."""
    return {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0)), "platform": platform.platform()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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

    Of the package's modules only those of the package, so that no file in the working directory changes its digests.
    """
    found = {module}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _base(module, node)):
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    parents = {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 1)}
    followed = (found | parents) - {module}
    if _first(module) == PACKAGE:
        followed = {name for name in followed if _first(name) == PACKAGE}
    return tuple(sorted(name for name in followed if module_file(name)))


def _first(module: str) -> str:
    return module.split(".")[0]


def _base(module: str, node: ast.ImportFrom) -> str:
    """What a ``from`` statement imports from, relative ones resolved."""
    if node.level == 0:
        return node.module or ""
    path = module_file(module)
    package = module.split(".") if path and path.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
