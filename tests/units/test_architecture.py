"""Imports go one way, and the parts that must stay light do."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "ofq"
# From left to right; a module may import from its own layer and from layers to its left.
LAYERS = [
    {"errors"},
    {"paths", "yaml_model", "files", "locks", "provenance", "settings", "studies", "params", "states"},
    {"data", "models", "quant"},
    {"remedies", "oscillation", "distill"},
    {"training", "toy"},
    {"tracking"},
    {"report"},
    {"warm", "clean", "help", "params_page", "dvc_file", "targets", "scratch", "drill", "steps", "cli", "__main__"},
]
PLACE = {name: place for place, layer in enumerate(LAYERS) for name in layer}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if part_of(path) != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_left_never_imports_right(path: Path) -> None:
    parts = {name.split(".")[1] for name in imports_of(path) if name.startswith("ofq.")}
    assert part_of(path) in PLACE, "a new part needs its place in LAYERS"
    assert {part for part in parts & set(PLACE) if PLACE[part] > PLACE[part_of(path)]} == set()


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("quant", {"mlflow", "dvc", "snakemake"}),
        ("training", {"mlflow", "dvc", "snakemake"}),
        ("report", {"torch", "timm", "mlflow", "dvc", "snakemake"}),
        ("params", {"torch", "timm"}),
    ],
)
def test_what_a_part_must_not_know(part: str, forbidden: set[str]) -> None:
    for path in MODULES:
        if part_of(path) == part:
            assert not {name.split(".")[0] for name in imports_of(path)} & forbidden, path
