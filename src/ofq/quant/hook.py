"""The one interface of what takes part in training: recorders, observers and remedies."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ofq.quant.quantizers.base import Quantizer


class Hook:
    """Participant in every training step, such as an oscillation recorder or a remedy; this one does nothing.

    Stages of a step, in order: the quantizers of the low-bit weights round (:meth:`round_with`), :meth:`loss`, the
    gradients pass back through them (:meth:`scale_gradient`), :meth:`before_update`, the optimizer's step,
    :meth:`after_update`. Where a batch is computed in parts, the two of the quantizers are called for each of them,
    with its gradient, and all else once a step. A hook that keeps state between steps returns it from
    :meth:`state_dict` as tensors and plain values, so that a checkpoint cannot run code.
    """

    def loss(self) -> Tensor | None:
        """Return a scalar to add to the loss, or None; called after the forward pass."""
        return None

    def before_update(self, lr: float) -> None:
        """Act between the backward pass and the optimizer's step, at learning rate ``lr``; may change gradients."""

    def after_update(self, lr: float) -> None:
        """Act after the optimizer's step, which had learning rate ``lr``; may change weights."""

    def round_with(self, quantizer: "Quantizer", u: Tensor, step: Tensor) -> Tensor | None:
        """Return the integer codes of a weight, or None for the nearest ones; counts in evaluation too.

        Args:
            quantizer: of the weight; says which one it is, and its smallest and largest code (``levels``).
            u: unrounded code coordinates, not clamped; thresholds lie at half-integers.
            step: distance of the levels, broadcasts against ``u``.

        Returns:
            Codes between the smallest and the largest, in u's shape and dtype.
        """
        return None

    def scale_gradient(self, quantizer: "Quantizer", g: Tensor, u: Tensor, codes: Tensor) -> Tensor | None:
        """Return what takes the place of ``g`` in a latent weight's gradient, or None for ``g``; the step's stays.

        Args:
            quantizer: of the weight.
            g: gradient of the quantized weight, a copy, not masked yet: a quantizer that masks what it clamps does so
                after.
            u: as in :meth:`round_with`, not clamped.
            codes: to which u was rounded.

        Returns:
            A tensor of g's shape; ``g`` itself may be changed and returned.
        """
        return None

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
