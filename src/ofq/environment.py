"""The environment variables of this project, and the logging that one of them sets."""

import logging
import os
import sys
from pathlib import Path

from ofq.errors import UserError, unknown

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

UNDER_SNAKEMAKE = "OFQ_UNDER_SNAKEMAKE"
"""Set for jobs of Snakemake, whose states stay until Snakemake is done: it deletes what a job wrote if the job is
killed before it is known to have succeeded."""

RESUME_ACROSS_CODE = "OFQ_RESUME_ACROSS_CODE"
""""1" means --resume-across-code for every job of a study."""

WARM_SOCKET = "OFQ_WARM_SOCKET"
"""Address at which a job reaches the warm process."""

OWN_PROCESS = "OFQ_OWN_PROCESS"
"""Studies whose jobs do not run in children of the warm process, by their names: CUDA does not outlive a fork."""

SETTINGS = "OFQ_SETTINGS"
"""File with the settings of Snakemake's jobs; without it they read ``params.yaml``."""

LOCKS = "OFQ_LOCKS"
"""Directory for the locks of runs, where the file system of the project has none."""

LOG_LEVEL = "OFQ_LOG_LEVEL"
"""How much of the progress is logged: ``debug``, ``info`` (default), ``warning`` or ``error``."""

DRILL = "OFQ_DRILL"
"""Marks the processes of a drill (``tools/drill``)."""

GOLDEN = "OFQ_GOLDEN"
"""Folder of other numeric fixtures, for ``tests/golden``."""

_KNOWN = {value for value in [*globals().values()] if isinstance(value, str) and value.startswith("OFQ_")}

SOURCE = Path(__file__).resolve().parents[1]
"""The folder that this package is imported from."""


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print progress as it is, and warnings with the project's name in front, like errors."""
        name = "" if record.levelno < logging.WARNING else f"ofq: {record.levelname.lower()}: "
        print(f"{name}{self.format(record)}", file=sys.stderr, flush=True)


def check_variables() -> None:
    """Check that no variable of this project would do nothing, by its name or by its value.

    Raises:
        UserError: one would; names the nearest of those that people set, or the right values.
    """
    for name in sorted(os.environ):
        if name.upper().startswith("OFQ_") and name not in _KNOWN:
            raise unknown("environment variable", name, [LOG_LEVEL, LOCKS, RESUME_ACROSS_CODE])
    if (value := os.environ.get(RESUME_ACROSS_CODE, "0")) not in ("0", "1"):
        raise UserError(f"{RESUME_ACROSS_CODE} should be 1 or 0, not '{value}'")


def check_checkout() -> None:
    """Raise :class:`UserError` if this process works in a checkout and runs the package of another one."""
    if Path("src/ofq/__init__.py").is_file() and not SOURCE.samefile("src"):
        raise UserError(f"this is the package of {SOURCE}; for that of this checkout: PYTHONPATH=src python -m ofq ...")


def configure_logging() -> None:
    """Send progress and warnings of this package to standard error.

    Raises:
        UserError: ``OFQ_LOG_LEVEL`` names no level.
    """
    level = os.environ.get(LOG_LEVEL, "info").upper()
    if level not in _LEVELS:
        raise unknown(f"level in {LOG_LEVEL}:", level.lower(), [name.lower() for name in _LEVELS])
    logger = logging.getLogger("ofq")
    logger.handlers = [_StandardError()]
    logger.setLevel(level)
