"""The house: rooms and the arrows between them, and what each room must not know."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ofq.workflow.targets import RULES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/ofq"
# A room imports from rooms above it only.
ROOMS = [
    "errors",
    "environment",
    "runs",
    "config",
    "data",
    "models",
    "quant",
    "oscillation",
    "remedies",
    "training",
    "measure",
    "export",
    "tracking",
    "report",
    "workflow",
    "cli",
]
FILES = {
    ".".join(("ofq", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOM_FILES = {name: path for name, path in FILES.items() if name not in ("ofq", "ofq.__main__")}
MOST_FILES = 16
MOST_LINES = 350


def room_of(module: str) -> str:
    return module.split(".")[1]


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node
            yield from executed(node)


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in executed(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in FILES} or {node.module or ""}
    return found


def test_every_room_has_its_place() -> None:
    assert {room_of(name) for name in ROOM_FILES} == set(ROOMS)


@pytest.mark.parametrize("module", ROOM_FILES)
def test_a_room_imports_only_rooms_above_it(module: str) -> None:
    place = ROOMS.index(room_of(module))
    rooms = {room_of(name) for name in imports_of(ROOM_FILES[module]) if name.startswith("ofq.")}
    assert {room for room in rooms if ROOMS.index(room) > place} == set()


def test_files_form_no_circle() -> None:
    graph = {name: {other for other in imports_of(path) if other in FILES} for name, path in FILES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_order_inside_quant_is_kept() -> None:
    order = ["hook", "quantizers", "kernels", "modules", "families", "convert", "calibration", "weights"]
    for name, path in FILES.items():
        parts = name.split(".")
        if parts[1:2] == ["quant"] and len(parts) > 2 and parts[2] in order:
            others = {other.split(".")[2] for other in imports_of(path) if other.startswith("ofq.quant.")}
            assert all(order.index(other) <= order.index(parts[2]) for other in others & set(order)), name


def needed(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others: from a room to those that it imports from."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*(reached(other) for other in graph[name]))

    return {(a, b) for a, others in graph.items() for b in others if not any(b in reached(c) for c in others - {b})}


def arrows(place: int) -> dict[str, set[str]]:
    """Imports between the rooms (place 1 in a module's name), or between the parts of quant (place 2)."""
    graph: dict[str, set[str]] = {}
    for name, path in ROOM_FILES.items():
        parts = name.split(".")
        if len(parts) > place and (place == 1 or parts[1] == "quant"):
            inside = [other.split(".") for other in imports_of(path) if other.startswith("ofq.")]
            others = {other[place] for other in inside if len(other) > place and (place == 1 or other[1] == "quant")}
            graph.setdefault(parts[place], set()).update(others - {parts[place]})
    return graph


@pytest.mark.parametrize("place", [1, 2], ids=["rooms", "quant"])
def test_the_drawing_of_the_house_is_the_house(place: int) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawing = re.findall(r"^```mermaid\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[place - 1]
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", drawing, re.MULTILINE))
    graph = arrows(place)
    assert drawn == needed(graph)
    assert set(re.findall(r"\w+", drawing)) >= set(graph)


def test_the_table_of_rules_has_every_rule() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("| rule | makes |")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == RULES - {"all"}


def test_the_package_names_the_modules_that_it_imports_from() -> None:
    """A name from a room's ``__init__`` would hide from the digest of the code which file it comes from."""
    packages = {name for name, path in FILES.items() if path.name == "__init__.py"} - {"ofq"}
    for name, path in FILES.items():
        assert not imports_of(path) & packages, name


def test_rooms_are_small() -> None:
    for folder in {path.parent for path in FILES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    top = {path.name for path in PACKAGE.glob("*.py")}
    assert top <= {"__init__.py", "__main__.py", "errors.py", "environment.py"}
    assert [name for name, path in FILES.items() if len(path.read_text().splitlines()) > MOST_LINES] == []


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        *(
            (room, {"mlflow", "dvc", "snakemake"})
            for room in ("quant", "oscillation", "remedies", "training", "measure", "export")
        ),
        ("report", {"torch", "timm", "mlflow", "dvc", "snakemake"}),
        ("config", {"torch", "timm", "mlflow", "dvc", "snakemake"}),
    ],
)
def test_what_a_room_must_not_know(room: str, forbidden: set[str]) -> None:
    for name, path in ROOM_FILES.items():
        if room_of(name) == room:
            assert not {other.split(".")[0] for other in imports_of(path)} & forbidden, name


def test_planning_report_and_command_line_import_no_torch() -> None:
    with_torch = {"ofq.runs.checkpoint"}
    rooms = ("errors", "environment", "runs", "config", "tracking", "report", "workflow", "cli")
    modules = [name for name in FILES if name == "ofq" or room_of(name) in rooms] + ["ofq.quant", "ofq.remedies"]
    script = (
        "import importlib, sys\n"
        f"for name in {[name for name in modules if name not in with_torch]!r}:\n"
        "    importlib.import_module(name)\n"
        "    found = {'torch', 'timm', 'mlflow'} & set(sys.modules)\n"
        "    assert not found, f'{name} imports {found}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
