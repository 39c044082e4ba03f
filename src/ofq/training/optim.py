"""Optimizer and learning-rate schedule of a phase, both timm's."""

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import AdamW

from ofq.config.recipes import TrainingRecipe

_WARMUP_LR = 1e-6


def make_optimizer(model: nn.Module, phase: TrainingRecipe) -> AdamW:
    """Make an AdamW with weight decay only on parameters of at least two dimensions that the model does not exempt.

    Tokens, position embedding, biases, quantizer steps and move biases are not decayed.

    Source: released recipe, tests/golden/README.md section 9.
    """
    named = getattr(model, "no_weight_decay", None)
    exempt = named() if callable(named) else set()
    groups = param_groups_weight_decay(model, phase.weight_decay, no_weight_decay_list=exempt)
    return AdamW(groups, lr=phase.lr, fused=True)


def make_schedule(optimizer: AdamW, phase: TrainingRecipe) -> CosineLRScheduler:
    """Make a schedule: linear warm-up, cosine from ``lr`` to ``min_lr``, then ``constant_steps`` at ``min_lr``.

    Call ``step_update(step)`` before each optimizer step; the rate is a function of the step alone.
    """
    return CosineLRScheduler(
        optimizer,
        t_initial=phase.steps - phase.constant_steps,
        lr_min=phase.min_lr,
        warmup_t=round(phase.warmup * phase.steps),
        warmup_lr_init=_WARMUP_LR if phase.warmup else 0.0,
        t_in_epochs=False,
    )
