"""The training loop, the same for teachers, quantization-aware training and annealing."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofq.config.resolve import RunConfig
from ofq.data.batch import Batch, Batches
from ofq.errors import Stopped, UserError, shortened
from ofq.models.batchnorm import needs_whole_batches
from ofq.quant.hook import Hook
from ofq.runs.progress import Progress
from ofq.training.device import CPU, Device
from ofq.training.distributed import ALONE, Rank
from ofq.training.job import Job
from ofq.training.optim import Optimizer, make_schedule
from ofq.training.signals import Stop

_log = logging.getLogger(__name__)

_METRIC = re.compile(r"\w[\w. -]*(/\w[\w. -]*)*")  # what MLflow takes as a name
_FIELDS = ("event", "step")  # of an event, beside its metrics
_SAVED = (bool, int, float, str, Tensor, nn.Parameter)


def train(
    job: Job[RunConfig],
    model: nn.Module,
    optimizer: Optimizer,
    loss_of: Callable[[Batch], Tensor],
    hooks: Sequence[Hook] = (),
) -> None:
    """Train the model in place for the steps of the job's recipe, resuming from the newest checkpoint.

    A checkpoint is saved from time to time, when a signal stops the run, and after the last step.

    Args:
        job: the run; its recipe has the schedule, the batch size and the number of steps.
        model: trained and evaluated.
        optimizer: over the model's parameters.
        loss_of: scalar loss of a batch, a mean over its images.
        hooks: called around every optimizer step, in order.

    Raises:
        UserError: a loss is not finite, a hook returns something else than it should, a checkpoint cannot be written,
            or the model has batch norms and batches are divided.
        Stopped: on SIGINT, SIGTERM, SIGHUP or SIGUSR1; the state after the last finished step is saved.
    """
    recipe, device, rank = job.recipe, job.device, job.rank
    if (rank.count > 1 or job.parts > 1) and needs_whole_batches(model):
        raise UserError(
            f"{job.label}: {job.config.model.timm} has batch norms, which would see parts of a batch; leave out "
            f"hardware.{'devices' if rank.count > 1 else 'images_at_once'} in params.yaml"
        )
    schedule = make_schedule(optimizer, recipe)
    steps, interval = recipe.length, recipe.interval
    loss_sum = torch.zeros((), device=device.where)
    first = 0
    if state := job.checkpoints.latest():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for hook, hook_state in zip(hooks, state["hooks"], strict=True):
            _restore(hook, device.move_state(hook_state), job)
        device.restore_random(state)
        loss_sum, first = state["loss_sum"].to(device.where), state["step"]
    if rank.agreed(int(rank.agreed(first) != first)):
        raise UserError(
            f"{job.label}: its processes find states of different steps in {job.state.directory}; runs/ should lie "
            "where all of their machines see it"
        )
    rank.share(model)
    if rank.leads:
        job.events.restore(state["events"] if state else None)
        if state:
            _log.info("%s  resumed after step %d", job.label, first)
    progress = Progress(job.label, steps=steps, images=recipe.batch_size, first=first)

    stop = Stop(saved=first, tells=rank.leads, alone=rank.count == 1)
    with stop.listening():
        for step in range(first + 1, steps + 1):
            stop.doing = f"step {step} of {steps}, which is then saved"
            model.train()
            schedule.step_update((step - 1) // recipe.unit)
            rank.seed(job.seed, step)
            at_interval = step % interval == 0 or step == steps
            # A device would have to be waited for.
            looked_at = device.where == "cpu" or at_interval
            optimizer.zero_grad()
            loss = rank.combine(model, _backward(job, loss_of, hooks, step, looked_at))
            if step == first + 1:
                _check_gradients(model, job)
            rate = optimizer.param_groups[0]["lr"]
            for hook in hooks:
                hook.before_update(rate)
            optimizer.step()
            for hook in hooks:
                hook.after_update(rate)
            loss_sum += loss

            if at_interval:
                count = step - (step - 1) // interval * interval
                values = {"train/loss": loss_sum.item() / count, "train/lr": optimizer.param_groups[0]["lr"]}
                if not math.isfinite(values["train/loss"]):
                    raise UserError(
                        f"{job.label}: the loss is {values['train/loss']} before step {step}; lower lr in params.yaml"
                    )
                rank.check(model, job.label)
                stop.doing = f"the evaluation after step {step}, which is then saved"
                top1, val_loss = evaluate(model, job.data, device, rank)
                if not math.isfinite(val_loss):
                    raise UserError(
                        f"{job.label}: the loss on the evaluation images is {val_loss} at step {step}; lower lr in "
                        "params.yaml"
                    )
                values |= {"val/top1": top1, "val/loss": val_loss}
                for hook in hooks:
                    values |= _metrics(hook, values, step)
                if rank.leads:
                    job.events.append("step", step=step, **values)
                    progress.tell(step, device.memory_mib, values)
                loss_sum.zero_()
            elif rank.leads and progress.due():
                progress.tell(step, device.memory_mib)

            signum = rank.agreed(stop.signum)
            if step == first + 1:
                for hook in hooks:
                    _state(hook)  # what cannot be saved is told now, not when hours of training are to be kept
            if rank.leads and (signum or step == steps or job.checkpoints.due()):
                stop.doing = f"step {step} to be saved"
                job.checkpoints.save(
                    step,
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "hooks": [_state(hook) for hook in hooks],
                        **device.random_states(),
                        "loss_sum": loss_sum,
                        "events": job.events.text(),
                    },
                )
                stop.saved = step
                if rank.count == 1:  # it may have come meanwhile; several processes agree after the next step
                    signum = stop.signum
            if signum:
                rank.agreed(signum)  # none ends before the first has saved: the others would be taken for failed
                raise Stopped(signum, step)


def _backward(
    job: Job[RunConfig], loss_of: Callable[[Batch], Tensor], hooks: Sequence[Hook], step: int, looked_at: bool
) -> Tensor:
    """Give parameters the gradients of a step's loss, and return the loss of this process's images.

    They are the sums over the parts of the batch that are computed one after the other; the hooks' terms come with the
    last one, and are not in the loss that is returned.
    """
    losses = []
    # (b, ...) to parts of (b/parts, ...)
    for part in zip(*(each.chunk(job.parts) for each in job.batch(step - 1)), strict=True):
        with job.device.forward():
            loss = loss_of(Batch(*part)) / job.parts
        losses.append(loss.detach())
        found = [_term(hook, loss, step, looked_at) for hook in hooks] if len(losses) == job.parts else []
        sum((term for term in found if term is not None), loss).backward()
    return torch.stack(losses).sum()  # (parts,) to ()


def _check_gradients(model: nn.Module, job: Job[RunConfig]) -> None:
    """Check that a gradient reaches the weights, which a compiler's fault may keep from them without a word."""
    weights = [each for name, each in model.named_parameters() if name.endswith("weight") and each.ndim > 1]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if gradients and not any(gradient.any() for gradient in gradients):
        raise UserError(
            f"{job.label}: the gradient of every weight is 0, so that none would be trained; check the model and the "
            f"data, set hardware.compile: false, or use another version of torch than {torch.__version__}"
        )


def _term(hook: Hook, loss: Tensor, step: int, looked_at: bool) -> Tensor | None:
    """Return what a hook adds to the loss of a batch.

    Anything but a scalar that depends on a parameter is refused: it would silently do nothing. So is one that is not
    finite, if its value is to be looked at, where the loss is: it would be taken for a learning rate that is too high.
    """
    term = hook.loss()
    if term is None:
        return None
    if isinstance(term, Tensor) and term.numel() == 1 and term.requires_grad:
        if looked_at and loss.isfinite() and not term.isfinite():
            raise UserError(
                f"loss() of {type(hook).__name__} returned {term.item()} at step {step}; it should be finite"
            )
        return term
    if isinstance(term, Tensor):
        found = f"a {'tensor' if term.requires_grad else 'constant'} of shape {tuple(term.shape)}"
    else:
        found = f"a {type(term).__name__}"
    raise UserError(
        f"loss() of {type(hook).__name__} returned {found}; it should be None or a scalar tensor that depends on a "
        "weight"
    )


def _metrics(hook: Hook, known: dict[str, float], step: int) -> dict[str, float]:
    """Return the numbers that a hook logs, beside those that are known by name already."""
    found = hook.metrics()
    told = f"metrics() of {type(hook).__name__} returned"
    if not isinstance(found, dict):
        raise UserError(f"{told} a {type(found).__name__} at step {step}; it should be numbers by name, {{}} for none")
    for name, value in found.items():
        if not isinstance(name, str) or not _METRIC.fullmatch(name):
            raise UserError(f"{told} the name {name!r} at step {step}; it should be group/name of letters and digits")
        if name in known or name in _FIELDS:
            raise UserError(f"{told} {name} at step {step}, which has another meaning; choose another name")
        if not isinstance(value, Real) or isinstance(value, bool):
            raise UserError(f"{told} a {type(value).__name__} as {name} at step {step}; it should be a number")
        if not math.isfinite(value):
            raise UserError(f"{told} {value} as {name} at step {step}; it should be finite, or left out")
    # NumPy's numbers are none that JSON knows.
    return {name: int(value) if isinstance(value, Integral) else float(value) for name, value in found.items()}


def _state(hook: Hook) -> dict[str, Any]:
    """Return the state of a hook, which a checkpoint can hold and a resumed run can read."""
    state = hook.state_dict()
    name = type(hook).__name__
    if not isinstance(state, dict) or (wrong := _unsaved(state)):
        found = f"an entry {wrong}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise UserError(f"state_dict() of {name} returned {found}; it should hold tensors and plain values only")
    if state and type(hook).load_state_dict is Hook.load_state_dict:
        raise UserError(f"{name} has a state_dict() and no load_state_dict(state), so a run could not resume; add it")
    return state


def _unsaved(value: Any, place: str = "") -> str | None:
    """Return place and type of something in a state that is no tensor, plain value or container of such."""
    if isinstance(value, dict):
        return next(
            (wrong for key, item in value.items() if (wrong := _unsaved(key) or _unsaved(item, f"{place}[{key!r}]"))),
            None,
        )
    if type(value) in (list, tuple, torch.Size):
        return next((wrong for i, item in enumerate(value) if (wrong := _unsaved(item, f"{place}[{i}]"))), None)
    return None if value is None or type(value) in _SAVED else f"{place} of type {type(value).__name__}".lstrip()


def _restore(hook: Hook, state: dict[str, Any], job: Job[RunConfig]) -> None:
    """Give a hook its state from a checkpoint."""
    try:
        hook.load_state_dict(state)
    except Exception as error:  # a remedy of a user's, perhaps another one than made the state
        reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
        raise UserError(
            f"{job.label}: load_state_dict() of {type(hook).__name__} does not take the state of the checkpoint "
            f"({reason}); mend it, or delete {job.state.directory} to start from the first step"
        ) from None


@torch.no_grad()
def evaluate(model: nn.Module, data: Batches, device: Device = CPU, rank: Rank = ALONE) -> tuple[float, float]:
    """Return top-1 accuracy in percent and mean cross-entropy over all evaluation images.

    In evaluation mode, and in float32 whatever trained.
    """
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device.where)  # right answers, loss, images
    with device.exact():
        for batch in data.evaluation(rank.index, rank.count):
            _, images, labels = batch
            logits = model(images)
            sums[0] += (logits.argmax(dim=1) == labels).sum()
            sums[1] += F.cross_entropy(logits, labels, reduction="sum")
            sums[2] += len(labels)
    correct, total, count = rank.mean(sums).tolist()
    return 100 * correct / count, total / count
