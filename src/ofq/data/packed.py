"""Read downloaded compressed files into memory, up to a size that is known beforehand.

Nothing is unpacked to the disk, so no member of an archive can be written outside a folder. Only bytes of a fixed
layout are read, so no downloaded file can run code.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from ofq.data.manifest import SourceFile
from ofq.errors import UserError
from ofq.runs.provenance import file_digest

MOST_MEMBERS = 100  # of an archive; the published ones have fewer than ten
_REST = 2**20  # bytes that an archive may hold besides the members that are read: names of classes, a page of text


def origin(path: Path, *, md5: str | None = None) -> SourceFile:
    """Return sha256 and size of a source file and, with ``md5``, whether it is the archive that its authors publish."""
    with path.open("rb") as file:
        same = None if md5 is None else hashlib.file_digest(file, "md5").hexdigest() == md5
    return SourceFile(sha256=file_digest(path), bytes=path.stat().st_size, as_published=same)


def unpacked(path: Path, most: int, where_from: str) -> bytes:
    """Return the content of a gzip file.

    Args:
        path: the file.
        most: largest size in bytes that the content may have; at most one byte more is unpacked.
        where_from: what to do if the file is missing.

    Raises:
        UserError: missing, cut short, damaged, or larger than allowed.
    """
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise UserError(f"{path} not found; {where_from}") from None
    except EOFError:
        raise UserError(f"{path} is truncated: the file ends before its content does; download it again") from None
    except (OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from None
    if len(content) > most:
        raise UserError(f"{path} unpacks to more than the {most} bytes that it may hold; download it again")
    return content


def members(path: Path, sizes: Mapping[str, int], where_from: str) -> dict[str, bytes]:
    """Return members of a ``.tar.gz`` archive, looked up by their exact names and read in memory.

    Args:
        path: the archive.
        sizes: the names of the members and their exact sizes in bytes.
        where_from: what to do if the archive is missing.

    Raises:
        UserError: the archive is missing, cut short or damaged, lacks a member, or has one of another size; or it holds
            what no data archive needs: links, devices, sparse files, names that lead out of its folder.
    """
    content = unpacked(path, sum(sizes.values()) + _REST, where_from)
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for count, member in enumerate(iter(archive.next, None), start=1):
                _check(path, member, count)
                if member.name not in sizes:
                    continue
                if member.name in contents:
                    raise UserError(f"{path} holds {member.name} twice; download it again")
                contents[member.name] = _content(path, archive, member, sizes[member.name])
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from None
    if absent := [name for name in sizes if name not in contents]:
        raise UserError(f"{path} has no member {absent[0]}; download it again")
    return contents


def _check(path: Path, member: tarfile.TarInfo, count: int) -> None:
    """Refuse members that no data archive needs, even unread ones: such an archive is not the published one."""
    if count > MOST_MEMBERS:
        raise UserError(f"{path} has more than {MOST_MEMBERS} members; download it again")
    name = repr(member.name)
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise UserError(f"{path} is refused: its member {name} leads out of its folder; download it again")
    if not (member.isreg() or member.isdir()) or member.issparse():
        kind = "a link" if member.islnk() or member.issym() else "no plain file"
        raise UserError(f"{path} is refused: its member {name} is {kind}; download it again")
    if member.size < 0:
        raise UserError(f"{path} is damaged (a member of negative size); download it again")


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    file = archive.extractfile(member) if member.size == size else None
    content = file.read(size + 1) if file else b""
    if len(content) != size:
        raise UserError(f"{path}: member {member.name} has {member.size} bytes, {size} expected; download it again")
    return content
