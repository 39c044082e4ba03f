"""The picture of the pipeline in docs/architecture.md is the one that Snakemake gives of the project as it stands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs import rulegraph
from tests.conftest import ROOT, Project

DOT = 'digraph {0[label = "all"] 1[label = "b"] 2[label = "a"] 2 -> 1 1 -> 0 2 -> 0}'


def test_the_target_that_gathers_files_is_left_out() -> None:
    assert rulegraph.parse(DOT) == {("a", "b")}
    with pytest.raises(SystemExit, match="nothing to draw"):
        rulegraph.parse("")


def test_the_picture_is_up_to_date(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edges = rulegraph.parse(project.run("snakemake", "--rulegraph").stdout)
    monkeypatch.setattr(rulegraph, "IMAGES", tmp_path / "images")
    rulegraph.draw(edges)
    how = "renew it with: snakemake --rulegraph | python docs/rulegraph.py"
    drawn, committed = tmp_path / "images", ROOT / "docs/images"
    assert (drawn / "rulegraph.svg").read_text() == (committed / "rulegraph.svg").read_text(), how
    pixels = [np.asarray(Image.open(folder / "rulegraph.png")) for folder in (drawn, committed)]
    assert np.array_equal(*pixels), how
    assert how.split(": ")[1] in (rulegraph.__doc__ or "")
