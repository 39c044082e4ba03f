"""The oscillation page: what it says of the toy is so, and its table is what the toy printed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", ROOT / "docs/toy.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn_by_this_checkout_whichever_is_installed(tmp_path: Path) -> None:
    (tmp_path / "ofq").mkdir()
    (tmp_path / "ofq/__init__.py").touch()
    script = "import runpy; print(runpy.run_path('docs/toy.py')['train'].__code__.co_filename)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(ROOT / "src/ofq/measure/toy.py"), done.stderr


def test_a_weight_turns_round_as_often_as_its_targets_place_says_at_any_learning_rate(toy: ModuleType) -> None:
    expected = [2 * min(d, 1 - d) for d in toy.POSITIONS]
    for lr in (toy.LR, toy.LR / 10):
        assert toy.law(lr) == pytest.approx(expected, abs=0.005)


def test_the_page_shows_what_the_toy_printed(toy: ModuleType, tmp_path: Path) -> None:
    traces = toy.cases()
    assert toy.table(traces) in (ROOT / "docs/oscillation.md").read_text(), (
        "renew table and picture: python docs/toy.py"
    )
    toy.draw(traces, tmp_path / "toy.png")
    pixels = [np.asarray(Image.open(folder / "toy.png")) for folder in (tmp_path, ROOT / "docs/images")]
    assert np.array_equal(*pixels), "renew table and picture: python docs/toy.py"
