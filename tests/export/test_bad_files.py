"""Packed files that are damaged, of another version or hostile: one line each, and no more memory than the file's."""

import hashlib
import json
import random
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ofq
from ofq.errors import UserError
from ofq.export.packed import read_packed

MUTATIONS = 10_000


class Parts:
    """A packed file taken apart, to be changed and put together again with the right checksum."""

    def __init__(self, content: bytes) -> None:
        length = int.from_bytes(content[:8], "little")
        self.entries: dict[str, Any] = json.loads(content[8 : 8 + length])
        self.metadata: dict[str, str] = self.entries.pop("__metadata__")
        self.header: dict[str, Any] = json.loads(self.metadata["ofq"])
        data = content[8 + length :]
        self.data = {name: bytearray(data[slice(*each["data_offsets"])]) for name, each in self.entries.items()}

    def bytes(self, text: str | None = None) -> bytes:
        text = json.dumps(self.header) if text is None else text
        digest = hashlib.sha256(text.encode())
        for name in sorted(self.data):
            digest.update(name.encode() + bytes(self.data[name]))
        metadata = self.metadata | {"ofq": text, "ofq.sha256": digest.hexdigest()}
        entries, start = {}, 0
        for name, each in self.entries.items():
            entries[name] = each | {"data_offsets": [start, start + len(self.data[name])]}
            start += len(self.data[name])
        head = json.dumps({"__metadata__": metadata, **entries}).encode()
        return struct.pack("<Q", len(head)) + head + b"".join(map(bytes, self.data.values()))


def test_a_file_put_together_again_is_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(Parts(file.read_bytes()).bytes())
    ofq.load(tmp_path / "a")


CODES, STEPS, INPUT = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.weight_quantizer.scale", "blocks.0.mlp.fc1.bias"
QUANTIZER = "blocks.0.mlp.fc1.input_quantizer"


def floats(name: str, *values: float) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.data[name][: 4 * len(values)] = np.array(values, np.float32).tobytes()

    return change


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Parts], None]:
    return lambda parts: change(parts.header) and None


def without(name: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del parts.data[name], parts.entries[name]

    return change


def renamed(name: str, other: str, *, coded: bool = False) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.data[other], parts.entries[other] = parts.data.pop(name), parts.entries.pop(name)
        if coded:
            parts.header["codes"][other] = parts.header["codes"].pop(name)

    return change


def longer(parts: Parts) -> None:
    parts.data[CODES] += b"\1"
    parts.entries[CODES]["shape"][0] += 1


def left_over(parts: Parts) -> None:
    parts.header["codes"][CODES]["shape"] = [1, 287]
    parts.data[CODES][-1] |= 0xC0


def arguments(**changed: Any) -> Callable[[Parts], None]:
    return header(lambda content: content["model"]["arguments"].update(changed))


def typed(name: str, bytes_each: int) -> Callable[[Parts], None]:
    """Say that a tensor of float32 is of another type, of fewer bytes each."""

    def change(parts: Parts) -> None:
        parts.entries[INPUT]["dtype"] = name
        parts.entries[INPUT]["shape"][0] *= 4 // bytes_each

    return change


BAD: dict[str, tuple[Callable[[Parts], None], str]] = {
    "another version": (
        header(lambda h: h.update(version=2)),
        "has version 2 of the packed format, and this ofq reads 1",
    ),
    "no version": (header(lambda h: h.pop("version")), "a header that no export writes .version: Field required"),
    "an unknown key": (header(lambda h: h.update(eval="1")), "a header that no export writes .*unknown key 'eval'"),
    "a type that NumPy lacks": (typed("BF16", 2), "is cut short or damaged|should be float32, not bfloat16"),
    "another one": (typed("F8_E4M3", 1), "is cut short or damaged|should be float32, not float8"),
    "missing tensor": (without(INPUT), f"does not fit .*{INPUT} has the shape None in the file"),
    "missing codes": (without(CODES), f"{CODES} is missing"),
    "missing step": (without(STEPS), "blocks.0.mlp.fc1 has no codes or no steps"),
    "a tensor more": (renamed(INPUT, "blocks.0.mlp.fc1.extra"), "does not fit"),
    "bits out of range": (header(lambda h: h["codes"][CODES].update(bits=9)), "codes.*bits: Input should be less than"),
    "other bits": (
        header(lambda h: h["codes"][CODES].update(bits=3)),
        "144 bytes, and 288 codes of 3 bits need 108|72",
    ),
    "an offset of its own": (header(lambda h: h["codes"][CODES].update(offset=0.25)), "offset should be 0 or 0.5"),
    "a code beyond the last": (left_over, f"{CODES} holds a code beyond the last one"),
    "bytes more": (longer, f"{CODES} holds 73 bytes, and 288 codes of 2 bits need 72"),
    "huge shape": (header(lambda h: h["codes"][CODES].update(shape=[2**62, 2**62])), "bytes, and"),
    "negative step": (floats(STEPS, -1.0), f"{STEPS} holds steps that are not positive"),
    "step of zero": (floats(f"{QUANTIZER}.scale", 0.0), f"{QUANTIZER}.scale holds steps that are not positive"),
    "not finite": (floats(INPUT, float("nan")), f"{INPUT} holds values that are not finite"),
    "a path for a name": (renamed(CODES, "../../etc/passwd", coded=True), "a header that no export writes .codes"),
    "a path for a tensor": (renamed(INPUT, "/tmp/x"), "does not fit"),
    "rounded otherwise": (header(lambda h: h["activations"][QUANTIZER].update(bits=4)), "activations are not rounded"),
    "many channels": (header(lambda h: h["images"].update(channels=2**40)), "images.channels"),
    "large images": (header(lambda h: h["images"].update(size=[2**30, 2**30])), "images.size"),
    "many classes": (header(lambda h: h.update(classes=2**62)), "classes"),
    "wide": (arguments(embed_dim=2**26), "does not fit|cannot build"),
    "deep": (arguments(depth=10**9), "names a model of 1000000000 blocks and has 46 tensors"),
    "deep in stages": (arguments(depths=[10**9]), "names a model of 1000000001 blocks"),
    "weights of others": (arguments(pretrained=True), "pretrained should be left out"),
    "a file of others": (arguments(checkpoint_path="/etc/passwd"), "checkpoint_path should be left out"),
    "no model": (header(lambda h: h["model"].update(timm="../x")), "unknown timm model"),
    "a model of a hub": (header(lambda h: h["model"].update(timm="hf-hub:a/b")), "unknown timm model"),
    "convolutions": (
        header(lambda h: h["model"].update(timm="resnet18", arguments={})),
        "does not fit resnet18",
    ),
    "full precision": (header(lambda h: h.update(quantization=None)), "quantization"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_export_writes_is_refused_in_one_line(case: str, file: Path, tmp_path: Path) -> None:
    change, told = BAD[case]
    parts = Parts(file.read_bytes())
    change(parts)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(parts.bytes())
    with pytest.raises(UserError) as error:
        ofq.load(path)
    assert re.search(told, str(error.value)), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"version": 1' + "0" * 10_000 + "}",
        '{"version": 1, "version": NaN}',
        "\0",
        "[]",
    ],
    ids=["none", "lists", "objects", "digits", "nan", "nothing", "list"],
)
def test_hostile_headers_are_refused(text: str, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(Parts(file.read_bytes()).bytes(text))
    with pytest.raises(UserError, match=r"a header that no export writes|it has no header 'ofq'"):
        ofq.load(path)


def test_files_cut_short_are_refused(file: Path, tmp_path: Path) -> None:
    content, path = file.read_bytes(), tmp_path / "short.safetensors"
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut short or damaged"):
            ofq.load(path)


def test_a_changed_byte_is_seen(file: Path, tmp_path: Path) -> None:
    content, path = bytearray(file.read_bytes()), tmp_path / "changed.safetensors"
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"was changed since it was written \(sha256\)"):
        ofq.load(path)


@pytest.mark.parametrize("size", [2**63, 2**40, 2**27])
def test_the_length_of_the_header_is_not_believed(size: int, tmp_path: Path) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(UserError, match="cut short or damaged"):
        ofq.load(path)


def test_files_of_others_and_what_is_not_there_are_told_apart(file: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"is no packed file of ofq \(it has no header 'ofq'\)"):
        ofq.load(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not exist; name the folder of a finished run"):
        ofq.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        ofq.load(tmp_path)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A file that was changed somewhere: in its bytes, or in its header with the checksum made right again."""
    kind = draw.randrange(4)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if kind == 1:
        start = draw.randrange(len(content))
        inserted = draw.randbytes(draw.randrange(40)) * draw.choice([1, 1, 50])
        return content[:start] + inserted + content[start + draw.randrange(60) :]
    parts = Parts(content)
    if kind == 2:
        text = list(json.dumps(parts.header))
        for _ in range(draw.randint(1, 3)):
            start = draw.randrange(len(text))
            text[start : start + draw.randrange(3)] = draw.choice(
                ["9" * 30, "-", "[", "]", "{", '"', "1e999", "null", "\\u0000", ""]
            )
        return parts.bytes("".join(text))
    name = draw.choice(list(parts.data))
    for _ in range(draw.randint(1, 3)):
        parts.data[name][draw.randrange(len(parts.data[name]))] = draw.choice([0, 255, 127, draw.randrange(256)])
    return parts.bytes()


def test_ten_thousand_mutations_are_read_or_refused(file: Path, tmp_path: Path) -> None:
    draw, content, path = random.Random(0), file.read_bytes(), tmp_path / "mutated.safetensors"
    refused, most = 0, 0
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, draw))
        watched = number % 25 == 0  # which takes ten times as long
        if watched:
            tracemalloc.start()
        try:
            read_packed(path)
            if number % 100 == 1:
                ofq.load(path)
        except UserError:
            refused += 1
        finally:
            if watched:
                most = max(most, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    assert MUTATIONS / 2 < refused < MUTATIONS, "some hurt, some do not"
    assert most < 20 * len(content), f"{most} bytes for a file of {len(content)}"
