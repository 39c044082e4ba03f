"""The base of what continues a finished run: confidence-guided annealing and its two controls."""

from torch import Tensor, nn

from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.weights import block_weights
from ofq.remedies.base import Remedy, governed_layers


class Annealing(Remedy):
    """Remedy that knows how many weights of the governed layers are free to train; this one freezes none.

    By itself it is the control for the further steps: what do they do when nothing is frozen?

    Args:
        model: a quantized and calibrated model.

    Attributes:
        layers: the governed layers by name.

    Raises:
        ValueError: the model is not quantized.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = governed_layers(model)

    def free(self) -> list[int]:
        """Return how many weights of each governed layer were free at the last step."""
        return [layer.weight.numel() for layer in self.layers.values()]


class FrozenWeights(Annealing):
    """The other control, in which no weight of the blocks moves by a bit and everything else trains on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._still = [*(layer.weight for layer in self.layers.values()), *query_key_weights(model)]

    def before_update(self, lr: float) -> None:
        """Remove the gradients: an optimizer skips a parameter without one, weight decay included."""
        for weight in self._still:
            weight.grad = None

    def free(self) -> list[int]:
        """Return 0 for every layer."""
        return [0] * len(self.layers)


def query_key_weights(model: nn.Module) -> list[Tensor]:
    """List the latent ``q.weight`` and ``k.weight`` (A, C) of every attention with query-key reparameterization."""
    attentions = dict.fromkeys(weight.layer for weight in block_weights(model))
    return [part.weight for each in attentions if isinstance(each, QKRAttention) for part in (each.q, each.k)]
