"""Time of a study's training steps with the teacher's output stored, beside a forward pass of the teacher at each step.

python -m benchmarks.teacher                                      needs the study's data and teacher; 20 steps a round
python -m benchmarks.teacher digits/vit_micro/w4a4/statsq-qkr/seed0 --rounds 40
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack

import torch

from benchmarks.rounds import conditions, interleaved, table
from ofq.config import params
from ofq.config.resolve import StudentConfig, resolve
from ofq.quant import calibrate
from ofq.runs import states
from ofq.runs.paths import Run
from ofq.training.job import Job, Step, started
from ofq.training.optim import make_optimizer
from ofq.training.student import loss_from, make_student

STEPS = 20  # of a round


def steps(job: Job[StudentConfig]) -> Callable[[], None]:
    """Some training steps of a student, its optimizer's included."""
    student = make_student(job)
    calibrate(student, [job.batch(0).images])
    optimizer = make_optimizer(student, job.config.train)
    loss_of = loss_from(job, student)

    def work() -> None:
        for step in range(STEPS):
            loss = loss_of(job.batch(step))
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
    with ExitStack() as stack:
        work = {}
        for name, kind in kinds.items():
            job = stack.enter_context(started(run, kind, Step("ofq.training.qat", aside=f"benchmark-{name}")))
            stack.callback(states.drop, job.state.directory)
            work[name] = steps(job)
        print(table(interleaved(work, rounds=arguments.rounds), base="stored"))


if __name__ == "__main__":
    main()
