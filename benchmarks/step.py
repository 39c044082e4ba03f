"""Time of a training step beside that of the full-precision student.

python -m benchmarks.step                                                       DeiT-T, one thread, 9 rounds
python -m benchmarks.step --size micro --rounds 40
python -m benchmarks.step --subjects fp statsq-qkr statsq-qkr+teacher
"""

import argparse

import torch

from benchmarks.rounds import conditions, interleaved, table
from benchmarks.subjects import KINDS, SIZES, subject


def main() -> None:
    """Print min, median and max of every subject."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--subjects", nargs="+", default=["fp", *KINDS])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = SIZES[arguments.size]
    steps = {name: subject(size, name).step for name in arguments.subjects}
    print(f"{arguments.size}: {size}\n{conditions()}; {arguments.rounds} rounds", flush=True)
    print(table(interleaved(steps, rounds=arguments.rounds), base=arguments.subjects[0]))


if __name__ == "__main__":
    main()
