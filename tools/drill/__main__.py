"""``python -m tools.drill``: the drill from beginning to end, and its verdict."""

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import tools.drill
from ofq.errors import UserError
from tools.drill.course import Course, GivenUp
from tools.drill.plan import draw
from tools.drill.processes import Processes
from tools.drill.study import PARAMS, Copy
from tools.drill.verdict import compare, comparison_table, strike_table, summary

_LOGGER = logging.getLogger("ofq.drill")


def main(argv: list[str]) -> int:
    """Run the drill; return 0 where everything agrees, 1 where something differs, 2 for a mistake of the caller's."""
    parser = argparse.ArgumentParser("python -m tools.drill", description=tools.drill.__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, help="of the random choices; drawn and printed where it is left out")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    try:
        return 0 if drill(arguments.kills, seed) else 1
    except UserError as error:
        print(f"ofq: error: {error}", file=sys.stderr)
        return 2


def drill(kills: int, seed: int, params: str = PARAMS) -> bool:
    """Run the drill in the project's root and print what was killed, what came after, and the comparison.

    The two copies of the project are removed unless the drill fails.

    Args:
        kills: how many to make.
        seed: of the random choices.
        params: text of the ``params.yaml`` whose study is run.

    Returns:
        Whether all kills were made and nothing was found wrong.

    Raises:
        UserError: this is no project or not Linux, or the undisturbed study fails.
    """
    if sys.platform != "linux":
        raise UserError("the drill finds its processes through /proc: it needs Linux")
    if kills < 1:
        raise UserError(f"--kills {kills}: at least one is needed")
    root = Path(tempfile.mkdtemp(prefix="ofq-drill-")).resolve()
    mark = secrets.token_hex(8)
    undisturbed, disturbed = Copy(root / "undisturbed", mark), Copy(root / "disturbed", mark)
    processes = Processes(disturbed.root, mark)
    # Not even SIGTERM ends the drill before it has ended what it started.
    handler = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    failed = False
    try:
        for copy in (undisturbed, disturbed):
            copy.make(params)
        _LOGGER.info(f"seed {seed}: python -m tools.drill --kills {kills} --seed {seed} makes the same choices again")
        patience = 120 + 5 * _run_undisturbed(undisturbed)
        course = Course(disturbed, processes, draw(kills, seed, list(disturbed.folders)), patience)
        problems = _find_problems(course, disturbed)
        comparison = compare(undisturbed.root, disturbed.root)
        failed = bool(problems) or not comparison.equal
    finally:
        processes.end()
        signal.signal(signal.SIGTERM, handler)
        if not failed:
            shutil.rmtree(root, ignore_errors=True)
    print(strike_table(course.strikes), "", comparison_table(comparison), "", sep="\n")
    for problem in problems:
        print(f"failed: {problem}")
    if failed:
        print(f"both copies, with their logs, stay in {root}")
    print(summary(course, comparison, failed=failed))
    return not failed


def _run_undisturbed(copy: Copy) -> float:
    """Run the study to its end and return the seconds that it took."""
    started = time.monotonic()
    if copy.start().wait() != 0:
        raise UserError(f"the undisturbed study failed; what it printed: {copy.last_lines()}")
    seconds = time.monotonic() - started
    _LOGGER.info(f"undisturbed study: {seconds:.0f} s; now the disturbed one")
    return seconds


def _find_problems(course: Course, copy: Copy) -> list[str]:
    """Run the disturbed study and return all that went wrong on the way, or is wrong at its end."""
    try:
        course.run()
    except GivenUp as error:
        return [f"{error}; {copy.last_lines()}", *course.orphans.values()]
    return [*course.orphans.values(), *copy.problems()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
