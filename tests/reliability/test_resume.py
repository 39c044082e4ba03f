"""A run that was stopped, whenever and however, ends as one that was not: to the last bit."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ofq.environment import UNDER_SNAKEMAKE
from ofq.remedies import ConfidenceGuidedAnnealing
from ofq.runs.checkpoint import Checkpoints
from ofq.runs.paths import STATE, Run
from ofq.training import loop
from tests.reliability.conftest import DROPOUT, EPOCH, STEPS, VARIANTS, run_of, train

# Steps that were finished when the signal came, and the signal. 5 and 10 are epoch borders.
CUTS = [
    (1, signal.SIGTERM),
    (3, signal.SIGKILL),
    (EPOCH, signal.SIGINT),
    (EPOCH + 1, signal.SIGKILL),
    (2 * EPOCH, signal.SIGKILL),
    (STEPS - 1, signal.SIGHUP),
]
RUNS = [run_of(variant) for variant in ("teacher", *VARIANTS)] + [run_of("statsq-qkr", DROPOUT)]


def contents(run: Run) -> dict[str, bytes]:
    """All that the run published, but for ``run.json``."""
    files = [*run.files.published, *([run.files.annealing] if run.files.annealing.exists() else [])]
    return {path.name: path.read_bytes() for path in files if path != run.files.info}


def in_child(work: Callable[[], None]) -> int:
    """Do something in a forked process, which a signal may end; its exit status as subprocess counts."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except loop.Stopped:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_until(run: Run, step: int, signum: int, *, save_every: int) -> int:
    """Train in a process of its own that sends itself a signal when some steps are finished."""

    def work() -> None:
        if signum != signal.SIGKILL:  # a shell's background job ignores Ctrl-C, and so would this process
            signal.signal(signum, signal.SIG_DFL)
        make, saves = loop.make_schedule, 0

        def due(self: Checkpoints) -> bool:
            nonlocal saves
            saves += 1
            return saves % save_every == 0

        def make_schedule(*arguments: object) -> object:
            schedule = make(*arguments)  # type: ignore[arg-type]
            update = schedule.step_update

            def step_update(number: int) -> None:
                if number == step:
                    os.kill(os.getpid(), signum)
                update(number)

            schedule.step_update = step_update  # type: ignore[method-assign]
            return schedule

        loop.make_schedule = make_schedule  # type: ignore[assignment]
        Checkpoints.due = due  # type: ignore[method-assign]
        train(run)

    return in_child(work)


def check_killed(run: Run, *steps: int, save_every: int = 1) -> None:
    """A finished run that is trained again, and killed after a step, goes on and ends with the bytes that it had."""
    undisturbed = contents(run)
    for step in steps:
        assert train_until(run, step, signal.SIGKILL, save_every=save_every) == -signal.SIGKILL
        train(run)
        assert contents(run) == undisturbed


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.model}-{run.variant}")
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masks: list[str] = []
    after_update = ConfidenceGuidedAnnealing.after_update

    def noted(self: ConfidenceGuidedAnnealing, lr: float) -> None:
        masks.append(hashlib.sha256(b"".join(mask.numpy().tobytes() for mask in self._frozen)).hexdigest())
        after_update(self, lr)

    monkeypatch.setattr(ConfidenceGuidedAnnealing, "after_update", noted)
    undisturbed = contents(run)
    train(run)
    assert contents(run) == undisturbed
    all_masks, masks = list(masks), []
    for step, signum in CUTS:
        code = train_until(run, step, signum, save_every=2)
        assert code == (-signal.SIGKILL if signum == signal.SIGKILL else 3)
        assert contents(run) == undisturbed, "a stopped run publishes nothing"
        masks.clear()
        capsys.readouterr()
        train(run)
        # A killed run had saved after every second step; one that was told to stop finished its step and saved it.
        saved = step // 2 * 2 if signum == signal.SIGKILL else step + 1
        assert f"resumed after step {saved}" in capsys.readouterr().err
        after = contents(run)
        assert [name for name in undisturbed if after[name] != undisturbed[name]] == []
        assert masks == all_masks[saved:], "the same weights were free at every step"


def test_a_run_that_was_killed_again_and_again_ends_as_one_that_was_not(here: Path) -> None:
    run = run_of("statsq-qkr")
    undisturbed = contents(run)
    for step in (1, 2, 3, 5, 6, 8, 9, 11):
        assert train_until(run, step, signal.SIGKILL, save_every=1) == -signal.SIGKILL
    train(run)
    assert contents(run) == undisturbed


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(here: Path) -> None:
    run = run_of("lsq")
    undisturbed = contents(run)
    assert train_until(run, STEPS - 1, signal.SIGKILL, save_every=100) == -signal.SIGKILL
    assert len(next(STATE.rglob("events.jsonl")).read_text().splitlines()) > 2
    train(run)
    assert contents(run) == undisturbed, "no step stands in the log twice"


def test_a_run_that_could_not_publish_goes_on_from_its_last_step(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("statsq")
    undisturbed = contents(run)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ofq.training.publish.write_bytes", fail)
        with pytest.raises(OSError, match="No space"):
            train(run)
    capsys.readouterr()
    train(run)
    assert f"resumed after step {STEPS}" in capsys.readouterr().err
    assert contents(run) == undisturbed
    assert not list(STATE.rglob("*.pt"))


def test_under_snakemake_the_state_stays_until_the_job_is_known_to_have_ended(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ofq.runs import states

    run = run_of("lsq")
    undisturbed = contents(run)
    monkeypatch.setenv(UNDER_SNAKEMAKE, "1")
    train(run)
    for path in run.files.published:  # Snakemake was killed at this moment, and deletes what an unfinished job wrote
        path.unlink()
    states.drop_finished()
    assert states.of_run(run.state("")), "without its results a state is not finished with"
    train(run)
    assert contents(run) == undisturbed
    states.drop_finished()
    assert not states.of_run(run.state(""))
