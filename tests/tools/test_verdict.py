"""The drill's verdict: what differs, what is left to do or left behind, and how it is told."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tools.conftest import STATSQ, finished
from tools.drill.course import Strike
from tools.drill.observe import RunFolder
from tools.drill.plan import Kill
from tools.drill.study import Copy
from tools.drill.verdict import Comparison, compare, comparison_table, strike_table


def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two equal projects, and the run's folder in the second."""
    left, right = tmp_path / "undisturbed", tmp_path / "disturbed"
    finished(left)
    return left, right, finished(right)


def test_equal_files_are_equal_whatever_run_json_says(tmp_path: Path) -> None:
    left, right, _ = pair(tmp_path)
    comparison = compare(left, right)
    assert comparison.equal
    assert comparison.names == [
        "drill/report/tables/main.csv",
        *(f"{STATSQ}/{name}" for name in ("model.safetensors", "trainer.pt")),
    ]
    assert [line.split() for line in comparison_table(comparison).splitlines()] == [
        ["files"],
        ["report", "1", "equal"],
        ["w2a2", "statsq", "s0", "2", "equal"],
    ]


def test_one_bit_is_a_difference(tmp_path: Path) -> None:
    left, right, folder = pair(tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    comparison = compare(left, right)
    assert not comparison.equal and comparison.different == [f"{STATSQ}/model.safetensors"]
    assert "w2a2 statsq s0  2      different: model.safetensors" in comparison_table(comparison)


@pytest.mark.parametrize("side", [0, 1])
def test_a_file_that_is_in_one_only_is_a_difference(tmp_path: Path, side: int) -> None:
    roots = pair(tmp_path)[:2]
    (roots[side] / "results/drill/report/tables/main.csv").unlink()
    comparison = compare(*roots)
    assert not comparison.equal and comparison.missing == ["drill/report/tables/main.csv"]
    assert "report          1      only in one: tables/main.csv" in comparison_table(comparison)


def test_nothing_to_compare_is_not_equality(tmp_path: Path) -> None:
    assert not compare(tmp_path / "a", tmp_path / "b").equal
    assert not Comparison([], [], []).equal


HEAD = "output_file\tdate\trule\tlog-file(s)\tstatus\tplan"
KNOWN = "results/drill/data/manifest.json\tnow\tdata\tlogs/drill/data.log\tok\tno update"
UNKNOWN = "results/drill/report/main.csv\tnow\t-\t-\tok\tno update"


@pytest.mark.parametrize(
    ("plan", "summary", "problems"),
    [
        ("Nothing to be done.", [HEAD, KNOWN], []),
        ("job count\ntables 1", [HEAD, KNOWN], ["snakemake -n still plans something: job count | tables 1"]),
        (
            "Nothing to be done.",
            [HEAD, KNOWN, UNKNOWN],
            ["snakemake does not know what made results/drill/report/main.csv"],
        ),
        ("Nothing to be done.", [], ["snakemake --summary knows no file"]),
    ],
)
def test_jobs_to_do_and_files_of_unknown_origin_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, summary: list[str], problems: list[str]
) -> None:
    def snakemake(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 0, plan if command[1] == "-n" else "\n".join(summary), "")

    monkeypatch.setattr(subprocess, "run", snakemake)
    assert list(Copy(tmp_path, "mine").problems()) == problems


def test_state_and_temporary_files_of_a_finished_study_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_behind() -> list[str]:
        return [problem for problem in Copy(tmp_path, "mine").problems() if problem.startswith("left behind")]

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    finished(tmp_path)
    state = tmp_path / "runs" / str(STATSQ) / "abc"
    state.mkdir(parents=True)
    assert left_behind() == [], "an empty folder is none"
    (state / "events.jsonl").touch()
    (tmp_path / "results" / str(STATSQ) / ".tmp-model-x").touch()
    assert left_behind() == [
        f"left behind: runs/{STATSQ}/abc/events.jsonl",
        f"left behind: results/{STATSQ}/.tmp-model-x",
    ]


def test_what_a_run_is_doing_is_read_from_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, STATSQ, 400)
    assert folder.doing() == "starting"
    state = tmp_path / "runs" / str(STATSQ) / "abc"
    state.mkdir(parents=True)
    (state / "checkpoint-000000131.pt").touch()
    assert folder.doing() == "training, step 131 of 400 saved"
    (state / ".tmp-checkpoint-000000140-x.pt").touch()
    assert folder.doing() == "writing state, step 131 saved"
    results = tmp_path / "results" / str(STATSQ)
    results.mkdir(parents=True)
    (results / ".tmp-model-x").touch()
    assert folder.doing() == "publishing"
    log = tmp_path / "logs" / f"{STATSQ}.log"
    log.parent.mkdir(parents=True)
    log.write_text("")
    assert folder.went_on(0) == ""
    log.write_text("w2a2 statsq s0  resumed after step 131\n")
    assert folder.went_on(0) == "resumed after step 131"
    earlier = folder.log_size
    assert folder.went_on(earlier) == "", "the log is of an earlier process"
    log.write_text(f"{log.read_text()}w2a2 statsq s0   step  10/400  loss  1.0\n")
    assert folder.went_on(earlier) == "began at the start"


def test_the_moments_of_a_run_are_read_from_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, STATSQ, 400)
    state, results = tmp_path / "runs" / str(STATSQ) / "abc", tmp_path / "results" / str(STATSQ)
    state.mkdir(parents=True)
    results.mkdir(parents=True)
    assert not folder.has_reached("training", 0.0)
    (state / ".tmp-checkpoint-000000200-x.pt").touch()
    assert folder.has_reached("checkpoint", 0.0) and not folder.has_reached("checkpoint", 0.5)
    (state / ".tmp-checkpoint-000000200-x.pt").rename(state / "checkpoint-000000200.pt")
    assert folder.has_reached("training", 0.5) and not folder.has_reached("training", 0.6)
    assert not folder.has_reached("checkpoint", 0.5)
    (results / "model.safetensors").touch()
    assert not folder.has_reached("publishing", 0.0)
    (results / ".tmp-trainer-x.pt").touch()
    assert folder.has_reached("publishing", 1 / 8) and not folder.has_reached("publishing", 0.5)


def test_a_finished_run_is_removed_as_a_user_would(tmp_path: Path) -> None:
    results = finished(tmp_path)
    (results / ".tmp-model-x").touch()
    manifest = tmp_path / "results/drill/data/manifest.json"
    manifest.parent.mkdir()
    manifest.touch()
    Copy(tmp_path, "mine").remove(STATSQ, data=False)
    assert [path.name for path in results.iterdir()] == [".tmp-model-x"], "what a kill left behind stays to be found"
    Copy(tmp_path, "mine").remove(STATSQ, data=True)
    assert not manifest.exists()


def test_the_table_has_a_row_for_each_kill() -> None:
    kill = Kill("training", "trainer", signal.SIGKILL, STATSQ, 0.3)
    strike = Strike(kill, 12.34, "trainer w2a2 statsq s0", "training, step 131 of 400 saved", "ended with 1")
    strike.went_on = "resumed after step 131"
    head, row = strike_table([strike]).splitlines()
    assert head.split() == ["second", "victim", "signal", "in", "the", "middle", "of", "what", "came", "after"]
    assert row == (
        "1  12.3    trainer w2a2 statsq s0  SIGKILL  training, step 131 of 400 saved"
        "  snakemake ended with 1, resumed after step 131"
    )
