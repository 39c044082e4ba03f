"""Compare the finished files of two copies of a study, to the last bit."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ofq.runs.paths import RESULTS, Run

# Times, versions, and identifiers of the store: not deterministic, and not compared.
_APART = {"run.json", "prepared.json", "mlflow.json"}


@dataclass
class Comparison:
    """Deterministic files by what they belong to (a run, the data, the report), and those that are not equal."""

    compared: Counter[str] = field(default_factory=Counter)
    different: dict[str, list[str]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether there was something to compare and all of it is equal."""
        return bool(self.compared) and not self.different

    @property
    def runs(self) -> int:
        """How many runs were compared."""
        return sum(1 for owner in self.compared if Run.parse(owner))


def compare(undisturbed: Path, disturbed: Path) -> Comparison:
    """Compare every deterministic file below ``results/`` of two projects, a missing one being different."""
    comparison = Comparison()
    for name in sorted(_files(undisturbed) | _files(disturbed)):
        owner = _owner(name)
        comparison.compared[owner] += 1
        pair = (undisturbed / RESULTS / name, disturbed / RESULTS / name)
        if not all(path.is_file() for path in pair):
            verdict = f"{name.removeprefix(owner + '/')} (only in one)"
        elif pair[0].read_bytes() == pair[1].read_bytes():
            continue
        else:
            verdict = name.removeprefix(owner + "/")
        comparison.different.setdefault(owner, []).append(verdict)
    return comparison


def _files(root: Path) -> set[str]:
    """Deterministic files, relative to ``results/``; hidden ones are temporary and looked for elsewhere."""
    paths = [path for path in (root / RESULTS).rglob("*") if path.is_file() and path.name not in _APART]
    return {str(path.relative_to(root / RESULTS)) for path in paths if not path.name.startswith(".")}


def _owner(name: str) -> str:
    """The run that a file belongs to, or ``study/data`` and ``study/report``."""
    run = Run.parse(name)
    return str(run) if run else "/".join(name.split("/")[:2])
