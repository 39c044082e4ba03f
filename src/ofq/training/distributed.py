"""Several processes that train one run together; by default there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch.distributed import (
    ReduceOp,
    all_reduce,
    broadcast,
    destroy_process_group,
    get_rank,
    get_world_size,
    init_process_group,
    is_torchelastic_launched,
)

from ofq.data.seeds import seeded
from ofq.errors import Stopped, UserError
from ofq.quant.quantizers.lsq import LSQQuantizer

# Of those that wait while the first saves, or for one on another machine that has ended.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Rank:
    """Which of a run's processes this one is.

    Where there are several, torch's default process group connects them, and takes tensors of the processor too.

    Attributes:
        index: number of this process, from 0.
        count: how many there are.
        local: its number on this machine, which is that of its card.
    """

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process locks, logs and saves for all."""
        return self.index == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes: of one process the tensor itself."""
        if self.count == 1:
            return tensor
        total = tensor.clone()
        all_reduce(total)
        return total / self.count

    def total(self, number: float) -> float:
        """Return the sum of a number over all processes."""
        return self.count * self.mean(torch.tensor(number, dtype=torch.float64)).item()

    def agreed(self, flag: int) -> int:
        """Return the largest flag of all processes, so that what one of them is told all do."""
        if self.count == 1:
            return flag
        largest = torch.tensor(flag)
        all_reduce(largest, ReduceOp.MAX)
        return int(largest)

    def share(self, model: nn.Module) -> None:
        """Give the model of every process the numbers of the first one's."""
        for tensor in model.state_dict().values() if self.count > 1 else ():
            broadcast(tensor, 0)

    def seed(self, seed: int, step: int) -> None:
        """Let what a model draws, as for dropout, depend on (seed, step, rank) where there are several processes.

        One process alone goes on drawing from one source, whose state checkpoints hold.
        """
        if self.count > 1:
            torch.manual_seed(seeded(f"{seed}/{step}/rank {self.index}").initial_seed())

    @torch.no_grad()
    def combine(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Give every parameter the mean of its gradients over the processes, and return that of the loss.

        The mean of losses over equal parts is the loss of the whole batch, so these are its gradients. A sign that one
        process has seen in its images is known to all afterwards.

        All goes in one message after the backward pass. ``DistributedDataParallel`` sends several during it, and parts
        them anew after the first step of a process: with more than two processes a resumed run would sum in another
        order. It also refuses parameters without a gradient, and does not know of the terms that hooks add to the loss.
        """
        if self.count == 1:
            return loss
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        inputs = (each for each in model.modules() if isinstance(each, LSQQuantizer))
        signs = [each.negative_seen for each in inputs if each.signed == "detect"]
        loss = loss.clone()
        parts = [*gradients, *signs, loss]
        flat = torch.cat([part.flatten() for part in parts])  # a vector of all
        all_reduce(flat)
        for part, mean in zip(parts, (flat / self.count).split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))  # a vector to the part's shape
        for sign in signs:
            sign.ceil_()
        return loss

    @torch.no_grad()
    def check(self, model: nn.Module, label: str) -> None:
        """Check that all processes have the same weights.

        Raises:
            UserError: they differ by a bit; in every process.
        """
        if self.count == 1:
            return
        sums = torch.stack([each.double().sum() for each in model.parameters()])  # (parameters,)
        first = sums.clone()
        broadcast(first, 0)
        if self.agreed(int(not torch.equal(first, sums))):
            raise UserError(
                f"{label}: the weights of its {self.count} processes differ; a class of your own that draws random "
                "numbers should draw the same in each (torch.Generator().manual_seed), and cards should be of one kind"
            )


ALONE = Rank()


@contextmanager
def joined(where: str) -> Iterator[Rank]:
    """Connect this process with the others of its run that torchrun has started, if it has; yield which one it is.

    Where a signal stops all of them after the same step, the first alone goes on to say so.

    Args:
        where: torch's name of the kind of device on which they compute.
    """
    if not is_torchelastic_launched():
        yield ALONE
        return
    init_process_group("gloo" if where == "cpu" else f"cpu:gloo,{where}:nccl", timeout=_PATIENCE)
    rank = Rank(get_rank(), get_world_size(), int(os.environ["LOCAL_RANK"]))
    try:
        yield rank
    except Stopped:
        if rank.leads:
            raise
    destroy_process_group()  # not after an error: others may still wait for this process
