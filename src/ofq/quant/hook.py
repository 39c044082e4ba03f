"""The base of what takes part in the steps of a training loop."""

from typing import Any

from torch import Tensor


class Hook:
    """Participant in every training step, such as an oscillation recorder or a remedy; this one does nothing.

    The training loop adds :meth:`loss` to the loss of each batch. It calls :meth:`before_update` after the backward
    pass and :meth:`after_update` after the optimizer's step. A hook that keeps state between steps returns it from
    :meth:`state_dict` as tensors and plain values, so that a checkpoint cannot run code.
    """

    def loss(self) -> Tensor | None:
        """Return a scalar to add to the loss, or None; called after the forward pass."""
        return None

    def before_update(self) -> None:
        """Act between the backward pass and the optimizer's step; may change gradients."""

    def after_update(self) -> None:
        """Act after the optimizer's step; may change weights."""

    def metrics(self) -> dict[str, float]:
        """Return numbers to log at the end of an interval, named ``group/name``; may wait for the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is not this hook's.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}")
