"""Peak memory of a training step and what the graph keeps for the backward pass, each subject in its own process.

python -m benchmarks.memory                                     DeiT-T
python -m benchmarks.memory --size micro --subjects fp statsq

Peak: largest resident size over three steps minus that after the imports, in MiB: parameters, gradients, AdamW's state,
batch and graph. Saved: bytes of the tensors that autograd keeps between forward and backward pass, each storage once,
parameters left out; on any device.
"""

import argparse
import resource
import subprocess
import sys

import torch
from torch import Tensor

from benchmarks.rounds import conditions
from benchmarks.subjects import KINDS, SIZES, Subject, subject

MIB = 2**20


def resident() -> float:
    """Resident size of this process, MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def peak() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def saved(measured: Subject) -> float:
    """MiB that one step's graph keeps."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in measured.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        measured.step()
    return sum(kept.values()) / MIB


def main() -> None:
    """Print peak and saved bytes of every subject, and their ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--subjects", nargs="+", default=["fp", *KINDS])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only:
        before = resident()
        measured = subject(SIZES[arguments.size], arguments.only)
        for _ in range(3):
            measured.step()
        print(peak() - before, saved(measured))
        return
    print(f"{arguments.size}: {SIZES[arguments.size]}\n{conditions()}")
    print(f"{'':<24} {'peak, MiB':>10} {'ratio':>6} {'saved, MiB':>11} {'ratio':>6}")
    base: list[float] = []
    for name in arguments.subjects:
        command = [sys.executable, "-m", "benchmarks.memory", "--size", arguments.size, "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        values = [float(value) for value in done.stdout.split()]
        base = base or values
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        print(f"{name:<24} {values[0]:>10.0f} {ratios[0]:>6.2f} {values[1]:>11.0f} {ratios[1]:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
