"""Files from elsewhere are data: whatever stands in them, no code of theirs runs, and what is wrong is one line."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from ofq.cli import main as cli
from ofq.errors import UserError
from ofq.models.weights import load_weights
from ofq.runs import checkpoint
from tests.reliability.conftest import run_of


class Malicious:
    """Unpickled carelessly, it makes a file named ``owned`` in the working directory."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("owned"),))


@pytest.fixture
def kept(here: Path) -> Iterator[Callable[[Path], Path]]:
    """Remembers a file and puts it back; nothing that a test put in its place may have run."""
    saved: dict[Path, bytes] = {}

    def keep(path: Path) -> Path:
        saved[path] = path.read_bytes()
        return path

    yield keep
    for path, content in saved.items():
        path.write_bytes(content)
    assert not Path("owned").exists()


def test_the_class_above_is_dangerous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Malicious(), "file.pt")
    torch.load("file.pt", weights_only=False)
    assert Path("owned").exists()


def test_a_malicious_trainer_state_is_refused(kept: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = kept(run_of("statsq").files.trainer)
    torch.save({"optimizer": Malicious(), "recorder": {}}, path)
    assert cli.main(["cga", str(run_of("statsq-cga"))]) == 2
    error = capsys.readouterr().err
    assert f"{path} is damaged or no trainer state" in error and error.count("\n") == 1


def test_a_malicious_model_is_refused(kept: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = kept(run_of("teacher").files.model)
    torch.save({"head.weight": Malicious()}, path)
    assert cli.main(["qat", str(run_of("lsq"))]) == 2
    error = capsys.readouterr().err
    assert f"{path} is damaged" in error and error.count("\n") == 1


def test_a_malicious_checkpoint_is_passed_over(here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save(tmp_path, 10, {"step": 10})
    bad = tmp_path / "checkpoint-000000020.pt"
    torch.save({"step": 20, "model": Malicious()}, bad)
    bad.with_suffix(".sha256").write_text(checkpoint.file_digest(bad))
    assert checkpoint.load_latest(tmp_path) == {"step": 10}
    assert f"{bad} is damaged and passed over" in caplog.text
    assert not Path("owned").exists()


def damages(content: bytes) -> Iterator[bytes]:
    """Cut at many places, and replaced by arbitrary bytes."""
    rng = random.Random(0)
    for part in range(20):
        yield content[: len(content) * part // 20]
    for length in (1, 10, 100, 1000):
        for _ in range(10):
            yield rng.randbytes(length)
    for start in (b"PK\x03\x04", b"\x80\x02", (200).to_bytes(8, "little") + b"{"):
        yield start + rng.randbytes(300)


def test_a_damaged_trainer_state_is_one_line(here: Path, tmp_path: Path) -> None:
    path = tmp_path / "trainer.pt"
    for content in damages(run_of("statsq").files.trainer.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"trainer\.pt is damaged or no trainer state") as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)


def test_a_damaged_model_is_one_line(here: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content in damages(run_of("teacher").files.model.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged") as error:
            load_weights(torch.nn.Linear(2, 2), path)
        assert "\n" not in str(error.value)


def test_what_is_published_holds_tensors_and_plain_values_only(here: Path) -> None:
    for variant in ("teacher", "statsq-qkr-cga"):
        files = run_of(variant).files
        assert all(isinstance(value, torch.Tensor) for value in load_file(files.model).values())
    torch.load(run_of("statsq-qkr-cga").files.trainer, weights_only=True)


def test_a_trainer_state_of_another_run_is_one_line(
    kept: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is whole and belongs elsewhere."""
    path = kept(run_of("statsq").files.trainer)
    shutil.copy(run_of("statsq-qkr").files.trainer, path)
    assert cli.main(["cga", str(run_of("statsq-cga"))]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "belongs to another" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("step", "owner", "name"),
    [
        ("qat", "teacher", "model"),
        ("qat", "teacher", "logits"),
        ("cga", "statsq", "model"),
        ("cga", "statsq", "trainer"),
        ("noise", "statsq", "model"),
        ("probe", "statsq", "model"),
        ("probe", "statsq", "oscillation"),
    ],
)
def test_a_file_that_was_changed_since_it_was_published_is_named(
    kept: Callable[[Path], Path], capsys: pytest.CaptureFixture[str], step: str, owner: str, name: str
) -> None:
    """The file is whole and fits; only its numbers are others."""
    path = kept(getattr(run_of(owner).files, name))
    if name == "trainer":
        state = checkpoint.load(path)
        state["optimizer"]["param_groups"][0]["lr"] *= 2
        torch.save(state, path)
    elif name == "oscillation":
        frame = pd.read_parquet(path)
        frame.assign(share=frame["share"] + 1).to_parquet(path)
    else:
        tensors = load_file(path)
        tensors[next(iter(tensors))] += 1
        save_file(tensors, path)
    run = run_of({"cga": "statsq-cga", "qat": "lsq"}.get(step, "statsq"))
    before = {other: other.read_bytes() for other in run.files.root.glob("*")}
    assert cli.main([step, str(run)]) == 2
    error = capsys.readouterr().err
    assert f"{path} was changed since it was published" in error and error.count("\n") == 1
    assert {other: other.read_bytes() for other in run.files.root.glob("*")} == before
