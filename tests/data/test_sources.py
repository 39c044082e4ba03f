"""What is read from files of others: the published content or one line, never a file written or code run."""

import gzip
import hashlib
import pickle
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ofq.config.settings import Data
from ofq.data import packed
from ofq.data.prepare import prepare
from ofq.data.reader import reader_of
from ofq.data.readers import cifar, digits, fashion_mnist
from ofq.errors import UserError
from tests.data.small import CIFAR10, IDX, cifar_members, read, records, write_tar

FASHION, C10, C100 = Data(name="fashion-mnist"), Data(name="cifar10"), Data(name="cifar100")
BATCH = "cifar-10-batches-bin/data_batch_2.bin"


def refusal(data: Data) -> str:
    """The one line that refuses to read."""
    with pytest.raises(UserError) as error:
        read(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_fashion_mnist_is_read_as_its_files_say(fashion: Path) -> None:
    found = read(FASHION)
    assert np.array_equal(found.train[0], IDX["train-images-idx3-ubyte.gz"])
    assert np.array_equal(found.test[1], IDX["t10k-labels-idx1-ubyte.gz"])
    assert found.origin["t10k-labels-idx1-ubyte.gz"].bytes == (fashion / "t10k-labels-idx1-ubyte.gz").stat().st_size


def test_missing_idx_files_say_what_is_expected_where(here: Path) -> None:
    message = refusal(Data(name="fashion-mnist", root="nowhere"))
    assert re.search(r"nowhere/train-images-idx3-ubyte\.gz not found; download", message)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("name", list(IDX))
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw, packed: packed[:-12], "is truncated"),
        (lambda raw, packed: packed[: len(packed) // 2], "is truncated"),
        (lambda raw, packed: b"<html>", "is damaged (Not a gzipped file"),
        (lambda raw, packed: flipped(packed), "is damaged (Incorrect length"),
        (lambda raw, packed: packed + b"x", "is damaged (Not a gzipped file"),
        (lambda raw, packed: gzip.compress(raw[:-1]), "is not Fashion-MNIST as published"),
        (lambda raw, packed: gzip.compress(raw + b"x"), "unpacks to more than"),
        (lambda raw, packed: gzip.compress(raw[:7] + b"\x09" + raw[8:]), "is not Fashion-MNIST as published"),
        (lambda raw, packed: gzip.compress(raw[:2] + b"\x0d" + raw[3:]), "is not Fashion-MNIST as published"),
        (lambda raw, packed: gzip.compress(b""), "is not Fashion-MNIST as published"),
        (lambda raw, packed: gzip.compress(flipped(raw)), "is not Fashion-MNIST as published"),
    ],
    ids=["end cut", "half", "a web page", "flipped", "more behind", "short", "long", "count", "kind", "empty", "pixel"],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(
    fashion: Path, name: str, damage: Callable[[bytes, bytes], bytes], message: str
) -> None:
    content = (fashion / name).read_bytes()
    (fashion / name).write_bytes(damage(gzip.decompress(content), content))
    said = refusal(FASHION)
    assert said.startswith(f"{fashion / name} ") and message in said


def test_the_published_contents_are_those_of_60000_and_10000_images() -> None:
    shapes = [published.shape for published in fashion_mnist.FASHION_MNIST.values()]
    assert shapes == [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]


def test_a_file_that_swells_is_read_no_further_than_it_may_be(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bomb.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    asked: list[int] = []
    read_gzip = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or read_gzip(self, size))
    with pytest.raises(UserError, match="unpacks to more than the 1000 bytes"):
        packed.unpacked(Path("bomb.gz"), 1000, "")
    assert asked == [1001]


def test_cifar10_keeps_labels_and_pixels_in_their_order(cifar10: Path) -> None:
    found, content = read(C10), cifar_members_of(cifar10)
    assert found.train[0].shape == (20, 3, 32, 32) and found.test[0].shape == (10, 3, 32, 32)
    record = content[BATCH][: 1 + 3072]  # the fifth training image: a label, then red, green and blue line by line
    assert found.train[1][4] == record[0]
    assert found.train[0][4, 1, 2, 5] == record[1 + 1024 + 2 * 32 + 5]


def test_cifar100_takes_the_fine_label(cifar100: Path) -> None:
    found = read(C100)
    assert sorted(found.train[1]) == list(range(100)) and found.classes == 100
    record = cifar_members_of(cifar100)["cifar-100-binary/train.bin"]
    assert record[0] == 255 and found.train[0][0, 0, 0, 0] == record[2]


def cifar_members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def special(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (tarfile.TarInfo("../evil"), "'../evil' leads out of its folder"),
        (tarfile.TarInfo("cifar-10-batches-bin/../../evil"), "leads out of its folder"),
        (tarfile.TarInfo("/tmp/evil"), "'/tmp/evil' leads out of its folder"),
        (special(tarfile.SYMTYPE, "data", "/etc/passwd"), "'data' is a link"),
        (special(tarfile.SYMTYPE, BATCH, "/etc/passwd"), "is a link"),
        (special(tarfile.LNKTYPE, BATCH, "cifar-10-batches-bin/data_batch_1.bin"), "is a link"),
        (special(tarfile.CHRTYPE, "null"), "'null' is no plain file"),
        (special(tarfile.BLKTYPE, "disk"), "'disk' is no plain file"),
        (special(tarfile.FIFOTYPE, "pipe"), "'pipe' is no plain file"),
    ],
    ids=[
        "parent",
        "parent inside",
        "absolute",
        "symlink",
        "symlink for a batch",
        "hard link",
        "character device",
        "block device",
        "pipe",
    ],
)
def test_what_no_data_archive_needs_is_refused(cifar10: Path, member: tarfile.TarInfo, message: str) -> None:
    write_tar(cifar10, cifar_members(CIFAR10), member)
    assert message in refusal(C10)


def test_nothing_is_unpacked_to_the_disk(cifar10: Path, here: Path) -> None:
    before = sorted(path for path in here.parent.rglob("*"))
    read(C10)
    write_tar(cifar10, cifar_members(CIFAR10), tarfile.TarInfo("../evil"), tarfile.TarInfo(f"{here}/evil"))
    refusal(C10)
    assert sorted(path for path in here.parent.rglob("*")) == before


def test_a_file_beside_the_batches_is_left_unread(cifar10: Path) -> None:
    page = tarfile.TarInfo("cifar-10-batches-bin/readme.html")
    page.size = 80
    write_tar(cifar10, cifar_members(CIFAR10), special(tarfile.DIRTYPE, "cifar-10-batches-bin"), page)
    assert len(read(C10).train[1]) == 20


def without(content: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in content.items() if name != BATCH}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, f"has no member {BATCH}"),
        (lambda content: {f"./{name}": data for name, data in content.items()}, "has no member"),
        (lambda content: content | {BATCH: content[BATCH][:-1]}, f"member {BATCH} has 12291 bytes, 12292 expected"),
        (lambda content: content | {BATCH: content[BATCH] * 2}, f"member {BATCH} has 24584 bytes, 12292 expected"),
        (lambda content: content | {"more": bytes(2**21)}, "unpacks to more than"),
        (lambda content: {f"{i}": b"" for i in range(101)} | content, "more than 100 members"),
        (
            lambda content: content | {BATCH: records(np.array([4, 5, 6, 10]), CIFAR10)},
            "a training image has label 10, 0 to 9",
        ),
        (
            lambda content: content | {BATCH: records(np.array([4, 5, 6, 6]), CIFAR10)},
            "3 training images have label 6, 2 expected",
        ),
    ],
    ids=["missing", "other names", "short", "long", "oversized", "many", "label out of range", "wrong label count"],
)
def test_an_archive_of_other_content_is_named_with_what_is_wrong(
    cifar10: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], message: str
) -> None:
    write_tar(cifar10, change(cifar_members(CIFAR10)))
    said = refusal(C10)
    assert str(cifar10) in said and message in said


def test_a_member_that_stands_twice_is_refused(cifar10: Path) -> None:
    twice = tarfile.TarInfo(BATCH)
    twice.size = 4 * 3073
    write_tar(cifar10, cifar_members(CIFAR10), twice)
    assert f"holds {BATCH} twice" in refusal(C10)


def test_a_sparse_member_is_refused(cifar10: Path) -> None:
    sparse = tarfile.TarInfo("cifar-10-batches-bin/holes")
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": "9" * 12,
    }
    write_tar(cifar10, cifar_members(CIFAR10), sparse, format=tarfile.PAX_FORMAT)
    assert "'cifar-10-batches-bin/holes' is no plain file" in refusal(C10)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_archive_is_named(cifar10: Path, share: float) -> None:
    content = cifar10.read_bytes()
    cifar10.write_bytes(content[: int(share * len(content))])
    assert refusal(C10).startswith(f"{cifar10} ")


def test_an_archive_cut_before_it_was_packed_is_named(cifar10: Path) -> None:
    cifar10.write_bytes(gzip.compress(gzip.decompress(cifar10.read_bytes())[:-40_000]))
    assert refusal(C10).startswith(f"{cifar10} ")


def test_headers_of_any_bytes_end_in_one_line(cifar10: Path) -> None:
    content = gzip.decompress(cifar10.read_bytes())
    rng, refused = np.random.default_rng(1), 0
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(0, 512, 3):
            changed[place] = rng.integers(0, 256)
        checksum = sum(changed[:148]) + 8 * 32 + sum(changed[156:512])
        changed[148:156] = b"%06o\0 " % checksum
        cifar10.write_bytes(gzip.compress(bytes(changed), 1))
        try:
            read(C10)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("data", [C10, C100], ids=str)
def test_an_archive_of_pickles_is_refused_and_its_code_does_not_run(here: Path, data: Data) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (Path("ran"),)  # type: ignore[return-value]

    layout = cifar.LAYOUTS[data.name]
    pickled = here / "data" / data.name / layout.archive.replace("binary", "python")
    write_tar(pickled, {"cifar-10-batches-py/data_batch_1": pickle.dumps(Evil())})
    said = refusal(data)
    assert pickled.name in said and "pickles, which can run code" in said and layout.archive in said
    pickled.rename(pickled.with_name(layout.archive))
    assert "has no member" in refusal(data)
    assert not Path("ran").exists()


def test_files_are_looked_for_under_the_name_or_in_the_folder_that_the_study_names(here: Path) -> None:
    Path("own").mkdir()
    Path("own/drawings.py").write_text(
        "from ofq.data.reader import Reader\n\nclass Shapes(Reader):\n    read = print\n"
    )
    for folder, data in {
        "data/cifar10": Data(name="cifar10"),
        "data/drawings": Data(name="own.drawings:Shapes"),
        "elsewhere": Data(name="own.drawings:Shapes", root="elsewhere"),
    }.items():
        assert reader_of(data).folder == Path(folder)


def test_a_missing_cifar_archive_is_named(here: Path) -> None:
    assert "data/cifar10/cifar-10-binary.tar.gz not found; put" in refusal(C10)


@pytest.mark.parametrize("same", [True, False])
def test_an_archive_other_than_the_published_one_is_noted(
    cifar10: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    if same:
        md5 = hashlib.md5(cifar10.read_bytes()).hexdigest()
        monkeypatch.setitem(cifar.LAYOUTS, "cifar10", replace(CIFAR10, md5=md5))
    found = read(C10)
    assert found.origin[CIFAR10.archive].as_published is same
    assert ("not the published one" in found.terms) is not same


@pytest.mark.parametrize("called", [None, "CIFAR-10 (JPEG copy)"])
def test_a_copy_without_a_name_of_its_own_is_warned_of(
    cifar10: Path, caplog: pytest.LogCaptureFixture, called: str | None
) -> None:
    data = Data(name="cifar10", called=called)
    prepare("small", data)
    said = f"small: {cifar10} is not the archive as published; name it in studies.small.data.called, or tables call it"
    assert [record.getMessage() for record in caplog.records] == ([] if called else [f"{said} cifar10"])
    assert data.title == (called or "cifar10")


def test_other_digits_than_those_of_this_project_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, labels = digits.arrays()
    levels[5, 3, 3] += 1
    monkeypatch.setattr(digits, "arrays", lambda: (levels, labels))
    assert "load_digits gives other digits" in refusal(Data(name="digits"))
