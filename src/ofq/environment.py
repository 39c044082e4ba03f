"""The environment variables of this project, and the logging that one of them sets."""

import logging
import os
import sys

from ofq.errors import unknown

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

UNDER_SNAKEMAKE = "OFQ_UNDER_SNAKEMAKE"
"""Set for jobs of Snakemake, whose states stay until Snakemake is done: it deletes what a job wrote if the job is
killed before it is known to have succeeded."""

RESUME_ACROSS_CODE = "OFQ_RESUME_ACROSS_CODE"
""""1" means --resume-across-code for every job of a study."""

WARM_SOCKET = "OFQ_WARM_SOCKET"
"""Address at which a job reaches the warm process."""

SETTINGS = "OFQ_SETTINGS"
"""File with the settings of Snakemake's jobs; without it they read ``params.yaml``."""

LOCKS = "OFQ_LOCKS"
"""Directory for the locks of runs, where the file system of the project has none."""

LOG_LEVEL = "OFQ_LOG_LEVEL"
"""How much of the progress is logged: ``debug``, ``info`` (default), ``warning`` or ``error``."""


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print progress as it is, and warnings with the project's name in front, like errors."""
        name = "" if record.levelno < logging.WARNING else f"ofq: {record.levelname.lower()}: "
        print(f"{name}{self.format(record)}", file=sys.stderr, flush=True)


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
