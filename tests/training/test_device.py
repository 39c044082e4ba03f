"""Where a run computes: the processor gives back what it got, another device and precision take over where asked."""

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ofq.config.settings import PROCESSOR, Hardware
from ofq.errors import UserError
from ofq.training.device import CPU, Device, device_of, hardware_to_measure, tell_where

IMAGES = torch.rand(3, 4)


def test_the_processor_changes_nothing() -> None:
    model = nn.Linear(4, 2)
    weight = model.weight
    assert CPU.place(model) is model and model.weight is weight and CPU.name == "cpu"
    with CPU.forward():
        assert model(IMAGES).dtype == torch.float32


def test_random_numbers_go_on_where_they_were() -> None:
    states = CPU.random_states()
    drawn = torch.rand(5)
    CPU.restore_random(states)
    assert list(states) == ["rng"] and torch.equal(torch.rand(5), drawn)


def test_a_lower_precision_is_that_of_the_forward_pass_of_training_alone() -> None:
    model, device = nn.Linear(4, 2), Device(precision="bf16")
    with device.forward():
        out = model(IMAGES)
        with device.exact():
            assert model(IMAGES).dtype == torch.float32, "whatever is around it"
        assert model(IMAGES).dtype == torch.bfloat16
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert model.weight.dtype == model.weight.grad.dtype == model(IMAGES).dtype == torch.float32


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_products_are_rounded_to_tf32_in_training_only_and_only_where_asked(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = flags()
    device = Device("cuda", precision)  # type: ignore[arg-type]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with device.begun():
        trained = flags()
        with pytest.raises(ZeroDivisionError), device.exact():
            assert flags() == (False, False)
            raise ZeroDivisionError
        assert flags() == trained == ((precision == "tf32",) * 2)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert flags() == before
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with CPU.begun(), CPU.exact():
        assert flags() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_workspace_that_was_chosen_stays_if_sums_have_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for chosen, used in ((":16:8", ":16:8"), (":0:0", ":4096:8")):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", chosen)
        with Device("cuda").begun():
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == used


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)


def test_a_model_is_compiled_block_by_block_when_it_was_asked_for() -> None:
    def compiled(model: nn.Module) -> list[str]:
        return [name for name, module in model.named_modules() if module._compiled_call_impl is not None]

    assert compiled(CPU.place(Blocks())) == []
    device = Device(compiled=True)
    model = Blocks()
    assert compiled(device.place(model)) == ["blocks.0", "blocks.1", "head"]
    assert list(model.state_dict()) == list(Blocks().state_dict()), "names stay"
    assert compiled(device.place(nn.Linear(4, 2))) == [""], "one without blocks as a whole"


def test_nothing_compiled_runs_where_numbers_are_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        traced.append("graph")
        return graph

    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_module(self, backend=backend))
    device = Device(compiled=True)
    model = device.place(nn.Linear(4, 2))
    with device.exact():
        exact = model(IMAGES)
    assert traced == []
    assert torch.equal(model(IMAGES), exact) and traced == ["graph"]


def test_what_is_not_the_processor_as_it_is_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CPU.described() == {}
    with Device(compiled=True).begun():
        described = Device(compiled=True).described()
    assert described == {"hardware": {"device": "cpu", "precision": "float32", "compiled": True, "deterministic": True}}
    monkeypatch.setattr("ofq.training.device.driver", lambda: "580.1")
    monkeypatch.setattr(torch, "get_device_module", {"cuda": SimpleNamespace(get_device_name=lambda: "H")}.__getitem__)
    found = Device("cuda", "bf16").described()["hardware"]
    assert list(found) == ["device", "precision", "compiled", "deterministic", "driver", "cuda", "cudnn", "triton"]
    assert (found["device"], found["precision"], found["driver"]) == ("H", "bf16", "580.1")


def test_without_a_card_a_run_that_needs_one_is_refused_and_a_finished_one_is_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have\na GPU")

    monkeypatch.setattr(torch, "get_device_module", {"cuda": SimpleNamespace(init=init)}.__getitem__)
    asked = Hardware(device="cuda", precision="bf16", compile=True)
    with pytest.raises(UserError) as error:
        device_of(asked)
    assert "there is no card to be found (Found no NVIDIA driver on your system); run it where" in str(error.value)
    assert device_of(PROCESSOR) == CPU
    with caplog.at_level("WARNING", logger="ofq"):
        assert hardware_to_measure(asked) == PROCESSOR
        tell_where(asked, CPU)
    assert "measured on the processor" in caplog.text
    monkeypatch.setattr(torch, "get_device_module", {"cuda": SimpleNamespace(init=lambda: None)}.__getitem__)
    assert hardware_to_measure(asked) == Hardware(device="cuda"), "in float32, as written"
    assert device_of(asked) == Device("cuda", "bf16", True)
    assert hardware_to_measure(Hardware(compile=True)) == PROCESSOR


def test_states_are_moved_as_checkpoints_hold_them() -> None:
    state = {"a": [torch.ones(2), (1, "x", None)], "size": torch.Size([2]), "b": {"c": torch.zeros(1)}}
    assert CPU.move_state(state)["a"][0] is state["a"][0]
    moved = Device("meta").move_state(state)
    assert moved["a"][0].is_meta and moved["b"]["c"].is_meta
    assert moved["a"][1] == (1, "x", None) and type(moved["size"]) is torch.Size


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two cards; the numbers of those that were chosen."""
    chosen: list[int] = []
    module = SimpleNamespace(
        device_count=lambda: 2,
        get_device_properties=lambda card: SimpleNamespace(uuid=f"uuid{card}"),
        set_device=chosen.append,
    )
    monkeypatch.setattr(torch, "get_device_module", {"cuda": module}.__getitem__)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    return chosen


def test_runs_fill_the_cards_one_each_before_they_share(cards: list[int], tmp_path: Path) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(Device("cuda").shared(2, "run"))
        assert cards == [0, 1, 0, 1]
        names = {path.name for path in tmp_path.glob("ofq-cards-*/*")}
        assert names == {f"uuid{card}-{place}.lock" for card in (0, 1) for place in (0, 1)}
    assert not list(tmp_path.glob("ofq-cards-*/*"))
    with CPU.shared(1, "run"):
        assert len(cards) == 4 and not list(tmp_path.glob("ofq-cards-*/*"))


def test_a_run_on_several_cards_takes_all_of_them_or_none(
    cards: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = Device("cuda")
    with pytest.raises(UserError, match="run takes 3 cards, and there are 2 here; lower hardware"):
        card.cards(3, 1, "run").__enter__()
    with card.cards(2, 1, "first") as numbers:
        assert numbers == [0, 1]
    with caplog.at_level("INFO", logger="ofq"), ExitStack() as first:
        first.enter_context(card.shared(1, "first"))
        end = threading.Timer(0.5, first.close)
        end.start()
        with card.cards(2, 1, "second") as numbers:
            assert numbers == [0, 1] and cards == [0], "only who computes chooses a card"
    assert f"second: waits for 2 of 2 places on cards; the first is taken by process {os.getpid()}" in caplog.text
    assert not list(tmp_path.glob("ofq-cards-*/*"))


def test_a_run_waits_for_a_place_and_gets_that_of_one_that_was_killed(
    cards: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / f"ofq-cards-{os.getuid()}"
    hold = (
        "import sys, time; from pathlib import Path; from ofq.runs.locks import some_of\n"
        "with some_of([Path(sys.argv[1])], waiting=print): print('holds', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "uuid1-0.lock")], stdout=subprocess.PIPE, env=os.environ
    )
    assert other.stdout is not None and other.stdout.readline() == b"holds\n"
    with caplog.at_level("INFO", logger="ofq"), Device("cuda").shared(1, "first"):
        killer = threading.Timer(0.5, other.kill)
        killer.start()
        with Device("cuda").shared(1, "second"):
            assert cards == [0, 1]
        other.wait()
    assert f"second: waits for 1 of 2 places on cards; the first is taken by process {os.getpid()}" in caplog.text


def test_another_device_has_models_batches_and_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"state": torch.tensor(1)}
    module = SimpleNamespace(
        get_rng_state=lambda: given["state"],
        set_rng_state=lambda state: given.update(state=state),
        get_device_name=lambda: "Paper Tensor 9",
    )
    monkeypatch.setattr(torch, "get_device_module", {"meta": module}.__getitem__)
    device = Device("meta")
    assert device.place(nn.Linear(4, 2)).weight.is_meta
    assert device.name == "Paper Tensor 9"
    states = device.random_states()
    given["state"] = torch.tensor(2)
    device.restore_random(states)
    assert given["state"] == 1
    device.restore_random(CPU.random_states())
    assert given["state"] == 1, "a run that goes on elsewhere draws anew"
