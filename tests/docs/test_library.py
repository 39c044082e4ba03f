"""The page of the library alone is a program that runs as printed."""

from pathlib import Path

import pytest

from ofq.quant import QuantConfig
from tests.docs.pages import blocks


def test_its_blocks_are_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(blocks("library.md", "python")), names)
    assert names["meter"].share() and Path("student.pt").exists()  # type: ignore[attr-defined]


def test_the_help_of_the_settings_explains_every_field_first() -> None:
    text = QuantConfig.__doc__ or ""
    for name, field in QuantConfig.model_fields.items():
        assert f"{name} = {field.default!r}" in text and (field.description or "")[:20] in " ".join(text.split())
    assert text.index("weight_bits = 2") < text.index("Raises")
    assert len(text.splitlines()) < 60
