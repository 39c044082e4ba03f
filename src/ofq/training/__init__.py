"""Train teachers, quantized students and their annealing: one loop, three short steps around it."""

from typing import TYPE_CHECKING

from ofq import lazy_names

if TYPE_CHECKING:
    from ofq.training.losses import distillation_loss as distillation_loss

__getattr__, __all__ = lazy_names(__file__)
