"""A checkpoint is whole or absent, whatever happens while it is written."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ofq.errors import UserError
from ofq.runs import checkpoint, files, states
from ofq.runs.checkpoint import Checkpoints, Maker
from tests.conftest import ROOT
from tests.reliability.test_resume import in_child

MAKER = Maker("c0de", {"torch": "1"})


def state(step: int, size: int = 1000) -> dict[str, object]:
    """A state that shows whether it is whole: each of its values is the step."""
    return {"step": step, "weights": torch.full((size,), float(step)), "again": torch.full((size,), float(step))}


def whole(found: dict[str, object] | None) -> int:
    """The step of a state that is whole; 0 for none."""
    if found is None:
        return 0
    step = found["step"]
    assert isinstance(step, int)
    for name in ("weights", "again"):
        assert torch.equal(found[name], torch.full_like(found[name], float(step)))  # type: ignore[arg-type,call-overload]
    return step


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_latest_two_are_kept_each_with_its_checksum(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, state(step))
    assert names(tmp_path) == [f"checkpoint-0000000{step}.{end}" for step in (20, 30) for end in ("pt", "sha256")]
    done = subprocess.run(["sha256sum", "checkpoint-000000030.pt"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split()[0] == (tmp_path / "checkpoint-000000030.sha256").read_text()


def test_a_persons_copy_of_a_checkpoint_stays_and_is_no_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    checkpoint.save(directory, 10, state(10))
    for copy in ("checkpoint-000000010-mine.pt", "checkpoint-best.pt", "checkpoint-000000010.pt.bak"):
        shutil.copy(directory / "checkpoint-000000010.pt", directory / copy)
    for step in (20, 30, 40):
        checkpoint.save(directory, step, state(step))
    own = [f"checkpoint-0000000{step}.{end}" for step in (30, 40) for end in ("pt", "sha256")]
    mine = ["checkpoint-000000010-mine.pt", "checkpoint-000000010.pt.bak", "checkpoint-best.pt"]
    assert names(directory) == sorted([*own, *mine])
    assert whole(checkpoint.load_latest(directory)) == 40
    states.drop(directory)
    assert names(directory) == mine
    for name in mine:
        (directory / name).unlink()
    states.drop(directory)
    assert not directory.exists()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "its end missing": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "nothing in it": lambda path: path.write_bytes(b""),
    "no checksum": lambda path: path.with_suffix(".sha256").unlink(),
    "no trainer state, but a right checksum": lambda path: (
        path.write_bytes(b"text"),
        path.with_suffix(".sha256").write_text(checkpoint.file_digest(path)),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, state(step))
    DAMAGE[damage](tmp_path / "checkpoint-000000030.pt")
    assert whole(checkpoint.load_latest(tmp_path)) == 20
    assert caplog.messages == [
        f"{tmp_path}/checkpoint-000000030.pt is damaged and passed over",
        f"going on from {tmp_path}/checkpoint-000000020.pt, the one before",
    ]


def test_where_all_are_damaged_that_is_said_and_none_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, state(step))
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    assert checkpoint.load_latest(tmp_path) is None
    assert caplog.text.count("is damaged and passed over") == 2
    assert checkpoint.load_latest(tmp_path / "nowhere") is None


def test_a_damaged_one_takes_no_place_of_the_two(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, state(step))
    (tmp_path / "checkpoint-000000030.pt").write_bytes(b"")
    checkpoint.save(tmp_path, 25, state(25))
    assert [path.name for path in sorted(tmp_path.glob("*.pt"))] == [
        "checkpoint-000000020.pt",
        "checkpoint-000000025.pt",
    ]


def test_a_process_that_dies_at_any_file_operation_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at the n-th call that changes the disk, for every n: what a power failure between two writes
    leaves, where everything that was flushed is there."""
    calls = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink"), (Path, "replace"), (Path, "unlink")]
    calls += [(Path, "write_bytes")]
    reached = []
    for last in range(1, 100):
        directory = tmp_path / str(last)
        for step in (10, 20):
            checkpoint.save(directory, step, state(step))

        def work(last: int = last, directory: Path = directory) -> None:
            done = 0
            for owner, name in calls:
                original = getattr(owner, name)

                def counted(*arguments: object, original: Callable[..., object] = original, **named: object) -> object:
                    nonlocal done
                    done += 1
                    if done == last:
                        os._exit(7)
                    return original(*arguments, **named)

                setattr(owner, name, counted)
            checkpoint.save(directory, 30, state(30))

        code = in_child(work)
        reached.append(whole(checkpoint.load_latest(directory)))
        if code == 0:
            break
        assert code == 7
    assert reached[0] == 20 and reached[-1] == 30 and reached == sorted(reached)
    assert len(reached) > 8
    files.remove_unfinished(directory)
    assert len(names(directory)) == 4


def test_a_file_reaches_the_disk_before_its_name_and_the_name_before_all_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        happened.append("sync " + Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        assert self.parent == target.parent, "a rename is atomic inside one file system only"
        happened.append("rename to " + target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    checkpoint.save(tmp_path, 10, state(10))
    expected = []
    for name in ("checkpoint-000000010.sha256", "checkpoint-000000010.pt"):
        expected += ["sync temporary", f"rename to {name}", f"sync {tmp_path.name}"]
    assert ["sync temporary" if "sync .tmp-" in event else event for event in happened] == expected


def test_killed_while_it_writes_the_latest_whole_one_is_found(tmp_path: Path) -> None:
    rng = random.Random(0)

    def work() -> None:
        torch.set_num_threads(1)  # a forked process has no other threads
        for step in range(1 + whole(checkpoint.load_latest(tmp_path)), 10_000):
            checkpoint.save(tmp_path, step, state(step, size=200_000))

    def wait_for(pattern: str) -> None:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.001)

    last, interrupted = 0, 0
    for _ in range(15):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(1)
        wait_for(f"checkpoint-{last + 2:09d}.pt")
        wait_for(".tmp-*")
        time.sleep(rng.choice([0, 0.001, 0.01]))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        interrupted += bool(list(tmp_path.glob(".tmp-*")))
        files.remove_unfinished(tmp_path)
        found = whole(checkpoint.load_latest(tmp_path))
        assert found >= last + 2
        last = found
    assert interrupted > 0, "some were killed in the middle of a write"


def test_an_object_that_fails_in_mid_write_leaves_the_earlier_ones(tmp_path: Path) -> None:
    class Breaks:
        def __reduce__(self) -> tuple[object, ...]:
            raise ValueError("broke in mid-write")

    for step in (10, 20):
        checkpoint.save(tmp_path, step, state(step))
    before = names(tmp_path)
    with pytest.raises(ValueError, match="mid-write"):
        checkpoint.save(tmp_path, 30, {**state(30), "more": Breaks()})
    assert names(tmp_path) == before
    assert whole(checkpoint.load_latest(tmp_path)) == 20


def test_a_write_that_fails_keeps_the_earlier_ones_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, state(step))
    before = names(tmp_path)
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, bytes(content)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; .* what was there before is kept"):
        checkpoint.save(tmp_path, 30, state(30))
    assert names(tmp_path) == before
    assert whole(checkpoint.load_latest(tmp_path)) == 20


FULL_DISK = """
import sys
from pathlib import Path
from ofq.errors import UserError
from ofq.runs import checkpoint
from tests.reliability.test_checkpoints import state, whole

directory = Path(sys.argv[1])
checkpoint.save(directory, 10, state(10, size=20_000))
checkpoint.save(directory, 20, state(20, size=20_000))
try:
    checkpoint.save(directory, 30, state(30, size=200_000))
except UserError as error:
    print(error)
print(whole(checkpoint.load_latest(directory)), sorted(path.suffix for path in directory.iterdir()))
"""


def test_on_a_full_disk_the_earlier_ones_stay(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace here; the same is tried with a write that fails")
    command = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", str(tmp_path), sys.executable, textwrap.dedent(FULL_DISK)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert "checkpoint-000000030.pt: No space left on device; free some space" in message
    assert message.endswith("what was there before is kept")
    assert left == "20 ['.pt', '.pt', '.sha256', '.sha256']", "nothing half-written is left"


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoints = Checkpoints(tmp_path, MAKER, seconds=30.0)
    assert not checkpoints.due()
    now = 31.0
    assert checkpoints.due()

    def slow(*_: object) -> None:
        nonlocal now
        now += 2.0

    monkeypatch.setattr(checkpoint, "save", slow)
    checkpoints.save(1, {})
    now += 99.0
    assert not checkpoints.due(), "two seconds of saving in a hundred"
    now += 2.0
    assert checkpoints.due()
