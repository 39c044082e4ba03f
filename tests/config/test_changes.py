"""In which settings runs differ, in words."""

import pytest

from ofq.config.changes import changes


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({"phase": "qat", "train": {"lr": 0.016}}, {"phase": "qat", "train": {"lr": 0.02}}, ["qat.lr 0.016 -> 0.02"]),
        (
            {"model": {"arguments": {"depth": 2}}},
            {"model": {"arguments": {"depth": 3}}},
            ["model.arguments.depth 2 -> 3"],
        ),
        ({"threads": 1}, {"threads": 1.0}, ["threads 1 -> 1.0"]),
        ({"phase": "qat"}, {"phase": "qat", "remedy": {"name": "freezing"}}, ["remedy.name unset -> freezing"]),
        ({"remedy": {"name": "freezing"}}, {}, ["remedy.name freezing -> unset"]),
        ({"remedy": {}}, {}, ["remedy"]),
        ({"runs": ["a", "b"]}, {"runs": ["b", "c", "d"]}, ["runs (2 more, 1 fewer)"]),
        ({"runs": ["a", "b"]}, {"runs": ["b", "a"]}, ["runs (another order)"]),
        ({"a": 1, "b": True}, {"a": 2, "b": False}, ["a 1 -> 2", "b true -> false"]),
        ({"x": "o" * 100}, {"x": None}, ["x ooooooooooooooooooooo... -> unset"]),
        ({"a": [1], "b": {"c": None}}, {"a": [1], "b": {"c": None}}, []),
    ],
)
def test_what_differs_is_named_with_what_it_was_and_is(there: dict, here: dict, said: list[str]) -> None:
    assert changes(there, here) == said
