"""What measures a finished run (probe, noise) works on a copy of it."""

import contextlib
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ofq.cli import main as cli
from ofq.config import params
from ofq.config.resolve import resolve
from ofq.measure.noise import run_noise
from ofq.runs.paths import Run
from ofq.training import loop
from tests.conftest import Project
from tests.docs.pages import explained

RUN = "digits/vit_micro/w2a2/statsq-cga/seed0"
FILES = Path("results") / RUN


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One annealed run with all that it needs."""
    project = Project(tmp_path_factory.mktemp("probe"))
    done = project.run("snakemake", f"{FILES}/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def content(root: Path) -> dict[Path, str]:
    """Digests of all results but those of probes and of noise."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(("probe", "noise")))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def probe(project: Project, *arguments: str) -> int:
    """Exit code of ``python -m ofq probe``, in this process: another one would import torch first."""
    with contextlib.chdir(project.root):
        return cli.main(["probe", *arguments])


@pytest.fixture(scope="module")
def probed(finished: Project) -> Project:
    """A short window was measured twice; what the run had published is as it was."""
    before = content(finished.root / "results")
    texts = []
    for _ in range(2):
        assert probe(finished, RUN, "--steps", "24") == 0
        texts.append((finished.root / FILES / "probe-24.json").read_text())
    assert content(finished.root / "results") == before
    assert texts[0] == texts[1], "the same checkpoint gives the same numbers"
    return finished


def test_a_probe_gives_shares_and_reversals_by_group(probed: Project) -> None:
    summary = json.loads((probed.root / FILES / "probe-24.json").read_text())
    assert summary["run"] == RUN and summary["steps"] == 24
    assert summary["lr"] == 1e-4, "the last rate of the run"
    assert set(summary["groups"]) == {"q", "k", "v", "proj", "fc1", "fc2"}
    assert sum(group["weights"] for group in summary["groups"].values()) == summary["all"]["weights"]
    record = pd.read_parquet(probed.root / FILES / "probe-24.parquet")
    assert list(record["step"].unique()) == list(range(0, 25, 2))
    last = record[record["step"] == 24]
    for column in ("share", "share_high", "reversals"):
        mean = (last[column] * last["weights"]).sum() / last["weights"].sum()
        assert summary["all"][column] == pytest.approx(mean)
    assert (last["share_high"] <= last["share"]).all()
    metrics = json.loads((probed.root / FILES / "metrics.json").read_text())
    assert summary["at_the_end_of_the_run"]["reversals"] == pytest.approx(metrics["reversals"])


def test_a_probe_tells_of_thresholds_and_of_query_and_key(probed: Project) -> None:
    summary = json.loads((probed.root / FILES / "probe-24.json").read_text())
    weights, boundary = summary["all"]["weights"], summary["boundary"]
    assert boundary["left"] == [round(0.02 * i, 2) for i in range(25)]
    assert sum(boundary["weight_steps"]) == 24 * weights
    assert sum(boundary["reversals"]) == pytest.approx(summary["all"]["reversals"] * weights)
    assert 0 < sum(boundary["gradient_turns"]) <= 23 * weights
    band = summary["band"]
    assert band["range"] == 0.005 and band["weights"] == weights
    assert 0 <= band["both"] <= min(band["start"], band["end"]) < weights / 10
    assert summary["coupling_codes"] == "own"
    assert [(entry["block"], entry["head"]) for entry in summary["coupling"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for side in "qk":
        reversals = sum(entry[side] * entry["steps"] for entry in summary["coupling"])
        assert reversals == pytest.approx(summary["groups"][side]["reversals"] * summary["groups"][side]["weights"])
    keys = {"block", "head", "steps", "q", "k", "same", "other", "chance"}
    assert all(set(entry) == keys for entry in summary["coupling"])
    assert explained("probe.json") == list(summary)


def test_a_probe_leaves_no_state_behind(probed: Project) -> None:
    assert not [path for path in (probed.root / "runs").rglob("*") if path.is_file()]


def test_in_a_probe_nothing_is_annealed(probed: Project) -> None:
    """Annealing holds nearly every weight still, so that codes hardly turn round; in the window all are free."""
    summary = json.loads((probed.root / FILES / "probe-24.json").read_text())
    assert summary["all"]["reversals"] > summary["at_the_end_of_the_run"]["reversals"]


def test_an_interrupted_probe_keeps_its_state_apart_and_goes_on(
    probed: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> tuple[float, float]:
        signal.raise_signal(signal.SIGTERM)
        return loop_evaluate(*arguments)

    loop_evaluate = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert probe(probed, RUN, "--steps", "12") == 128 + signal.SIGTERM
    state = probed.root / "runs" / RUN
    assert list(state.glob("probe/*/checkpoint-*.pt"))
    assert not list(state.glob("*/events.jsonl")), "where the log of the run itself would be looked for"
    monkeypatch.undo()
    assert probe(probed, RUN, "--steps", "12") == 0
    assert "resumed after step 1" in capsys.readouterr().err
    assert not list(state.glob("probe/*"))
    interrupted_once = (probed.root / FILES / "probe-12.json").read_text()
    assert probe(probed, RUN, "--steps", "12") == 0
    assert (probed.root / FILES / "probe-12.json").read_text() == interrupted_once


def test_the_target_of_a_probe_asks_for_no_training(finished: Project) -> None:
    assert finished.plan(f"{FILES}/probe.json") == {"probe": 1}


def test_noise_starts_from_the_finished_model_and_leaves_it_alone(finished: Project) -> None:
    before, contents = content(finished.root / "results"), []
    for _ in range(2):
        with contextlib.chdir(finished.root):
            run_noise(Run.named(RUN), resolve(params.load(), Run.named(RUN)), trials=2)
        contents.append((finished.root / FILES / "noise.parquet").read_bytes())
    assert contents[0] == contents[1] and content(finished.root / "results") == before
    assert not [path for path in (finished.root / "runs" / RUN).rglob("noise/*") if path.is_file()]
    table = pd.read_parquet(finished.root / FILES / "noise.parquet")
    metrics = json.loads((finished.root / FILES / "metrics.json").read_text())
    assert explained("noise.parquet") == list(table)
    assert table["where"].tolist() == ["none", *["boundary"] * 2, *["random"] * 2, *["boundary"] * 2, *["random"] * 2]
    assert dict(table.loc[0, ["top1", "loss"]]) == {name: metrics[name] for name in ("top1", "loss")}
    assert (table["loss"][1:] != metrics["loss"]).any()


def test_the_targets_of_noise_and_of_the_toy_ask_for_no_training(finished: Project) -> None:
    (finished.root / FILES / "noise.parquet").unlink(missing_ok=True)
    assert finished.plan(f"{FILES}/noise.parquet") == {"noise": 1}
    assert finished.plan("results/toy/toy.png") == {"toy": 1, "toy_figure": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits/vit_micro/fp/teacher/seed0",), "has no codes that could oscillate"),
        ((RUN, "--steps", "0"), "at least 1 step"),
        (("digits/vit_micro/w2a2/lsq/seed1",), "does not exist; make it with: snakemake"),
        (("statsq",), "names no run"),
    ],
)
def test_mistakes_are_one_line(
    finished: Project, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(finished, *arguments) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1
