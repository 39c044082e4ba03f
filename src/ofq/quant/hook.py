"""The protocol of what takes part in the steps of a training loop."""

from typing import Any, Protocol

from torch import Tensor


class Hook(Protocol):
    """Participant in every training step, such as an oscillation recorder or a remedy."""

    def loss(self) -> Tensor | None:
        """Return what to add to the loss, after the forward pass."""

    def before_update(self) -> None:
        """Act after the backward pass and before the optimizer's step."""

    def after_update(self) -> None:
        """Act after the optimizer's step."""

    def metrics(self) -> dict[str, float]:
        """Return curve points at the end of an interval, named ``group/name``."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore saved state."""
