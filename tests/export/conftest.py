"""A packed file, and finished runs."""

from pathlib import Path

import pytest
import torch

from ofq.export.deploy import deployed
from ofq.export.packed import write_packed
from tests.export.small import prepared
from tests.training.trained import here, trained

__all__ = ["here", "trained"]

torch.set_num_threads(1)
# torch.export pretends that there is a card. If a backward pass has not been made before, the first one then starts
# threads for it, and no process that other tests fork from this one can train.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    model, about = prepared(weight="statsq")
    write_packed(path, deployed(model), about)
    return path
