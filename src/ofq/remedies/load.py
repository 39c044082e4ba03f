"""Make the remedy that a run's settings name."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from ofq.config.settings import RemedySettings
from ofq.errors import UserError
from ofq.quant.hook import Hook
from ofq.runs.code_digest import module_file


def make_remedy(remedy: RemedySettings, student: nn.Module, steps: int) -> Hook:
    """Make the remedy for a quantized and calibrated student: ``Class(student, steps, **arguments)``.

    Raises:
        UserError: as in :func:`remedy_class`, or the class refuses the student or the arguments.
    """
    made = remedy_class(remedy)
    try:
        hook: Hook = made(student, steps, **remedy.arguments)
    except ValueError as error:
        raise _refused(remedy, error) from None
    return hook


def remedy_class(remedy: RemedySettings) -> type[Any]:
    """Import the class that the settings name.

    Remedies are imported by name here and nowhere else, so the code of a run (``RunConfig.modules``) holds its own
    remedy and no other.

    Raises:
        UserError: the module cannot be imported, the class is no remedy, or it does not take such arguments.
    """
    module, name = remedy.place
    source = module_file(module)
    if source is None:
        raise UserError(f"remedy {remedy.name}: no module '{module}' beside params.yaml")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's file does when it is imported
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"remedy {remedy.name}: {source} cannot be imported ({what}); mend it") from None
    if Path(found.__file__ or "").resolve() != source.resolve():
        raise UserError(f"remedy {remedy.name}: '{module}' is the name of another module; rename {source}")
    made = getattr(found, name, None)
    wanted = [method for method in vars(Hook) if not method.startswith("_")]
    if not isinstance(made, type) or not all(callable(getattr(made, method, None)) for method in wanted):
        raise UserError(f"remedy {remedy.name}: the class should derive from ofq.remedies.Remedy")
    try:
        inspect.signature(made).bind(None, 1, **remedy.arguments)
    except TypeError as error:
        raise _refused(remedy, error) from None
    return made


def _refused(remedy: RemedySettings, error: Exception) -> UserError:
    return UserError(f"remedy {remedy.name}: {error}; mend its arguments in params.yaml")
