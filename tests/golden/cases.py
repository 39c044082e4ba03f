"""The fixtures cut into cases, such that it can be proved that every array is checked.

A case owns the arrays whose names start with its prefix and may share ``x``, ``g``, ``w`` of the prefixes above it. A
test of a case fails unless it has read all of them (see ``conftest.py``); ``test_golden_coverage.py`` adds up what all
cases own.
"""

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

DIRECTORY = Path(os.environ.get("OFQ_GOLDEN", Path(__file__).parent / "fixtures"))


@dataclass
class Case:
    """Some arrays of a fixture file; reading one notes that it was read."""

    file: str
    prefix: str
    owned: frozenset[str]
    extra: frozenset[str] = frozenset()  # read by other cases too
    read: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.file}:{self.prefix}" if self.prefix else self.file

    def name(self, leaf: str) -> str:
        """The array's full name: below the prefix, else below the nearest prefix above it."""
        parts = self.prefix.split("/") if self.prefix else []
        for depth in range(len(parts), -1, -1):
            name = "/".join(part for part in (*parts[:depth], leaf) if part)
            if name in arrays(self.file):
                return name
        raise KeyError(f"{self}: no array {leaf}")

    def __contains__(self, leaf: str) -> bool:
        return "/".join(filter(None, (self.prefix, leaf))) in arrays(self.file)

    def numpy(self, leaf: str) -> np.ndarray:
        name = self.name(leaf)
        assert name in self.owned | self.extra, f"{self} does not own {name}"
        self.read.add(name)
        return arrays(self.file)[name]

    def __getitem__(self, leaf: str) -> torch.Tensor:
        # The processor, but where the tests are those of a card (tests/gpu).
        return torch.from_numpy(np.array(self.numpy(leaf))).to(torch.get_default_device())

    def below(self, branch: str) -> list[str]:
        """Leaves below a branch of the case, such as the parameters' names below ``param``."""
        start = "".join(f"{part}/" for part in (self.prefix, branch) if part)
        return [name.removeprefix(start) for name in arrays(self.file) if name.startswith(start)]


@cache
def arrays(file: str) -> dict[str, np.ndarray]:
    """All arrays of a fixture file."""
    with np.load(DIRECTORY / f"{file}.npz", allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def files(pattern: str) -> list[str]:
    """Fixture files by a glob pattern, without suffix."""
    return sorted(path.stem for path in DIRECTORY.glob(f"{pattern}.npz"))


def cases(pattern: str, prefix: str, *, extra: str = "[xgw]") -> list[Case]:
    """The cases of some files: one for each match of the regular expression ``prefix`` at the start of a name.

    Args:
        pattern: of the files.
        prefix: regular expression of a case's prefix; ``""`` makes one case of a file.
        extra: regular expression of what a case shares with others, below one of the prefixes above its own.
    """
    found = []
    for file in files(pattern):
        matches = [
            match for name in arrays(file) if (match := re.match(f"({prefix})(?:/|$)" if prefix else "()", name))
        ]
        for start in dict.fromkeys(match[1] for match in matches):
            owned = frozenset(n for n in arrays(file) if n == start or n.startswith(start + "/" if start else ""))
            parts = start.split("/")
            above = ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts))]
            shared = frozenset(
                name
                for name in arrays(file)
                if any(name.startswith(top) and re.fullmatch(extra, name.removeprefix(top)) for top in above)
            )
            found.append(Case(file, start, owned - {"margin"}, shared))
    return found


def close(actual: torch.Tensor, expected: torch.Tensor, *, gradient: bool = False, what: str = "") -> None:
    """Within the tolerances of the fixtures: 1e-5 absolute; relative 1e-5 for outputs, 1e-4 for gradients."""
    torch.testing.assert_close(
        actual.detach().float(),
        expected.float(),
        atol=1e-5,
        rtol=1e-4 if gradient else 1e-5,
        msg=lambda message: f"{what}: {message}",
    )


def bits_of(text: str) -> int:
    """The bit width in a name such as ``3d/b4``."""
    match = re.search(r"(?:^|/)b(\d+)(?:/|$)", text)
    assert match, text
    return int(match[1])


def weight_and_input_bits(text: str) -> tuple[int, int]:
    """The bit widths in a name such as ``w2a2``."""
    match = re.search(r"w(\d+)a(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])
