"""The toy in the pipeline: what its file holds, what the page and the caption say of it, and its picture."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from ofq.errors import UserError
from ofq.measure.toy import LR, OTHERS, STEP, TARGET, compare, write_trace
from ofq.report.parts.toy import write_toy
from tests.docs.pages import explained

TRACE, PICTURE, DRAWING = (Path("results/toy") / name for name in ("trace.csv", "toy.png", "toy.svg"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_trace()
    return root


@pytest.fixture
def here(written: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(written)
    return pd.read_csv(TRACE)


def test_the_file_has_a_row_for_each_case_step_and_weight(here: pd.DataFrame) -> None:
    assert (
        list(here.columns) == explained("trace.csv") == ["case", "step", "weight", "latent", "value", "code", "scale"]
    )
    assert len(here) == 3 * 500 * 8 and not here.duplicated(["case", "step", "weight"]).any()
    for case, offset in (("fixed", 0.0), ("learned", 0.0), ("statistical", 0.5)):
        rows = here[here["case"] == case]
        assert (rows["value"] - rows["scale"] * (rows["code"] + offset)).abs().max() < 1e-9
    # From one row to the next each weight goes down its gradient.
    weight = here[(here["case"] == "statistical") & (here["weight"] == 3)]
    moved = weight["latent"].diff().dropna()
    assert (moved + LR * (weight["value"].shift()[1:] - OTHERS[2])).abs().max() < 1e-9


def test_latent_weight_and_step_swing_with_a_learned_step_and_no_less_with_a_statistical_one(
    here: pd.DataFrame,
) -> None:
    last = here[(here["weight"] == 0) & (here["step"] >= 400)].groupby("case")
    assert (last["code"].nunique() == 2).all()
    assert last["value"].mean().to_numpy() == pytest.approx(TARGET, abs=0.01)
    swing = last["scale"].std()
    assert swing["fixed"] == 0 and last["scale"].first()["fixed"] == STEP
    assert 0 < swing["learned"] < swing["statistical"]


def test_the_same_file_comes_out_again(here: pd.DataFrame) -> None:
    before = TRACE.read_bytes()
    write_trace()
    assert TRACE.read_bytes() == before


def test_the_steps_of_a_learned_quantizer_are_its_own(here: pd.DataFrame) -> None:
    learned = compare()["learned"]
    assert learned.scales.shape == (500, 1) and learned.weights.dtype == torch.float64
    in_file = here[here["case"] == "learned"]["scale"].to_numpy().reshape(500, 8)
    assert in_file[:, 5] == pytest.approx(learned.scales[:, 0].numpy(), rel=1e-9)


def test_the_picture_is_drawn_from_the_file_and_the_same_again(here: pd.DataFrame) -> None:
    write_toy()
    first = PICTURE.read_bytes(), DRAWING.read_bytes()
    assert first[0].startswith(b"\x89PNG") and b"results/toy/trace.csv" in first[1]
    write_toy()
    assert (PICTURE.read_bytes(), DRAWING.read_bytes()) == first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; make it with: snakemake"),
        ("case,step\nfixed,0\n", "is no trace of the toy"),
        ("case,step,weight,latent,value,code,scale\nlearned,0,0,x,1,0,1\n", "is no trace of the toy"),
        ("case,step,weight,latent,value,code,scale\nfixed,0,0,0,0,0,1\n", "has no case 'learned'"),
    ],
)
def test_a_trace_that_cannot_be_drawn_is_one_line(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        TRACE.parent.mkdir(parents=True)
        TRACE.write_text(text)
    with pytest.raises(UserError, match=message):
        write_toy()
    assert not PICTURE.exists()
