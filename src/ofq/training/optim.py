"""Optimizer and learning-rate schedule of a phase: torch's and timm's."""

from typing import Any

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import SGD, Adam, AdamW

from ofq.config.schedule import Schedule
from ofq.quant.quantizers.base import Quantizer


class SeparateOptimizers:
    """SGD of the weights, and an Adam of the quantizers' parameters, as one optimizer.

    Its ``param_groups``, and so every schedule, are those of the weights: the Adam keeps its rate.

    Source: released code of Nagel et al. 2022.
    """

    def __init__(self, weights: SGD, quantizers: Adam) -> None:
        self._both: dict[str, SGD | Adam] = {"weights": weights, "quantizers": quantizers}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the weights."""
        return self._both["weights"].param_groups

    def zero_grad(self) -> None:
        """Take away all gradients."""
        for each in self._both.values():
            each.zero_grad()

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for each in self._both.values():
            each.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {name: each.state_dict() for name, each in self._both.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            KeyError, ValueError: the state is not that of such optimizers.
        """
        for name, each in self._both.items():
            each.load_state_dict(state[name])


Optimizer = AdamW | SGD | SeparateOptimizers


def make_optimizer(model: nn.Module, phase: Schedule) -> Optimizer:
    """Make the optimizer of a model's parameters that a recipe names.

    AdamW decays only parameters of at least two dimensions that the model does not exempt: tokens, position embedding,
    biases, quantizer steps and move biases are not. SGD decays all but the parameters of quantizers, which have an Adam
    of their own without decay.

    Source: released recipe, tests/golden/README.md section 9; for SGD the released code of Nagel et al. 2022.
    """
    if phase.optimizer == "adamw":
        named = getattr(model, "no_weight_decay", None)
        exempt = named() if callable(named) else set()
        groups = param_groups_weight_decay(model, phase.weight_decay, no_weight_decay_list=exempt)
        return AdamW(groups, lr=phase.lr, fused=True)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    within = {id(each) for part in model.modules() if isinstance(part, Quantizer) for each in part.parameters()}
    weights = SGD(
        [each for each in learned if id(each) not in within],
        lr=phase.lr,
        momentum=phase.momentum,
        weight_decay=phase.weight_decay,
        fused=True,
    )
    of_quantizers = [each for each in learned if id(each) in within]
    return SeparateOptimizers(weights, Adam(of_quantizers, lr=phase.quantizer_lr, fused=True)) if within else weights


def make_schedule(optimizer: Optimizer, phase: Schedule) -> CosineLRScheduler:
    """Make a schedule: linear warm-up from ``warmup_lr``, cosine from ``lr`` to ``min_lr``, then constant ``min_lr``.

    Its time is counted in steps, or of a phase in epochs in epochs, as in timm's scripts: call
    ``step_update(step // phase.unit)`` before each optimizer step, counted from 0. The rate depends on that alone.
    """
    if phase.epochs:
        time, constant, rising = phase.epochs, phase.constant_epochs, phase.warmup_epochs
    else:
        time, constant, rising = phase.length, phase.constant_steps, round(phase.warmup * phase.length)
    return CosineLRScheduler(
        optimizer,  # type: ignore[arg-type]  # its groups are all that is used
        t_initial=time - constant,
        lr_min=phase.min_lr,
        warmup_t=rising,
        warmup_lr_init=phase.warmup_lr,
        t_in_epochs=False,
    )
