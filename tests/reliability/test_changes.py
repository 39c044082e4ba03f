"""Changed settings, inputs or code start clean and keep what was saved; unchanged ones go on; both are written down."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from ofq.config.resolve import Keeping, resolve
from ofq.errors import UserError
from ofq.runs import states
from ofq.training import job as session_module
from tests.reliability.conftest import STEPS, run_of, train
from tests.reliability.test_resume import contents, train_until

RUN = run_of("statsq")


@pytest.fixture
def stopped(here: Path) -> states.State:
    """A state of the run, stopped after 5 of its steps; and the undisturbed results."""
    assert train_until(RUN, 4, signal.SIGTERM, save_every=100) == 3
    (state,) = states.of_run(RUN.state(""))
    assert state.step == 5
    yield state
    for found in states.of_run(RUN.state("")):
        states.drop(found.directory)
    train(RUN)


def other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "code_digest", lambda *modules: "0123456789abcdef")


def info() -> dict[str, object]:
    return json.loads(RUN.files.info.read_text())


def test_other_code_starts_in_a_new_directory_says_so_and_keeps_the_old_state(
    stopped: states.State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = contents(RUN)
    other_code(monkeypatch)
    train(RUN)
    out = capsys.readouterr().err
    assert f"{RUN}: code changed since step 5 was saved; starting from the first step in runs/{RUN}/" in out
    assert f"the earlier state stays in {stopped.directory}; to go on from it: --resume-across-code" in out
    assert "resumed" not in out
    assert stopped.step == 5 and info()["history"] == [] and "resumed_after" not in info()
    assert contents(RUN) == undisturbed, "the same computation, from the start"


@pytest.mark.parametrize(
    "keeping", [Keeping(resume_across_code=True), Keeping(rerun_on_code=False)], ids=["flag", "study"]
)
def test_going_on_under_other_code_is_a_choice_that_the_run_records(
    stopped: states.State, keeping: Keeping, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = stopped.origin.code
    undisturbed = contents(RUN)
    other_code(monkeypatch)
    train(RUN, keeping)
    out = capsys.readouterr().err
    assert "going on under other code than made the first 5 steps" in out and "resumed after step 5" in out
    assert contents(RUN) == undisturbed
    noted = info()
    assert noted["resume_across_code"] == keeping.resume_across_code
    assert noted["rerun_on_code"] == keeping.rerun_on_code
    assert noted["digests"]["code"] == "0123456789abcdef"
    (before,) = noted["history"]
    assert before["code"] == code and before["until_step"] == noted["resumed_after"] == 5
    assert "torch" in before["versions"]
    assert stopped.step == 5, "the old state is kept"


def test_the_record_of_earlier_code_outlives_a_further_stop(
    stopped: states.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_code(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("tests.reliability.test_resume.train", lambda run: train(run, Keeping(resume_across_code=True)))
        assert train_until(RUN, 8, signal.SIGTERM, save_every=100) == 3
    train(RUN)
    assert [entry["until_step"] for entry in info()["history"]] == [5]


def test_other_versions_of_the_libraries_are_said_and_recorded(
    stopped: states.State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "versions", lambda: {"torch": "99"})
    train(RUN)
    assert "going on under other versions of libraries than made the first 5 steps" in capsys.readouterr().err
    assert len(info()["history"]) == 1


def test_changed_settings_start_clean_and_the_old_ones_go_on_later(
    stopped: states.State, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = contents(RUN)
    path = Path("params.yaml")
    text = path.read_text()
    content = yaml.safe_load(text)
    content["recipes"]["digits"]["qat"]["lr"] = 1e-3
    path.write_text(yaml.safe_dump(content))
    try:
        train(RUN, Keeping(resume_across_code=True))
        out = capsys.readouterr().err
        assert "settings changed since step 5 was saved; starting from the first step" in out
        assert "--resume-across-code" not in out, "other settings are never continued"
        assert contents(RUN) != undisturbed
    finally:
        path.write_text(text)
    train(RUN)
    assert "resumed after step 5" in capsys.readouterr().err
    assert contents(RUN) == undisturbed


def test_a_changed_input_starts_clean(
    stopped: states.State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session_module, "file_digest", lambda path: "0" * 64)
    train(RUN, Keeping(resume_across_code=True))
    out = capsys.readouterr().err
    assert "inputs changed since step 5 was saved" in out and "--resume-across-code" not in out


def test_a_damaged_note_of_a_state_is_no_reason_to_go_on_from_it(
    stopped: states.State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (stopped.directory / "state.json").write_text("{")
    other_code(monkeypatch)
    train(RUN, Keeping(resume_across_code=True))
    assert "resumed" not in capsys.readouterr().err
    (stopped.directory / "state.json").unlink()


@pytest.mark.parametrize("text", ["digits/vit_micro/w2a2/statsk/seed0", "digits/vit_micro/w2a2/statsq/seed", "statsq"])
def test_a_mistyped_run_is_an_error_and_never_a_fresh_start(here: Path, text: str) -> None:
    from ofq.cli import main as cli

    before = sorted(Path().rglob("*"))
    assert cli.main(["qat", text]) == 2
    assert sorted(Path().rglob("*")) == before, "nothing was made"


def test_a_missing_input_is_an_error_and_never_a_fresh_start(here: Path) -> None:
    from ofq.config.params import load
    from ofq.training.qat import run_qat

    with pytest.raises(UserError, match=r"teacher/seed3/model\.safetensors does not exist; make it with: snakemake"):
        run = type(RUN)(RUN.study, RUN.model, RUN.bits, RUN.variant, 3)
        run_qat(run, resolve(load(), run))
    assert STEPS == 12 and not run.state("").exists()
