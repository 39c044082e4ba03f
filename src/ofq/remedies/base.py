"""What the training loop asks of a remedy against oscillation."""

from typing import Any


class Remedy:
    """Acts around each optimizer step; this one does nothing.

    The training loop calls :meth:`before_update` after the backward pass and :meth:`after_update` after the
    optimizer's step. A remedy that keeps state between steps returns it from :meth:`state_dict`.
    """

    def before_update(self) -> None:
        """Called between the backward pass and the optimizer's step; may change gradients."""

    def after_update(self) -> None:
        """Called after the optimizer's step; may change weights."""

    def metrics(self) -> dict[str, float]:
        """Numbers to log, by their name; may wait for the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned.

        Raises:
            ValueError: the state is not this remedy's.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but was given {sorted(state)}")
