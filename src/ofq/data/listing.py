"""Image files by name, size and sha256: a million of them in arrays, read once by several threads, and noted."""

import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofq.errors import UserError, first_of
from ofq.runs.files import write_bytes
from ofq.runs.paths import EXAMINED

_log = logging.getLogger(__name__)

_AT_ONCE = 1000  # files, after which it is noted what they are
_SILENCE = 60.0  # seconds after which it is told how far the reading is
_NAMED = 3  # of files that are no images, in a message

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Image files, one after the other.

    Attributes:
        names: below a root, all in one string of bytes: a million objects would take ten times as much.
        ends: of each name in that string (n,).
        sizes: in bytes (n,).
        sha256: of the contents (n, 32).
    """

    names: NDArray[np.uint8]
    ends: Indices
    sizes: Indices
    sha256: NDArray[np.uint8]

    @classmethod
    def of(cls, names: Sequence[bytes], sizes: Indices, sha256: NDArray[np.uint8]) -> "Listing":
        """Make the listing of files."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return cls(np.frombuffer(b"".join(names), np.uint8), ends, sizes, sha256)

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> bytes:
        """Return the name of a file, as the operating system has it."""
        start = self.ends[index - 1] if index else 0
        return self.names[start : self.ends[index]].tobytes()

    def taken(self, chosen: Indices) -> "Listing":
        """Return the listing of some of the files."""
        return self.of([self.name(index) for index in chosen], self.sizes[chosen], self.sha256[chosen])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names."""
        return dict(vars(self))


def examined(
    root: Path, names: Sequence[bytes], look: Callable[[int, bytes], Any], *, noted: bool
) -> tuple[Listing, dict[int, str]]:
    """Read every file once, by several threads.

    Args:
        root: folder that the names start from.
        names: of the files.
        look: called with the number of a file and its content; raises :class:`UserError` if something is wrong with it.
        noted: whether a thousand files are not read again if an earlier call found nothing wrong with them, and noted
            their digests under their names, sizes and times of change.

    Returns:
        The files, and of those with which something is wrong what it is, by number.
    """
    sizes, digests = np.zeros(len(names), np.int64), np.zeros((len(names), 32), np.uint8)
    wrong: dict[int, str] = {}

    def path(index: int) -> bytes:
        return os.path.join(os.fsencode(root), names[index])  # noqa: PTH118, bytes

    def size_and_time(index: int) -> tuple[int, int]:
        try:
            found = os.stat(path(index))  # noqa: PTH116
        except OSError as error:
            wrong[index] = f"cannot be read ({error.strerror})"
            return 0, 0
        if not stat.S_ISREG(found.st_mode):
            wrong[index] = "is no file"
        return found.st_size, found.st_mtime_ns

    def read(index: int) -> None:
        try:
            with open(path(index), "rb") as file:
                content = file.read()
            look(index, content)
        except UserError as error:
            wrong[index] = str(error)
        except OSError as error:
            wrong[index] = f"cannot be read ({error.strerror})"
        else:
            sizes[index] = len(content)
            digests[index] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)

    told = _Told(root, len(names))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for start in range(0, len(names), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(names)))
            found = list(threads.map(size_and_time, part))
            key = hashlib.sha256(repr((names[start : part.stop], found)).encode()).hexdigest()
            note = EXAMINED / f"files-{key[:32]}.sha256"
            if noted and note.is_file() and note.stat().st_size == 32 * len(part):
                sizes[start : part.stop] = [size for size, _ in found]
                digests[start : part.stop] = np.frombuffer(note.read_bytes(), np.uint8).reshape(-1, 32)
            else:
                list(threads.map(read, [index for index in part if index not in wrong]))
                if noted and not any(index in wrong for index in part):
                    write_bytes(note, digests[start : part.stop].tobytes())
                told.read += len(part)
            told.tell(part.stop)
    return Listing.of(names, sizes, digests), wrong


class _Told:
    """Tells from time to time how far the reading of files is.

    Attributes:
        read: number of files so far of which no note was taken.
    """

    def __init__(self, root: Path, count: int) -> None:
        self._root, self._count, self.read = root, count, 0
        self._started = self._last = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last > _SILENCE and self.read:
            rate = self.read / (now - self._started)
            left = round((self._count - done) / rate)
            _log.info(
                "%s: %d of %d files, %.0f a second, left %d:%02d:%02d",
                *(self._root, done, self._count, rate, left // 3600, left // 60 % 60, left % 60),
            )
            self._last = now


def named(files: Listing, wrong: dict[int, str]) -> str:
    """Return a list in words of the first files with which something is wrong, and of how many more there are."""
    return first_of([f"{os.fsdecode(files.name(index))} {wrong[index]}" for index in sorted(wrong)], _NAMED)
