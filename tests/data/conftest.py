"""An empty directory to work in, with what is small taken for what is published."""

from pathlib import Path

import pytest

from ofq.data.readers import cifar
from tests.data.small import CIFAR10, CIFAR100, cifar_members, write_fashion, write_tar


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fashion(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small Fashion-MNIST."""
    folder = Path("data/fashion-mnist")
    write_fashion(folder, monkeypatch)
    return folder


@pytest.fixture
def cifar10(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a small CIFAR-10."""
    monkeypatch.setitem(cifar.LAYOUTS, "cifar10", CIFAR10)
    path = Path("data/cifar10") / CIFAR10.archive
    write_tar(path, cifar_members(CIFAR10))
    return path


@pytest.fixture
def cifar100(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a small CIFAR-100."""
    monkeypatch.setitem(cifar.LAYOUTS, "cifar100", CIFAR100)
    path = Path("data/cifar100") / CIFAR100.archive
    write_tar(path, cifar_members(CIFAR100))
    return path
