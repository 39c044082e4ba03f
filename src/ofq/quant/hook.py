"""What takes part in the steps of a training loop."""

from typing import Any, Protocol

from torch import Tensor


class Hook(Protocol):
    """What takes part in every step: an oscillation recorder, a remedy."""

    def loss(self) -> Tensor | None:
        """After the forward pass: what to add to the loss."""

    def before_update(self) -> None:
        """After the backward pass, before the optimizer's step."""

    def after_update(self) -> None:
        """After the optimizer's step."""

    def metrics(self) -> dict[str, float]:
        """Curve points at the end of an interval, named ``group/name``."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up saved state."""
