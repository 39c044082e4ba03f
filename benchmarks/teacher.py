"""Time of a study's training steps with the teacher's output stored, beside a forward pass of the teacher at each step.

python -m benchmarks.teacher                                      needs the study's data and teacher; 20 steps a round
python -m benchmarks.teacher digits/vit_micro/w4a4/statsq-qkr/seed0 --rounds 40
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.rounds import conditions, interleaved, table
from ofq.config import params
from ofq.config.resolve import RunConfig, resolve
from ofq.quant import calibrate
from ofq.runs.paths import Run
from ofq.training.optim import make_optimizer
from ofq.training.student import load_data, loss_from, make_student

STEPS = 20  # of a round


def steps(run: Run, config: RunConfig) -> Callable[[], None]:
    """Some training steps of a student, its optimizer's included."""
    data = load_data(run, config)
    student = make_student(run, config, data)
    calibrate(student, [data.train_batch(config.seed, 0, config.train.batch_size).images])
    optimizer = make_optimizer(student, config.train)
    loss_of = loss_from(run, config, data, student)

    def work() -> None:
        for step in range(STEPS):
            loss = loss_of(data.train_batch(config.seed, step, config.train.batch_size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return work


def main() -> None:
    """Print min, median and max of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="digits/vit_micro/w2a2/statsq/seed0")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    run = Run.named(arguments.run)
    config = resolve(params.load(), run)
    torch.set_num_threads(config.threads)
    kinds = {
        name: config.model_copy(update={"teacher_once": once}) for name, once in (("stored", True), ("live", False))
    }
    print(f"{run}, {STEPS} steps a round\n{conditions()}; {arguments.rounds} rounds", flush=True)
    work = {name: steps(run, kind) for name, kind in kinds.items()}
    print(table(interleaved(work, rounds=arguments.rounds), base="stored"))


if __name__ == "__main__":
    main()
