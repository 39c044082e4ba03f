"""The picture of the pipeline shows the rules that there are."""

import re

import pytest

from docs import rulegraph
from tests.conftest import ROOT, Project

DOT = 'digraph {0[label = "all"] 1[label = "b"] 2[label = "a"] 2 -> 1 1 -> 0 2 -> 0}'


def test_the_target_that_gathers_files_is_left_out() -> None:
    assert rulegraph.parse(DOT) == {("a", "b")}
    with pytest.raises(SystemExit, match="nothing to draw"):
        rulegraph.parse("")


def test_the_picture_is_up_to_date(project: Project) -> None:
    bands = {"always": True, "variants": ["statsq-qkr-cga", "statsq-qkr-cga-br0.01"]}
    project.params["studies"]["digits"] |= {"measure": ["noise"], "groups": {"bands": bands}}
    project.write_params()
    edges = rulegraph.parse(project.run("snakemake", "--rulegraph").stdout)
    drawn = re.findall(r"<text[^>]*>(\w+)</text>", (ROOT / "docs/images/rulegraph.svg").read_text())
    assert set(drawn) == {rule for edge in edges for rule in edge}
    assert "snakemake --rulegraph | python docs/rulegraph.py" in (rulegraph.__doc__ or "")
