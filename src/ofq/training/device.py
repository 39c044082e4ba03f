"""Where a run computes: the processor by default, in float32, as written."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ofq.data.batches import Batch

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """The device of a run.

    Attributes:
        where: torch's name of it.
        precision: of the forward pass; weights and their updates are float32 in any case.
        compiled: whether torch compiles the model.
    """

    where: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    compiled: bool = False

    @property
    def name(self) -> str:
        """What it is called in run.json."""
        return self.where if self.where == "cpu" else str(torch.get_device_module(self.where).get_device_name())

    def place(self, model: Model) -> Model:
        """Move a model here, in place; if asked for, it is compiled when it is first called."""
        model.to(self.where)
        if self.compiled:
            model.compile()
        return model

    def move(self, batch: Batch) -> Batch:
        """Return a batch that is here."""
        return Batch(*(each.to(self.where) for each in batch))

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass and its loss."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.where, dtype=getattr(torch, self.precision))

    def random_states(self) -> dict[str, Tensor]:
        """Return the states of the random numbers that training draws, as entries of a checkpoint."""
        states = {"rng": torch.get_rng_state()}
        if self.where != "cpu":
            states["rng_device"] = torch.get_device_module(self.where).get_rng_state()
        return states

    def restore_random(self, states: dict[str, Any]) -> None:
        """Restore what :meth:`random_states` returned; a state of another kind of device is left out."""
        torch.set_rng_state(states["rng"])
        if self.where != "cpu" and "rng_device" in states:
            torch.get_device_module(self.where).set_rng_state(states["rng_device"])


CPU = Device()
