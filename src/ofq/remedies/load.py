"""Make the remedy that a run's settings name."""

import inspect
from typing import Any

from torch import nn

from ofq.config.settings import RemedySettings
from ofq.errors import UserError
from ofq.quant.hook import Hook


def make_remedy(remedy: RemedySettings, student: nn.Module, steps: int) -> Hook:
    """Make the remedy for a quantized and calibrated student: ``Class(student, steps, **arguments)``.

    Raises:
        UserError: as in :func:`remedy_class`, or the class refuses the student or the arguments.
    """
    made = remedy_class(remedy)
    try:
        hook: Hook = made(student, steps, **remedy.arguments)
    except (ValueError, TypeError) as error:
        raise _refused(remedy, error) from None
    return hook


def remedy_class(remedy: RemedySettings) -> type[Any]:
    """Import the class that the settings name.

    Raises:
        UserError: the module cannot be imported, the class is no remedy, or it does not take such arguments.
    """
    made: type[Any] = remedy.entry.load(Hook, "ofq.remedies.Remedy")
    try:
        inspect.signature(made).bind(None, 1, **remedy.arguments)
    except TypeError as error:
        raise _refused(remedy, error) from None
    return made


def _refused(remedy: RemedySettings, error: Exception) -> UserError:
    return UserError(f"remedy {remedy.name}: {error}; mend its arguments in params.yaml")
