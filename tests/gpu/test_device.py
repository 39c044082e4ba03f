"""What only a card can show of the device of a run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ofq.cli.run import _of_hardware
from ofq.config.settings import Hardware
from ofq.training.device import Device, device_of
from ofq.workflow.limits import cards


def error(product: torch.Tensor, exact: torch.Tensor) -> float:
    return ((product.double() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True), ("bf16", True)])
def test_products_of_training_are_rounded_and_exact_ones_are_not(precision: str, rounded: bool) -> None:
    device = device_of(Hardware(device="cuda", precision=precision))  # type: ignore[arg-type]
    a, b = torch.rand(2, 512, 512, device="cuda").unbind()
    images, kernel = torch.rand(8, 16, 32, 32, device="cuda"), torch.rand(16, 16, 4, 4, device="cuda")
    right = a.double() @ b.double(), torch.conv2d(images.double(), kernel.double())
    with device.begun():
        with device.forward():
            trained = a @ b
        with device.forward(), device.exact():
            exact = a @ b, torch.conv2d(images, kernel)
    assert (error(trained, right[0]) > 2e-5) == rounded  # of convolutions cuDNN may leave some in float32
    for found, expected in zip(exact, right, strict=True):
        assert found.dtype == torch.float32 and error(found, expected) < 2e-6


def test_a_place_on_a_card_is_held_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    count = torch.cuda.device_count()
    assert cards() == count
    with Device("cuda").shared(1, "run"):
        assert torch.cuda.current_device() == 0
        (lock,) = tmp_path.glob("ofq-cards-*/*")
        assert lock.name == f"{torch.cuda.get_device_properties(0).uuid}-0.lock"


def test_too_little_memory_of_a_card_is_one_line() -> None:
    with pytest.raises(torch.OutOfMemoryError) as found:
        torch.empty(2**45, device="cuda")
    assert "lower hardware.runs_per_gpu, or batch_size" in str(_of_hardware(found.value))


def test_a_fault_of_a_card_is_one_line() -> None:
    script = (
        "import torch; from ofq.cli.run import _of_hardware\n"
        "try:\n    torch.zeros(2, device='cuda')[torch.tensor([5], device='cuda')].sum().item()\n"
        "except RuntimeError as error:\n    print(_of_hardware(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the card failed (CUDA error: device-side assert triggered" in done.stdout, done.stderr
