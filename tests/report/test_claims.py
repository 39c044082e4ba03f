"""From claims.yaml and files of runs to verdicts on a page and in JSON."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from ofq.config.grid import Grid
from ofq.report.claims.forest import COLOURS
from ofq.report.parts.claims import write_claims
from tests.report.claim_runs import claim, finish, finish_all, params, run, write_parquet

KEYS = ["id", "statement", "source", "effect", "unit", "interval", "n", "p_adjusted", "verdict", "runs", "seeds_to_decide", "by_seed", "by_bits", "widths_disagree", "scope", "headline"]  # fmt: skip
Judge = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Write claims.yaml with the given claims, and read claims.json of the study."""
    monkeypatch.chdir(tmp_path)

    def judge(**claims: dict[str, Any]) -> dict[str, dict[str, Any]]:
        content = {"topics": {"accuracy": "How accurate", "none": "Nothing of it"}, "claims": claims}
        Path("claims.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        write_claims(Grid(params(), "plain"))
        return {row["id"]: row for row in json.loads(Path("results/plain/report/claims.json").read_text())}

    return judge


def page() -> str:
    return Path("results/plain/report/claims.md").read_text()


def finish_three() -> None:
    finish_all("a", {"w2a2": [92.0, 93.1, 91.9], "w3a3": [95.0, 95.0, 95.0]})
    finish_all("b", {"w2a2": [90.0, 91.0, 90.0], "w3a3": [93.0, 94.0, 97.0]})


def test_each_verdict_stands_with_its_numbers(judged: Judge) -> None:
    finish_three()
    two = {"bits": ["w2a2"]}
    found = judged(
        holds=claim(**two),
        fails=claim(**two, expect="below"),
        near=claim(**two, expect="equal", margin=5),
        far=claim(**two, expect="equal", margin=0.5),
        open=claim(bits=["w3a3"]),
        absent=claim(against={"variant": "d"}),
    )
    assert {name: row["verdict"] for name, row in found.items()} == {
        "holds": "supported",
        "fails": "contradicted",
        "near": "supported",
        "far": "contradicted",
        "open": "undecided",
        "absent": "untested",
    }
    assert all(list(row) == KEYS for row in found.values())
    assert found["holds"]["effect"] == pytest.approx(2.0) and found["holds"]["unit"] == "points"
    low, high = found["holds"]["interval"]
    assert low < 2 < high and low + high == pytest.approx(4)
    assert found["holds"]["runs"][:2] == [str(run("a", 0)), str(run("b", 0))] and found["holds"]["n"] == 3
    assert found["holds"]["seeds_to_decide"] is None and found["open"]["seeds_to_decide"] > 3
    assert {key: found["absent"][key] for key in KEYS[3:]} == {
        "effect": None, "unit": "points", "interval": None, "n": 0, "p_adjusted": None, "verdict": "untested", "runs": [],
        "seeds_to_decide": None, "by_seed": {}, "by_bits": [], "widths_disagree": False,
        "scope": None, "headline": False,
    }  # fmt: skip


def test_the_figure_shows_the_claims_that_matter_most_with_verdict_effect_and_side(
    judged: Judge, drawn: Callable[[str], dict[str, Figure]]
) -> None:
    finish_three()
    figures = drawn("ofq.report.parts.claims")
    two = {"bits": ["w2a2"]}
    judged(
        holds=claim(**two, headline=True),
        fails=claim(**two, expect="below", headline=True),
        near=claim(**two, expect="equal", margin=5, headline=True),
        absent=claim(against={"variant": "d"}, headline=True),
        open=claim(bits=["w3a3"]),
    )
    (ax,) = figures["verdicts"].axes
    texts = [text.get_text() for text in ax.texts]
    verdicts = [re.fullmatch(r"(.*), p (<?0\.\d{3})", text) for text in texts[1::3][:3]]
    assert [found and found[1] for found in verdicts] == ["supported, n = 3", "contradicted, n = 3", "supported, n = 3"]
    assert texts[-1] == "untested, n = 0" and not any("undecided" in text for text in texts)
    assert texts[2].startswith("+2.00 [") and texts[2].endswith("] points")
    points = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert [line.get_color() for line in points] == [
        COLOURS[name] for name in ("supported", "contradicted", "supported")
    ]
    # The expected side: above 0, below 0, within the margin, which is this row's farthest end.
    sides = [part.get_paths()[0].get_extents() for part in ax.collections]
    assert [(round(side.x0, 2), round(side.x1, 2)) for side in sides] == [(0, 1.15), (-1.15, 0), (-1, 1)]


def test_a_row_says_where_only_the_correction_leaves_a_claim_undecided(judged: Judge) -> None:
    finish_all("a", {"w2a2": [92.0, 95.0, 93.0]})
    finish_all("b", {"w2a2": [90.0, 91.0, 90.0]})
    said = "its interval excludes 0, but p is corrected for all claims"
    one = claim(bits=["w2a2"])
    assert judged(one=one)["one"]["verdict"] == "supported" and said not in page()
    found = judged(one=one, two=one)
    assert {row["verdict"] for row in found.values()} == {"undecided"} and found["one"]["interval"][0] > 0
    assert page().count(said) == 2
    judged(one=claim(bits=["w2a2"], expect="equal", margin=4), two=one)
    assert page().count(said) == 1, "of an equality the interval says something else"


def test_a_study_has_a_scope_in_the_page_and_the_file(judged: Judge) -> None:
    finish_three()
    found = judged(holds=claim(bits=["w2a2"]))
    assert found["holds"]["scope"] is None and "**supported** on plain |" in page()
    content = yaml.safe_load(Path("claims.yaml").read_text()) | {"scopes": {"small": ["other"], "toy": ["plain"]}}
    Path("claims.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    write_claims(Grid(params(), "plain"))
    assert "**supported** on plain (toy)" in page()
    assert json.loads(Path("results/plain/report/claims.json").read_text())[0]["scope"] == "toy"


def test_each_width_stands_below_the_mean_and_a_disagreement_is_named(judged: Judge) -> None:
    finish_all("a", {"w2a2": [92.0, 93.1, 91.9], "w3a3": [90.0, 91.1, 90.1]})
    finish_all("b", {"w2a2": [90.0, 91.0, 90.0], "w3a3": [92.0, 93.0, 92.0]})
    finish_all("c", {"w2a2": [89.0, 90.0, 89.0], "w3a3": [87.0, 88.0, 87.0]})
    found = judged(opposed=claim(), agreed=claim(against={"variant": "c"}), single=claim(bits=["w2a2"]))
    opposed = found["opposed"]
    assert opposed["widths_disagree"] and not found["agreed"]["widths_disagree"]
    assert opposed["by_seed"] == pytest.approx({"0": 0.0, "1": 0.1, "2": 0.0})
    by_bits = {(part["model"], part["bits"]): part for part in opposed["by_bits"]}
    assert by_bits["vit", "w2a2"]["effect"] == pytest.approx(2.0) and by_bits["vit", "w3a3"]["effect"] < -1.9
    low, high = by_bits["vit", "w2a2"]["interval"]
    assert low + high == pytest.approx(4.0) and low == pytest.approx(2 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    text = page()
    assert "**undecided** on plain<br><sub>bit widths disagree</sub> |" in text and text.count("disagree</sub>") == 1
    assert "points<br><sub>w2a2 +2.00 [+1.75, +2.25]<br>w3a3 -1.93 [-2.08, -1.79]</sub> | 3 |" in text
    assert text.count("<br>w3a3 ") == 2


def test_one_seed_and_seeds_without_spread_are_undecided_and_nothing_is_nan(judged: Judge) -> None:
    finish(run("a", 0), top1=91.0)
    finish(run("b", 0), top1=90.0)
    one = judged(one=claim(bits=["w2a2"]))["one"]
    assert (one["verdict"], one["n"], one["effect"], one["interval"]) == ("undecided", 1, 1.0, None)
    finish(run("a", 1), top1=92.0)
    finish(run("b", 1), top1=91.0)
    alike = judged(alike=claim(bits=["w2a2"]))["alike"]
    assert (alike["verdict"], alike["n"], alike["interval"]) == ("undecided", 2, None)
    assert alike["p_adjusted"] is None and alike["seeds_to_decide"] is None
    assert "+1.00 (spread not known) points | 2 | – |" in page()
    assert "NaN" not in Path("results/plain/report/claims.json").read_text()


def test_the_page_names_study_images_model_seeds_and_what_was_corrected_for(judged: Judge) -> None:
    finish_three()
    judged(
        holds=claim(bits=["w2a2"], expect="below"), open=claim(bits=["w3a3"]), absent=claim(against={"variant": "d"})
    )
    text = page()
    assert text.startswith("# The papers' claims on plain\n\nThe test images of digits; model vit; seeds 0, 1, 2.")
    assert "Of 3 claims: 0 supported, 1 contradicted, 1 undecided, 1 untested." in text
    assert "Holm's correction for all 2 claims" in " ".join(text.split())
    assert "| **contradicted** on plain | " in text and "refutes nothing about ImageNet" in text
    assert "## How accurate" in text and "Nothing of it" not in text
    seeds = judged(open=claim(bits=["w3a3"]))["open"]["seeds_to_decide"]
    assert f"**undecided** on plain<br><sub>{seeds} seeds would decide</sub>" in page()
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_a_row_says_what_was_compared(judged: Judge) -> None:
    finish_three()
    judged(
        plain=claim(bits=["w2a2"]),
        gain=claim(of={"variant": "a", "over": "b"}, against={"variant": "c"}),
        teacher=claim(against={"teacher": True}, expect="equal", margin=0.5),
        layers=claim(measure="osc_share", of={"variant": "a", "layers": ["q", "k"]}, against={"layers": ["v"]}),
        widths=claim(of={"variant": "a", "bits": "w2a2"}, against={"bits": "w3a3"}, relative=True),
        noise=claim(measure="noise_top1", of={"variant": "a", "where": "boundary"}, against={"where": "random"}),
        number=claim(measure="gradient_turns", of={"variant": "a", "within": [0, 0.02]}, against={"value": 50}),
        measures=claim(measure="coupling", against={"measure": "coupling_other"}, expect="below"),
    )
    for said in (
        "top1 of a less that of b; w2a2; above 0 expected",
        "top1 of a over b less that of c over b; w2a2, w3a3; above 0 expected",
        "top1 of a less that of its teacher; w2a2, w3a3; within ±0.5 points expected",
        "osc_share of a (q, k) less that of a (v); w2a2, w3a3; above 0 expected",
        "top1 of a (w2a2) less that of a (w3a3), in percent of it; above 0 expected",
        "noise_top1 of a (noise near thresholds, all ranges) less that of a (noise anywhere, all ranges); w2a2, w3a3; above 0 expected",
        "gradient_turns of a (distance 0 to 0.02) less 50; w2a2, w3a3; above 0 expected",
        "coupling of a less coupling_other of a; w2a2, w3a3; below 0 expected",
    ):
        assert f"Tested: {said}</sub>" in page()


def test_a_row_says_what_a_curve_goes_through_and_how_many_runs_lie_outside(judged: Judge) -> None:
    for seed in range(3):
        for name, width in (("a", 9.0 if seed == 2 else 2.0), ("b", 1.0), ("c", 3.0)):
            finish(run(name, seed), reversals=5.0 - width + seed * (name == "a"))
            write_parquet(run(name, seed), "oscillation.parquet", [{"step": 1, "group": "q", "weights": 1, "step_width": width}])  # fmt: skip
    found = judged(wide=claim(measure="reversals", bits=["w2a2"], against={"curve": ["b", "c"]}))["wide"]
    assert found["by_seed"] == {"0": 0.0, "1": 1.0} and list(found) == [*KEYS, "outside_the_curve"]
    assert found["outside_the_curve"] == [str(run("a", 2))]
    row = next(line for line in page().splitlines() if "a is more accurate" in line)
    assert "reversals of a less that of the curve through b, c at its own width" in row
    assert "steps lie outside the curve: 1<" in row


def test_a_mistyped_layer_stands_on_the_page_and_is_printed_with_the_nearest_right_one(
    judged: Judge, capsys: pytest.CaptureFixture[str]
) -> None:
    finish_three()
    for seed in range(3):
        rows = [{"step": 1, "group": group, "weights": 10, "share": 1.0, "reversals": 1.0} for group in ("fc1", "proj")]
        write_parquet(run("a", seed), "oscillation.parquet", rows)
    of = {"variant": "a", "layers": ["fc1"]}
    found = judged(
        typo=claim(measure="osc_share", bits=["w2a2"], of=of, against={"layers": ["prog"]}), holds=claim(bits=["w2a2"])
    )
    assert {name: row["verdict"] for name, row in found.items()} == {"typo": "untested", "holds": "supported"}
    said = f"unknown layers in {run('a', 0).files.oscillation}: 'prog'; did you mean 'proj'?"
    assert f"**untested** on plain<br><sub>{said}</sub> |" in page()
    assert capsys.readouterr().out.splitlines()[1:] == [f"typo: {said}"]


def test_only_what_a_claim_needs_is_read(judged: Judge) -> None:
    finish_three()
    for one in Grid(params(), "plain").runs:
        if one.variant != "c":
            (one.files.root / "oscillation.parquet").write_bytes(b"damaged")
    assert judged(holds=claim(bits=["w2a2"]))["holds"]["n"] == 3


def test_the_report_of_claims_does_not_import_torch() -> None:
    code = "import sys, ofq.report.parts.claims; print([n for n in ('torch', 'timm', 'mlflow') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
