"""Compare the finished files of two copies of a study, to the last bit."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofq.paths import RESULTS, Run

# Times, versions, and identifiers of the store: not deterministic, and not compared.
_APART = {"run.json", "prepared.json", "mlflow.json"}


@dataclass
class Comparison:
    """Deterministic files by what they belong to (a run, the data, the report), and those that are not equal."""

    compared: Counter[str] = field(default_factory=Counter)
    different: dict[str, list[str]] = field(default_factory=dict)
    by_content: int = 0  # files of trainer state whose bytes differ and whose values do not

    @property
    def equal(self) -> bool:
        """Whether there was something to compare and all of it is equal."""
        return bool(self.compared) and not self.different

    @property
    def runs(self) -> int:
        """How many runs were compared."""
        return sum(1 for owner in self.compared if Run.parse(owner))


def compare(undisturbed: Path, disturbed: Path) -> Comparison:
    """Compare every deterministic file below ``results/`` of two projects, a missing one being different.

    Trainer state is compared by value where its bytes differ: the type, shape and bits of every tensor, and every
    other value with its type.
    """
    comparison = Comparison()
    for name in sorted(_files(undisturbed) | _files(disturbed)):
        owner = _owner(name)
        comparison.compared[owner] += 1
        pair = (undisturbed / RESULTS / name, disturbed / RESULTS / name)
        if not all(path.is_file() for path in pair):
            verdict = f"{name.removeprefix(owner + '/')} (only in one)"
        elif pair[0].read_bytes() == pair[1].read_bytes():
            continue
        elif name.endswith(".pt") and _same_state(*pair):
            comparison.by_content += 1
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


def _same_state(left: Path, right: Path) -> bool:
    from ofq.training import checkpoint  # imports torch

    return _same(checkpoint.load(left), checkpoint.load(right))


def _same(left: Any, right: Any) -> bool:
    import torch

    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and _bits(left) == _bits(right)
    if isinstance(left, float):
        return left.hex() == right.hex()
    return bool(left == right)


def _bits(tensor: Any) -> bytes:
    """The bytes of a tensor: equal for equal bits only, which ``==`` is not for NaN and the two zeros."""
    import torch

    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
