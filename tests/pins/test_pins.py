"""Names, orders and settings that older files and other people's code rely on are those that were pinned."""

import importlib
import json
from typing import Any

import pytest

from tests.pins import found

PINS = json.loads(found.PINS.read_text())

PUBLIC = {
    "ofq.quant": ["StatsQuantizer", "LSQQuantizer", "QuantConfig", "quantize_model", "calibrate", "block_weights"],
    "ofq.remedies": [
        "Remedy",
        "ConfidenceGuidedAnnealing",
        "Annealing",
        "FrozenWeights",
        "Dampening",
        "IterativeFreezing",
        "confidence_mask",
        "governed_layers",
    ],
    "ofq.oscillation.meter": ["OscillationMeter"],
}


def test_every_run_has_the_settings_that_it_had() -> None:
    """Others would train finished runs again; a field that is added later must not show where it is at its default."""
    canonical = found.canonical()
    assert canonical["in_full"] == PINS["canonical"]["in_full"]
    kept = {name: canonical["digests"].get(name) for name in PINS["canonical"]["digests"]}
    assert kept == PINS["canonical"]["digests"]


@pytest.mark.parametrize("name", PINS["states"])
def test_saved_states_of_models_and_optimizers_can_be_read(name: str) -> None:
    """AdamW keeps its state by number: in another order an older trainer.pt would be loaded, and be wrong."""
    models = found.states()
    assert models[name] == PINS["states"][name]


def test_commands_and_targets_are_there() -> None:
    assert set(PINS["commands"]) <= set(found.commands())
    targets = found.targets()
    assert set(PINS["targets"]["names"]) <= set(targets["names"])
    for report, names in PINS["targets"]["reports"].items():
        assert set(names) <= set(targets["reports"][report]), report


@pytest.fixture(scope="module")
def files() -> dict[str, Any]:
    return found.files()


@pytest.mark.parametrize("name", PINS["files"])
def test_files_of_a_run_hold_the_names_that_they_held(files: dict[str, Any], name: str) -> None:
    assert files[name] == PINS["files"][name]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_public_names_can_be_imported(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)
