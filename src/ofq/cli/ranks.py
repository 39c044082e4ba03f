"""A run of several processes: torchrun's agent, in this process, starts them, and this one ends as they end."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from ofq.cli.run import INTERRUPTED, KEPT, LOST, Ended
from ofq.config.resolve import Keeping, RunConfig
from ofq.runs.paths import Run
from ofq.workflow.warm import SIGNALS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_OFQ = "ofq: "
_CARDS = "CUDA_VISIBLE_DEVICES"


def start(run: Run, config: RunConfig, keeping: Keeping) -> None:
    """Train a run in several processes, on cards that are held for it.

    torchrun's own variables say where they are not all on this machine: with ``PET_NNODES``, ``PET_NPROC_PER_NODE``,
    ``PET_RDZV_BACKEND`` and ``PET_RDZV_ENDPOINT`` the same command, on each of several machines, trains one run.

    Args:
        run: what is trained.
        config: of the run.
        keeping: has the number of processes.

    Raises:
        UserError: this machine has too few cards.
        SystemExit: a process failed or was stopped; what it had to say is printed.
    """
    # Each process sets its own number of threads; torchrun warns where this is left open.
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import determine_local_world_size, parse_args
    from torch.distributed.run import run as launch

    from ofq.training.device import device_of

    given = [] if "PET_NPROC_PER_NODE" in os.environ else [f"--nproc-per-node={keeping.devices}"]
    given += [] if "PET_RDZV_ENDPOINT" in os.environ else ["--standalone"]
    command = [config.phase, str(run), *(["--resume-across-code"] if keeping.resume_across_code else [])]
    with tempfile.TemporaryDirectory(prefix="ofq-") as folder, _passing_on():
        options = parse_args([*given, f"--log-dir={folder}", "--signals-to-handle=SIGQUIT", "-m", "ofq", *command])
        here = determine_local_world_size(options.nproc_per_node)
        with device_of(config.hardware).cards(here, keeping.runs_per_gpu, run.label) as cards:
            if cards:
                seen = os.environ[_CARDS].split(",") if _CARDS in os.environ else None
                os.environ[_CARDS] = ",".join(seen[card] if seen else str(card) for card in cards)
            logging.disable()  # the agent's words on what a process has said in one line
            try:
                launch(options)
            except ChildFailedError as error:
                raise _end_of(error.failures) from None


@contextlib.contextmanager
def _passing_on() -> Iterator[None]:
    """Pass signals that stop a run on to its processes, each of which would tell the others."""

    def pass_on(signum: int, frame: object) -> None:
        children = psutil.Process().children()
        if not children:
            raise KeyboardInterrupt(signum)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signum)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_of(failures: dict[int, "ProcessFailure"]) -> Ended:
    """Print what the process had to say that failed first, and return the end with its exit code.

    When one fails, the agent stops the others, and these may have lost their connection before.
    """
    number, first = min(failures.items(), key=lambda each: _order(each[1]))
    line = first.error_file_data.get("message")
    if not isinstance(line, str) or not line.startswith(_OFQ):
        memory = ", often for want of memory" if first.exitcode == -signal.SIGKILL else ""
        killed = f"process {number} of the run was killed by {first.signal_name()}{memory}"
        line = f"{_OFQ}error: {killed}; {KEPT}" if first.exitcode < 0 else ""
    if line:
        print(line, file=sys.stderr)
    code = 1 if first.exitcode == LOST else first.exitcode if first.exitcode > 0 else INTERRUPTED - first.exitcode
    return Ended(code, line.removeprefix(_OFQ).removeprefix("error: ") or f"process {number} of the run failed")


def _order(failure: "ProcessFailure") -> tuple[bool, bool, int]:
    stopped = failure.exitcode in (-signal.SIGTERM, INTERRUPTED + signal.SIGTERM)
    return stopped, failure.exitcode == LOST, failure.timestamp
