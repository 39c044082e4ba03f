"""A directory with made-up files of runs, narrowed grids as the report gets them, and figures before they are saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ofq.config.params import Params
from tests.report.synthetic import parameters, write_all

Made = Callable[..., Params]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make the published files of a grid: ``made(variants=[...], more={name: variant}, bits=..., seeds=...)``."""
    monkeypatch.chdir(tmp_path)

    def make(*, more: dict[str, Any] | None = None, **study: Any) -> Params:
        params = parameters({"bits": ["w2a2"], "seeds": [0, 1]} | study, more)
        write_all(params)
        return params

    return make


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Figure]]:
    """Catch the figures of a module by name in the place of saving them."""

    def catch(module: str) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        monkeypatch.setattr(f"{module}.save", lambda figure, _, name, runs: figures.update({name: figure}))
        return figures

    return catch
