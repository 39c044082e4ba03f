"""Bit widths and runs as values: text becomes numbers and comes back as it was."""

import itertools

import pytest

from ofq.errors import UserError
from ofq.runs.paths import Bits, Run


@pytest.mark.parametrize(
    ("text", "bits"), [("w2a2", Bits(2, 2)), ("w8a3", Bits(8, 3)), ("w3a32", Bits(3, None)), ("fp", Bits())]
)
def test_bits_are_read_and_written_alike(text: str, bits: Bits) -> None:
    assert Bits.parse(text) == bits and str(bits) == text
    assert Run("digits", "vit_micro", text, "statsq", 0).widths == bits


@pytest.mark.parametrize("text", ["", "w2", "w1a2", "w2a9", "w2a1", "w32a2", "w2a322", "W2A2", "w2a2 ", "w\u0662a2"])
def test_what_names_no_bits_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"names no bits; write w2a2 and the like, w2a32 or fp"):
        Bits.parse(text)


def test_bits_are_ordered_by_weights_and_inputs_and_listed_ones_as_runs_are() -> None:
    ordered = ["fp", "w2a2", "w2a4", "w2a32", "w4a2"]
    assert [str(bits) for bits in sorted(map(Bits.parse, reversed(ordered)))] == ordered
    listed = ["fp", *(f"w{w}a{a}" for w, a in itertools.product(range(2, 9), repeat=2))]
    runs = sorted(Run("digits", "vit_micro", text, "statsq", 0) for text in listed)
    assert [run.bits for run in runs] == [str(bits) for bits in sorted(map(Bits.parse, listed))]
