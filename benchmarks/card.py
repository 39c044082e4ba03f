"""What a training step costs on a card: time, memory, compilation, and the shares of meter and annealing.

python -m benchmarks.card                                              DeiT-T, batch 256, all modes and kinds
python -m benchmarks.card --modes bf16-compiled --kinds statsq statsq-qkr --parts steps profile
python -m benchmarks.card --device cpu --size toy --rounds 1 --steps 1 the same code, without a card

A row is a student beside the one in full precision in the same mode, in turns, some steps each; its time is the median
over the rounds, and its ratio that of the ratios. The compiler's folders are fresh for each student, so that the time
of the first step, less that of another, is what compiling from cold takes; with --warm they are those of every run.
Rows are printed as they are measured.
"""

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace

import timm
import torch
from torch import nn

from benchmarks.subjects import KINDS, SIZES, Place, Size, Subject, backbone, subject
from ofq.oscillation.recorder import OscillationRecorder
from ofq.remedies import ConfidenceGuidedAnnealing
from ofq.training.device import Device

MODES = ("tf32", "bf16", "bf16-compiled")
PARTS = ("steps", "teacher", "hooks", "torchao", "profile")
GIB = 2**30


class Card:
    """A device on which things are timed; the CPU too, by the clock."""

    def __init__(self, device: str) -> None:
        self.device, self.is_card = device, device != "cpu"

    def wait(self) -> None:
        """Wait until all is done."""
        if self.is_card:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of some work, by the card's own events."""
        if not self.is_card:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.wait()
        first.record()
        work()
        last.record()
        self.wait()
        return first.elapsed_time(last) / 1000

    def held(self) -> int:
        """Bytes that are held now."""
        return torch.cuda.memory_allocated() if self.is_card else 0

    def peak(self, work: Callable[[], object]) -> int:
        """Most bytes that are held during some work."""
        if not self.is_card:
            work()
            return 0
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated()

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.is_card:
            torch.cuda.empty_cache()

    def runs(self, mode: str) -> Device:
        """Where a run of a mode computes, and how."""
        precision = "tf32" if mode == "tf32" else "bf16"
        return Device(self.device, precision, mode.endswith("compiled"))


def place(device: Device) -> Place:
    """Where a student trains as a run does."""
    return Place(device.where, device.forward, device.place)


class Contestant:
    """A student that has taken its first steps.

    Attributes:
        step: one training step.
        peak: bytes that it holds at most.
        compiling: seconds that the first step took longer than another.
        graphs: how many the compiler made, and the breaks between them, of which there should be none.
        phases: of the compiler, seconds each.
    """

    def __init__(self, card: Card, make: Callable[[], Subject], *, warm: bool = False) -> None:
        from torch._inductor.utils import fresh_cache

        before = card.held()
        made = make()
        torch._dynamo.utils.counters.clear()
        torch._dynamo.utils.compilation_time_metrics.clear()
        self.model, self.step = made.model, made.step
        with nullcontext() if warm else fresh_cache():
            first = _clock(card, self.step)
            for _ in range(2):
                self.step()
        weights = [weight for name, weight in self.model.named_parameters() if name.endswith("weight")]
        if not any(weight.grad is not None and weight.grad.any() for weight in weights if weight.ndim > 1):
            raise SystemExit("no weight has a gradient: what is timed would not be training")
        self.compiling = first - _clock(card, self.step)
        counted = torch._dynamo.utils.counters
        self.graphs = f"{counted['stats']['unique_graphs']}/{sum(counted['graph_break'].values())}"
        self.phases = {name: sum(spent) for name, spent in torch._dynamo.utils.compilation_time_metrics.items()}
        self.peak = card.peak(self.step) - before


def _clock(card: Card, work: Callable[[], object]) -> float:
    card.wait()
    start = time.perf_counter()
    work()
    card.wait()
    return time.perf_counter() - start


def in_turns(
    card: Card, works: Mapping[str, Callable[[], object]], *, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds of one step of each in each round."""
    order, taken = list(works), {name: list[float]() for name in works}
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            work = works[name]
            taken[name].append(card.seconds(lambda work=work: [work() for _ in range(steps)]) / steps)
    return taken


def row(name: str, taken: dict[str, list[float]], base: str, size: Size, one: Contestant, fp: Contestant) -> str:
    """A line of the table."""
    seconds = statistics.median(taken[name])
    ratio = statistics.median(a / b for a, b in zip(taken[name], taken[base], strict=True))
    memory = f"{one.peak / GIB:>8.2f} {one.peak / fp.peak:>5.2f}" if fp.peak else f"{'-':>8} {'-':>5}"
    return (
        f"{name:<32} {1000 * seconds:>8.2f} {size.batch / seconds:>9.0f} {ratio:>6.2f} {memory} {one.compiling:>7.1f}"
        f" {one.graphs:>7}"
    )


def students(arguments: argparse.Namespace, card: Card, size: Size, mode: str, where: Place) -> Iterator[str]:
    """The rows of a mode."""
    turns = {"rounds": arguments.rounds, "steps": arguments.steps}
    base = f"{mode} fp"
    fp = Contestant(card, lambda: subject(size, "fp", where), warm=arguments.warm)
    yield row(base, in_turns(card, {base: fp.step}, **turns), base, size, fp, fp)
    if "profile" in arguments.parts:
        yield from profile(card, fp, arguments.lines)
    names = [*arguments.kinds] if "steps" in arguments.parts else []
    names += [f"{kind}+teacher" for kind in arguments.kinds[-1:] if "teacher" in arguments.parts]
    for kind in names:
        name = f"{mode} {kind}"
        one = Contestant(card, lambda kind=kind: subject(size, kind, where), warm=arguments.warm)
        yield row(name, in_turns(card, {base: fp.step, name: one.step}, **turns), base, size, one, fp)
        if "profile" in arguments.parts:
            yield from profile(card, one, arguments.lines)
        del one
        card.free()
    if "torchao" in arguments.parts and (make := torchao(size)):
        name = f"{mode} torchao"
        one = Contestant(card, lambda: subject(size, "torchao", where, make()), warm=arguments.warm)
        yield row(name, in_turns(card, {base: fp.step, name: one.step}, **turns), base, size, one, fp)


def torchao(size: Size) -> Callable[[], nn.Module] | None:
    """What makes the model with torchao's linear layers, if the library is there."""
    try:
        import torchao.quantization.qat  # noqa: F401
    except ImportError:
        return None
    from benchmarks.peers import torchao_layer

    def make() -> nn.Module:
        model = backbone(size)
        for parent in list(model.get_submodule("blocks").modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, torchao_layer(child, size.bits))
        return model.train()

    return make


def hooks(arguments: argparse.Namespace, card: Card, size: Size, mode: str, where: Place) -> Iterator[str]:
    """What meter and annealing add to the steps of the last kind, and the time of the hooks alone."""
    kind = arguments.kinds[-1]
    made = {
        "": None,
        "+meter": OscillationRecorder,
        "+annealing": lambda model: ConfidenceGuidedAnnealing(model, 0.005),
    }
    works: dict[str, Callable[[], object]] = {}
    alone: dict[str, Callable[[], object]] = {}
    for name, make in made.items():
        measured = subject(size, kind, where)
        if make is not None:
            around, update = make(measured.model), measured.optimizer.step

            def both(around: object = around, update: Callable[[], object] = update) -> None:
                around.before_update(0.0)  # type: ignore[attr-defined]
                update()
                around.after_update(0.0)  # type: ignore[attr-defined]

            def only(around: object = around) -> None:
                around.before_update(0.0)  # type: ignore[attr-defined]
                around.after_update(0.0)  # type: ignore[attr-defined]

            measured.optimizer.step = both  # type: ignore[method-assign,assignment]
            alone[name] = only
        works[name] = measured.step
        for _ in range(3):
            measured.step()
    taken = in_turns(card, works, rounds=arguments.rounds, steps=arguments.steps)
    plain = statistics.median(taken[""])
    for name, work in alone.items():
        added = statistics.median(a - b for a, b in zip(taken[name], taken[""], strict=True))
        hook = statistics.median(in_turns(card, {name: work}, rounds=arguments.rounds, steps=arguments.steps)[name])
        yield (
            f"{mode} {kind} {name:<12} step {1000 * plain:.2f} ms; adds {1000 * added:.2f} ms,"
            f" {100 * added / plain:.1f} %; alone {1000 * hook:.2f} ms, {100 * hook / plain:.1f} %"
        )


def profile(card: Card, one: Contestant, lines: int) -> Iterator[str]:
    """Where the time of a step goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card.is_card else [])]
    with profiled(activities=activities) as found:
        for _ in range(3):
            one.step()
        card.wait()
    order = "self_device_time_total" if card.is_card else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, order))
    if card.is_card:
        events = [event for event in events if event.self_device_time_total > 0 and not event.self_cpu_time_total]
    total, count = sum(getattr(event, order) for event in events) / 3000, sum(event.count for event in events) / 3
    longest = sorted(one.phases.items(), key=lambda phase: -phase[1])[:12]
    yield "    compiling: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in longest)
    yield f"    {total:.2f} ms in {count:.0f} kernels a step"
    for event in events[:lines]:
        yield f"    {getattr(event, order) / 3000:>8.3f} ms {event.count / 3:>6.1f} x  {event.key[:140]}"


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lines", type=int, default=30, help="of a profile")
    parser.add_argument("--warm", action="store_true", help="compile with torch's own folders, not from cold")
    arguments = parser.parse_args()
    size = replace(SIZES[arguments.size], batch=arguments.batch)
    card = Card(arguments.device)
    torch._dynamo.config.recompile_limit = 32  # one function of timm's is the forward pass of every student's blocks
    name = torch.cuda.get_device_name() if card.is_card else "no card"
    libraries = f"torch {torch.__version__}, timm {timm.__version__}"  # a lent machine has few others
    print(f"{arguments.size}: {size}\n{name}; {libraries}; {arguments.rounds} x {arguments.steps} steps", flush=True)
    print(
        f"{'':<32} {'ms':>8} {'images/s':>9} {'x fp':>6} {'peak GiB':>8} {'x fp':>5} {'cold s':>7} {'graphs':>7}",
        flush=True,
    )
    for mode in arguments.modes:
        device = card.runs(mode)
        with device.begun():
            if {"steps", "teacher", "torchao", "profile"} & set(arguments.parts):
                for line in students(arguments, card, size, mode, place(device)):
                    print(line, flush=True)
                card.free()
            if "hooks" in arguments.parts and mode == arguments.modes[-1]:
                for line in hooks(arguments, card, size, mode, place(device)):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
