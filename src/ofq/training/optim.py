"""Optimizer and learning-rate schedule of a phase, both timm's."""

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import AdamW

from ofq.config.schedule import Schedule


def make_optimizer(model: nn.Module, phase: Schedule) -> AdamW:
    """Make an AdamW with weight decay only on parameters of at least two dimensions that the model does not exempt.

    Tokens, position embedding, biases, quantizer steps and move biases are not decayed.

    Source: released recipe, tests/golden/README.md section 9.
    """
    named = getattr(model, "no_weight_decay", None)
    exempt = named() if callable(named) else set()
    groups = param_groups_weight_decay(model, phase.weight_decay, no_weight_decay_list=exempt)
    return AdamW(groups, lr=phase.lr, fused=True)


def make_schedule(optimizer: AdamW, phase: Schedule) -> CosineLRScheduler:
    """Make a schedule: linear warm-up from ``warmup_lr``, cosine from ``lr`` to ``min_lr``, then constant ``min_lr``.

    Its time is counted in steps, or of a phase in epochs in epochs, as in timm's scripts: call
    ``step_update(step // phase.unit)`` before each optimizer step, counted from 0. The rate depends on that alone.
    """
    if phase.epochs:
        time, constant, rising = phase.epochs, phase.constant_epochs, phase.warmup_epochs
    else:
        time, constant, rising = phase.length, phase.constant_steps, round(phase.warmup * phase.length)
    return CosineLRScheduler(
        optimizer,
        t_initial=time - constant,
        lr_min=phase.min_lr,
        warmup_t=rising,
        warmup_lr_init=phase.warmup_lr,
        t_in_epochs=False,
    )
