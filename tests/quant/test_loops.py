"""Compiled loops against torch's operations: the same bits."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import train_step
from torch import Tensor, nn

from ofq.quant import compile_loops
from ofq.quant.loops import Loops
from ofq.quant.quantizers import LSQQuantizer
from ofq.quant.rounding import Grid

GRIDS = {
    "token": (Grid(-2.0, 1.0, (5, 1), move_shape=(16,)), (3, 5, 16)),
    "query and key": (Grid(-2.0, 1.0, (5, 2, 1), move_shape=(2, 16)), (3, 5, 2, 16)),
    "channel": (Grid(-8.0, 7.0, (16,), move_shape=(16,)), (3, 5, 16)),
    "head": (Grid(-128.0, 127.0, (1,), move_shape=(16,)), (70, 16)),
    "unsigned": (Grid(0.0, 3.0, (19, 1)), (2, 4, 19, 19)),
    "row": (Grid(-2.0, 1.0, (7, 1)), (7, 33)),
}


@pytest.fixture(scope="module")
def loops() -> Loops:
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc"))):
        pytest.skip("no C compiler on this machine: torch's operations do the work, as in the other tests")
    compiled = Loops.compiled()
    assert compiled is not None
    return compiled


def _drawn(shape: tuple[int, ...], seed: int, *, part: bool) -> Tensor:
    """Random numbers, by themselves or as two thirds or one of a joint tensor of queries, keys and values."""
    joint = {3: (*shape[:2], 3, shape[-1]), 4: (*shape[:2], 3, shape[-1])}[len(shape)] if part else shape
    x = torch.randn(joint, generator=torch.Generator().manual_seed(seed)) * 2
    return x if not part else x[:, :, :2] if len(shape) == 4 else x[:, :, 2]


@pytest.mark.parametrize(
    ("name", "part"), [*((name, False) for name in GRIDS), ("token", True), ("query and key", True), ("channel", True)]
)
def test_loops_round_as_torch_does(name: str, part: bool, loops: Loops) -> None:
    grid, shape = GRIDS[name]
    x, g = _drawn(shape, 0, part=part), _drawn(shape, 1, part=part)
    random = torch.Generator().manual_seed(2)
    scale = torch.rand(torch.Size(grid.step_shape).numel(), generator=random) + 0.1
    move = torch.randn(torch.Size(grid.move_shape), generator=random).flatten() if grid.move_shape else None
    step, fast = grid.step(scale), replace(grid, loops=loops)
    assert loops.take(fast, x, g)

    for integers in (False, True):
        for ours, theirs in zip(
            *(one.place_and_codes(x, step, move, integers=integers) for one in (fast, grid)), strict=True
        ):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    u = grid.place(x, step, move).contiguous()
    assert torch.equal(fast.values(u, step, move), grid.values(u, step, move))
    mine, other = g.clone(), g.clone()
    sums = fast.gradients(mine, u, scale.numel()), grid.gradients(other, u, scale.numel())
    for ours, theirs in zip((mine, *sums[0]), (other, *sums[1]), strict=True):
        assert (ours is theirs is None) or torch.equal(ours, theirs)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_bits_are_those_of_torchs_other_kernels_too(capability: str, loops: Loops) -> None:
    script = f"import pytest; raise SystemExit(pytest.main(['-q', '-x', '-k', 'round_as_torch', {__file__!r}]))"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "9 passed" in done.stdout, done.stdout


def test_a_nan_stays_one(loops: Loops) -> None:
    grid = Grid(-2.0, 1.0, (1,), loops=loops)
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf]])
    _, codes = grid.place_and_codes(x, torch.ones(1), None)
    assert codes[0, 0].isnan() and codes[0, 1:].tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("grid", "x"),
    [
        (Grid(-2.0, 1.0, (5, 1)), torch.zeros(3, 5, 4, dtype=torch.float64)),
        (Grid(-2.0, 1.0, (5, 1)), torch.zeros(3, 4, 5).transpose(1, 2)),
        (Grid(-2.0, 1.0, (5, 1), offset=0.5), torch.zeros(5, 4)),
        (Grid(torch.zeros(()), torch.ones(()), (3, 1, 1)), torch.zeros(2, 3, 4, 4)),
        (Grid(-2.0, 1.0, (3, 1, 1)), torch.zeros(2, 3, 4, 4)),
    ],
    ids=["float64", "transposed", "mid-rise", "detected sign", "channel of an image"],
)
def test_what_loops_cannot_do_is_left_to_torch(grid: Grid, x: Tensor, loops: Loops) -> None:
    assert not loops.take(grid, x)


def test_loops_serve_one_thread(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, shape = GRIDS["token"]
    assert loops.take(grid, torch.zeros(shape))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not loops.take(grid, torch.zeros(shape))


def test_training_with_loops_is_the_same_bit_by_bit(
    make: Callable[[], nn.Module], images: Tensor, labels: Tensor, loops: Loops
) -> None:
    states = []
    for compiled in (False, True):
        model = make()
        assert not compiled or compile_loops(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(4):
            train_step(model, optimizer, images, labels)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_compiled_model_can_be_copied_and_pickled(make: Callable[[], nn.Module], images: Tensor) -> None:
    model = make()
    compile_loops(model)
    expected = model(images)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images), expected)


def test_without_a_compiler_nothing_changes(
    make: Callable[[], nn.Module], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    expected = model(images)
    monkeypatch.setenv("PATH", "")
    assert not compile_loops(model)
    assert all(module.loops is None for module in model.modules() if isinstance(module, LSQQuantizer))
    assert torch.equal(model(images), expected)


def test_a_compiler_that_fails_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Loops.compiled() is None
    assert not any(path.suffix == ".so" for path in (tmp_path / "cache").rglob("*"))


def test_a_damaged_library_is_made_again(loops: Loops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    damaged = tmp_path / "ofq" / loops.library.name
    damaged.parent.mkdir()
    damaged.write_bytes(b"damaged")
    made = Loops.compiled()
    assert made is not None and made.library == damaged
    assert damaged.stat().st_size > 1000
