"""The training loop, the same for teachers, quantization-aware training and annealing."""

import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from ofq.config.settings import TrainingRecipe
from ofq.data.batches import Batch, StudyData
from ofq.errors import Stopped, UserError
from ofq.quant.hook import Hook
from ofq.runs.checkpoint import Checkpoints
from ofq.runs.events import EventLog
from ofq.training.optim import make_schedule
from ofq.training.signals import deferred

_log = logging.getLogger(__name__)

INTERVALS = 12  # progress lines, curve points and oscillation records of a run


def train(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    optimizer: AdamW,
    data: StudyData,
    phase: TrainingRecipe,
    *,
    seed: int,
    label: str,
    checkpoints: Checkpoints,
    events: EventLog,
    hooks: Sequence[Hook] = (),
) -> None:
    """Train the model in place for ``phase.steps`` steps, resuming from the newest checkpoint.

    A checkpoint is saved from time to time, when a signal stops the run, and after the last step.

    Args:
        model: trained and evaluated.
        loss_of: scalar loss of a batch.
        optimizer: over the model's parameters.
        data: training and evaluation images.
        phase: schedule, batch size and number of steps.
        seed: of the order of the images.
        label: names the run in progress lines.
        checkpoints: what to resume from, and where to save.
        events: receives one ``step`` event per interval.
        hooks: called around every optimizer step, in order.

    Raises:
        UserError: the loss is not finite, a hook's term depends on no weight, or a checkpoint cannot be written.
        Stopped: on SIGINT, SIGTERM, SIGHUP or SIGUSR1; the state after the last finished step is saved.
    """
    schedule = make_schedule(optimizer, phase)
    interval = max(1, phase.steps // INTERVALS)
    started = time.monotonic()
    loss_sum = torch.zeros(())
    first = 0
    if state := checkpoints.latest():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for hook, hook_state in zip(hooks, state["hooks"], strict=True):
            hook.load_state_dict(hook_state)
        torch.set_rng_state(state["rng"])
        loss_sum, first = state["loss_sum"], state["step"]
        _log.info("%s  resumed after step %d", label, first)
    events.restore(state["events"] if state else None)

    def save(step: int) -> None:
        checkpoints.save(
            step,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "hooks": [hook.state_dict() for hook in hooks],
                "rng": torch.get_rng_state(),
                "loss_sum": loss_sum,
                "events": events.text(),
            },
        )

    with deferred() as received:
        for step in range(first + 1, phase.steps + 1):
            model.train()
            schedule.step_update(step - 1)
            loss = loss_of(data.train_batch(seed, step - 1, phase.batch_size))
            terms = [term for hook in hooks if (term := _term(hook)) is not None]
            rate = optimizer.param_groups[0]["lr"]
            optimizer.zero_grad()
            sum(terms, loss).backward()  # the logged loss is that of the batch alone, without the hooks' terms
            for hook in hooks:
                hook.before_update(rate)
            optimizer.step()
            for hook in hooks:
                hook.after_update(rate)
            loss_sum += loss.detach()

            if step % interval == 0 or step == phase.steps:
                count = step - (step - 1) // interval * interval
                values = {"train/loss": loss_sum.item() / count, "train/lr": optimizer.param_groups[0]["lr"]}
                if not math.isfinite(values["train/loss"]):
                    raise UserError(
                        f"{label}: the loss is {values['train/loss']} before step {step}; lower lr in params.yaml"
                    )
                top1, val_loss = evaluate(model, data)
                values |= {"val/top1": top1, "val/loss": val_loss}
                for hook in hooks:
                    values |= hook.metrics()
                events.append("step", step=step, **values)
                left = (time.monotonic() - started) / (step - first) * (phase.steps - step)
                _log.info(_progress(label, step, phase.steps, values, left))
                loss_sum.zero_()

            if received or step == phase.steps or checkpoints.due():
                save(step)
            if received:
                raise Stopped(received[0], step)


def _term(hook: Hook) -> Tensor | None:
    """Return what a hook adds to the loss.

    Anything but a scalar that depends on a parameter is refused: it would silently do nothing.
    """
    term = hook.loss()
    if term is None or (isinstance(term, Tensor) and term.numel() == 1 and term.requires_grad):
        return term
    if isinstance(term, Tensor):
        found = f"a {'tensor' if term.requires_grad else 'constant'} of shape {tuple(term.shape)}"
    else:
        found = f"a {type(term).__name__}"
    raise UserError(
        f"loss() of {type(hook).__name__} returned {found}; it should be None or a scalar tensor that depends on a "
        "weight"
    )


@torch.no_grad()
def evaluate(model: nn.Module, data: StudyData) -> tuple[float, float]:
    """Return top-1 accuracy in percent and mean cross-entropy over all evaluation images, in evaluation mode."""
    model.eval()
    correct, loss = 0, 0.0
    for images, labels in data.eval_batches():
        logits = model(images)
        correct += int((logits.argmax(dim=1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    count = len(data.eval_labels)
    return 100 * correct / count, loss / count


def _progress(label: str, step: int, steps: int, values: dict[str, float], seconds_left: float) -> str:
    oscillating = f"  osc {values['osc/share']:5.2f} %" if "osc/share" in values else ""
    minutes, seconds = divmod(round(seconds_left), 60)
    return (
        f"{label:<28}  step {step:>{len(str(steps))}}/{steps}  loss {values['train/loss']:6.3f}"
        f"  top1 {values['val/top1']:6.2f} %{oscillating}  left {minutes}:{seconds:02d}"
    )
