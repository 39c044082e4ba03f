"""Several processes that train one run together; by default there is one."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce


@dataclass(frozen=True)
class Rank:
    """Which of a run's processes this one is.

    Where there are several, torch's default process group connects them, and takes tensors of the processor too.

    Attributes:
        index: number of this process, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

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

    def average_gradients(self, model: nn.Module) -> None:
        """Give every parameter the mean of its gradients, which is that of the loss over the whole batch."""
        for parameter in model.parameters() if self.count > 1 else ():
            if parameter.grad is not None:
                parameter.grad = self.mean(parameter.grad)

    def agreed(self, flag: int) -> int:
        """Return the largest flag of all processes, so that what one of them is told all do."""
        if self.count == 1:
            return flag
        largest = torch.tensor(flag)
        all_reduce(largest, ReduceOp.MAX)
        return int(largest)


ALONE = Rank()
