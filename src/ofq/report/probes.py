"""What the probes of trained runs saw: the table ``coupling`` and the figure ``boundary``."""

from pathlib import Path

from ofq.params import Params
from ofq.report.boundary import write_boundary
from ofq.report.coupling import write_coupling


def write_probes(params: Params, study: str, directory: Path) -> None:
    """Write both.

    Args:
        params: narrowed to the grid.
        study: name.
        directory: of the report.

    Raises:
        UserError: a run's ``probe.json`` is missing or damaged.
    """
    write_coupling(params, study, directory)
    write_boundary(params, study, directory)
