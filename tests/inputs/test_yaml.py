"""Files that are no params.yaml, and plain values that YAML 1.1 reads as something else than people write."""

from pathlib import Path

import pytest
import yaml

from ofq.config import params
from ofq.errors import UserError
from tests.inputs.settings import BASE

TEXT = yaml.safe_dump(BASE, sort_keys=False)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        params.load(path)
    said = str(error.value)
    assert said.startswith(str(path)) and said.isprintable() and len(said) < 600, said
    return said.removeprefix(f"{path}: ")


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Input should be a mapping, not null"),
    "only a comment": (b"# nothing\n", "Input should be a mapping, not null"),
    "only a list": (b"- study\n- studies\n", "Input should be a mapping, not a list"),
    "only text": (b"study\n", "Input should be a mapping, not 'study'"),
    "only a number": (b"1\n", "Input should be a mapping, not 1"),
    "only null": (b"null\n", "Input should be a mapping, not null"),
    "two documents": (b"study: a\n---\nstudy: b\n", "expected a single document"),
    "tabs": (b"study: digits\nstudies:\n\tdigits: 1\n", "found character '\\t' that cannot start any token"),
    "no end": (b"study: [digits\n", "expected ',' or ']'"),
    "no end of text": (b"study: 'digits\n", "while scanning a quoted scalar"),
    "bad indentation": (b"study: digits\n  studies: 1\n", "mapping values are not allowed here"),
    "binary": (bytes(range(256)), "cannot be read"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read"),
    "zeros": (bytes(1000), "cannot be read"),
    "latin-1": ("study: dígits\n".encode("latin-1"), "cannot be read"),
    "half a character": (b"study: \xc3\n", "cannot be read"),
    "control characters": (b"study: \x07\n", "special characters are not allowed"),
    "key twice": (b"study: a\nstudy: b\n", "key 'study' given twice"),
    "key twice, inside": (TEXT.replace("seeds:", "seeds: [1]\n    seeds:", 1).encode(), "key 'seeds' given twice"),
    "1 and true are one key": (b"study: a\n1: b\ntrue: c\n", "key 'True' given twice"),
    "a list as a key": (b"? [a, b]\n: c\n", "found unhashable key"),
    "a mapping as a key": (b"{a: b}: c\n", "found unhashable key"),
    "a number as a key": (b"1: a\n", "1: Keys should be strings"),
    "a mapping that holds itself": (b"study: &a {b: *a}\n", "study: Input should be a valid string, not a mapping"),
    "a list that holds itself": (b"&a [*a]\n", "Input should be a mapping, not a list"),
    "studies that hold themselves": (b"study: x\nstudies: &s {x: *s}\n", "studies.x"),
    "a key that holds itself": (b"&a {*a : 1}\n", "found unhashable key"),
    "a merge with itself": (b"&a {<<: *a}\n", "study: Field required"),
    "unknown alias": (b"study: *nobody\n", "found undefined alias 'nobody'"),
    "alias twice": (b"study: &a x\nstudies: &a y\n", "found duplicate anchor 'a'"),
    "nested deeply": (b"study: " + b"[" * 5_000 + b"\n", "nested too deeply"),
    "nested deeply, indented": (b"".join(b" " * i + b"a:\n" for i in range(600)), "nested too deeply"),
    "ten megabytes": (b"# " + b"x" * 10_000_000, "10000002 bytes are too many; settings should take at most 262144"),
    "a number of 5000 digits": (b"study: " + b"1" * 5000, "cannot be read"),
    "an object of Python": (b"study: !!python/object:os.system [ls]\n", "could not determine a constructor for the tag"),
    "a call of Python": (b"study: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    "a tuple of Python": (b"study: !!python/tuple [a]\n", "could not determine a constructor"),
    "an own tag": (b"study: !digits x\n", "could not determine a constructor for the tag '!digits'"),
    "no such truth": (b"study: !!bool maybe\n", "cannot be read"),
    "no such number": (b"study: !!int many\n", "cannot be read"),
    "no such date": (b"study: !!timestamp never\n", "cannot be read"),
    "bytes": (b"study: !!binary aGVsbG8=\n", "study: Input should be a valid string"),
    "no such bytes": ("study: !!binary ä\n".encode(), "cannot be read"),
    "a set": (b"study: !!set {a, b}\n", "study: Input should be a valid string"),
    "conflict of a merge": (b"<<<<<<< HEAD\nstudy: a\n=======\nstudy: b\n>>>>>>> b\n", "cannot be read"),
    "a table of JSON lines": (b'{"study": 1}\n{"study": 2}\n', "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_settings_is_one_line(tmp_path: Path, name: str) -> None:
    content, said = FILES[name]
    (tmp_path / "params.yaml").write_bytes(content)
    assert said in refusal(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("- 0\n", "- 010\n", "studies.plain.seeds.0: Input should be a valid integer, not '010'"),
        ("- 0\n", "- 007\n", "studies.plain.seeds.0: Input should be a valid integer, not '007'"),
        ("- 0\n", "- 0x10\n", "studies.plain.seeds.0: Input should be a valid integer, not '0x10'"),
        ("- 0\n", "- 0o10\n", "studies.plain.seeds.0: Input should be a valid integer, not '0o10'"),
        ("- 0\n", "- 1_000\n", "studies.plain.seeds.0: Input should be a valid integer, not '1_000'"),
        ("- 0\n", "- 1:30\n", "studies.plain.seeds.0: Input should be a valid integer, not '1:30'"),
        ("- 0\n", "- '0'\n", "studies.plain.seeds.0: Input should be a valid integer, not '0'"),
        ("- 0\n", "- 1e0\n", "studies.plain.seeds.0: Input should be a valid integer, not 1.0"),
        ("- 0\n", "- true\n", "studies.plain.seeds.0: Input should be a valid integer, not True"),
        ("- 0\n", "- ~\n", "studies.plain.seeds.0: Input should be a valid integer, not null"),
        ("- 0\n", "-\n", "studies.plain.seeds.0: Input should be a valid integer, not null"),
        ("- 0\n", "- 2026-01-01\n", "studies.plain.seeds.0: Input should be a valid integer, not '2026-01-01'"),
        ("lr: 0.003", "lr: .nan", "lr: Input should be a finite number"),
        ("lr: 0.003", "lr: .inf", "lr: Input should be"),
        ("lr: 0.003", "lr: -.INF", "lr: Input should be"),
        ("lr: 0.003", "lr: 1e400", "lr: Input should be"),
        ("lr: 0.003", "lr: nan", "lr: Input should be a valid number, not 'nan'"),
        ("lr: 0.003", "lr: 3e-3x", "lr: Input should be a valid number, not '3e-3x'"),
        ("lr: 0.003", "lr: 0,003", "lr: Input should be a valid number, not '0,003'"),
        ("lr: 0.003", "lr: 1/3", "lr: Input should be a valid number, not '1/3'"),
        ("lr: 0.003", "lr: 0.3%", "lr: Input should be a valid number, not '0.3%'"),
        ("weight: statsq", "weight: statsq\n    qkr: yes", "variants.statsq.qkr: Input should be a valid boolean, not 'yes'"),
        ("weight: statsq", "weight: statsq\n    qkr: on", "variants.statsq.qkr: Input should be a valid boolean, not 'on'"),
        ("weight: statsq", "weight: statsq\n    qkr: 1", "variants.statsq.qkr: Input should be a valid boolean, not 1"),
        ("weight: statsq", "weight: statsq\n    qkr: 'true'", "variants.statsq.qkr: Input should be a valid boolean, not 'true'"),
    ],
)  # fmt: skip
def test_a_value_is_never_read_as_something_else(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TEXT
    (tmp_path / "params.yaml").write_text(TEXT.replace(old, new, 1))
    assert said in refusal(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", ["2026-01-01", "no", "on", "y", "off", "1e", "0x1f", "1_000", "0day"])
def test_a_name_is_the_text_that_was_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.yaml").write_text(TEXT.replace("plain", name))
    assert name in params.load(tmp_path / "params.yaml").studies


@pytest.mark.parametrize("name", ["12", "1.5", "1e3", "true", "null", "~"])
def test_a_name_that_is_another_value_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.yaml").write_text(TEXT.replace("plain", name))
    assert "Input should be a valid string" in refusal(tmp_path / "params.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_editors_may_write_any_unicode(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "params.yaml").write_text(f"# größer\r\n{TEXT}", encoding=encoding)
    assert params.load(tmp_path / "params.yaml").study == "plain"


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    anchored = TEXT.replace("  plain:\n", "  plain: &p\n", 1)
    (tmp_path / "params.yaml").write_text(
        anchored.replace("recipes:\n", "  more:\n    <<: *p\n    seeds: [7]\nrecipes:\n", 1)
    )
    assert params.load(tmp_path / "params.yaml").studies["more"].seeds == [7]


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert "run from the project's root" in refusal(path)
    path.symlink_to(path)
    assert "Too many levels of symbolic links" in refusal(path)
    path.unlink()
    path.symlink_to("nowhere")
    assert "run from the project's root" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "Is a directory" in refusal(path)
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(tmp_path / "file" / "params.yaml")
    assert "File name too long" in refusal(tmp_path / ("a" * 300))
