"""The drill from beginning to end, and its verdict."""

import secrets
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ofq.config import params
from ofq.errors import UserError
from ofq.runs.paths import PARAMS
from tools.drill.compare import Comparison, compare
from tools.drill.course import GRACE_SECONDS, Course, GivenUp
from tools.drill.observe import leftovers
from tools.drill.plan import draw
from tools.drill.processes import MARK, Processes
from tools.drill.study import NAME, Copy, ShortStudy
from tools.drill.table import comparison_table, strike_table, summary

_LIMIT_SECONDS = 3 * 3600.0


@dataclass
class Verdict:
    """What the drill found; ``problems`` are the reasons why it failed."""

    course: Course
    comparison: Comparison
    problems: list[str]

    @property
    def passed(self) -> bool:
        """Whether every kill was made and nothing was found."""
        return not self.problems and self.comparison.equal


def drill(kills: int, *, seed: int, keep: Path | None = None, study: ShortStudy | None = None) -> bool:
    """Run the drill in the project's root and print what was killed, what came after, and the comparison.

    Args:
        kills: how many to make.
        seed: of the random choices.
        keep: directory for the two copies, which stays; a temporary one is removed unless the drill fails.
        study: what is run.

    Returns:
        Whether all kills were made and all files agree.

    Raises:
        UserError: this is no project or not Linux, or the undisturbed study fails.
    """
    if sys.platform != "linux":
        raise UserError("the drill finds its processes through /proc: it needs Linux")
    if not PARAMS.is_file():
        raise UserError(f"{PARAMS} not found in {Path.cwd()}; run from the project's root")
    params.load()
    if kills < 1:
        raise UserError(f"--kills {kills}: at least one is needed")
    root = _directory(keep)
    value = secrets.token_hex(8)
    calm, disturbed = (Copy(root / name, study or ShortStudy(), {MARK: value}) for name in ("undisturbed", "disturbed"))
    processes = Processes(disturbed.root, value)
    # Not even SIGTERM ends the drill before it has ended what it started.
    before = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    evidence = keep is not None
    try:
        verdict = _drill(calm, disturbed, processes, kills, seed)
        evidence |= not verdict.passed
    finally:
        processes.end()
        signal.signal(signal.SIGTERM, before)
        if not evidence:
            shutil.rmtree(root, ignore_errors=True)
    print(strike_table(verdict.course.strikes), "", comparison_table(verdict.comparison), "", sep="\n")
    for problem in verdict.problems:
        print(f"failed: {problem}")
    if evidence:
        print(f"both copies, with their logs, stay in {root}")
    print(summary(verdict.course, verdict.comparison, failed=not verdict.passed))
    return verdict.passed


def _drill(calm: Copy, disturbed: Copy, processes: Processes, kills: int, seed: int) -> Verdict:
    for copy in (calm, disturbed):
        copy.make(Path.cwd())
    _say(f"seed {seed}: python -m tools.drill --kills {kills} --seed {seed} makes the same choices again")
    started = time.monotonic()
    if calm.start().wait() != 0:
        raise UserError(f"the undisturbed study failed; what it printed: {calm.last_lines()}")
    calm_seconds = time.monotonic() - started
    _say(f"undisturbed study: {calm_seconds:.0f} s; now the disturbed one")
    course = Course(
        disturbed,
        processes,
        draw(kills, seed, disturbed.study.runs),
        seed=seed,
        patience=120 + 5 * calm_seconds,
        limit=_LIMIT_SECONDS,
        say=_say,
    )
    problems = []
    try:
        course.run()
    except GivenUp as error:
        problems.append(f"{error}; {disturbed.last_lines()}")
    problems += [f"plain snakemake failed with nothing killed: {lines}" for lines in course.failed_starts]
    problems += [*course.orphans, *_left_running(processes)]
    comparison = compare(calm.root, disturbed.root)
    if not problems and not disturbed.nothing_to_do():
        problems.append(f"snakemake -n still plans something: {disturbed.last_lines()}")
    if not problems:
        problems += [f"snakemake does not know what made {name}" for name in disturbed.unrecorded()]
    problems += [f"left behind: {name}" for name in leftovers(disturbed.root, NAME)]
    return Verdict(course, comparison, problems)


def _left_running(processes: Processes) -> list[str]:
    """What still runs although Snakemake has ended."""
    deadline = time.monotonic() + GRACE_SECONDS
    while living := processes.scan(time.monotonic()):
        if time.monotonic() > deadline:
            return [f"still running: {process.role} {process.step} (process {process.pid})" for process in living]
        time.sleep(0.1)
    return []


def _directory(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="ofq-drill-")).resolve()
    if keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        raise UserError(f"{keep} is not empty; name a new directory for --keep")
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
