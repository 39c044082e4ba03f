"""No array of the fixtures is left out: each belongs to a case of a test, or to an exemption with its reason."""

import re

import pytest
import test_golden_batchnorm
import test_golden_layers
import test_golden_model
import test_golden_quantizers
import test_golden_remedies
import test_golden_toy
import test_golden_training
from cases import Case, arrays, files

EXEMPT = {
    r"cga/overlap/.*": "documents what a range of 1/2 and more does in the released code; an error here",
    r"rivals/(?!rms/|margin$).*": "remedies that are not built",
    r"[^/]+/margin": "says how far the inputs are from thresholds; test_margin looks at it",
}

MODULES = (
    test_golden_quantizers,
    test_golden_layers,
    test_golden_batchnorm,
    test_golden_training,
    test_golden_remedies,
    test_golden_model,
    test_golden_toy,
)


def _parametrised_cases() -> list[Case]:
    """The cases of every test of the other modules, as pytest gets them."""
    found = []
    for module in MODULES:
        for name, test in vars(module).items():
            if name.startswith("test_"):
                found += [case for mark in getattr(test, "pytestmark", []) for case in mark.args[1]]
    return found


def test_every_array_belongs_to_a_case_or_to_an_exemption() -> None:
    everything = {f"{file}/{name}" for file in files("*") for name in arrays(file)}
    parametrised = _parametrised_cases()
    checked = {f"{case.file}/{name}" for case in parametrised for name in case.owned}
    shared = {f"{case.file}/{name}" for case in parametrised for name in case.extra}
    exempt = {name for name in everything if any(re.fullmatch(pattern, name) for pattern in EXEMPT)}
    assert checked | shared | exempt == everything
    assert not checked & exempt


@pytest.mark.parametrize("file", files("*"))
def test_margin(file: str) -> None:
    """The fixtures keep away from thresholds, so that a correct implementation cannot land on the other side."""
    assert arrays(file)["margin"] > 1e-6
