"""The command ``report``, and a command for each part of a report by its own name."""

from functools import partial

from ofq.cli.command import GROUP, STUDY, Command, Commands
from ofq.config.grid import Grid
from ofq.errors import UserError, unknown
from ofq.report.artefacts import ARTEFACTS, BY_NAME
from ofq.workflow.targets import load_project

COMMANDS = Commands()


@COMMANDS(("part", {"metavar": "PART", "help": "of the report: see docs/report.md"}), STUDY, GROUP)
def report(part: str, study: str, group: str | None) -> None:
    """Write one part of a study's report: tables, figures, comparison, ...

    Reads the files of the runs of the study's main grid, or of one of its groups, and writes into results/STUDY/report,
    or results/STUDY/report/GROUP. Nothing is trained. docs/report.md lists the parts, docs/names.md explains the
    columns of the tables. Each part is a command by its own name too.

    examples: python -m ofq report tables digits
              python -m ofq report comparison digits controls
    """
    name = part.replace("-", "_")
    if name not in BY_NAME:
        raise unknown("part of the report:", part, [artefact.part for artefact in ARTEFACTS])
    artefact, grid = BY_NAME[name], Grid(load_project(), study, group)
    if not (artefact.asked or artefact.made(grid)):
        raise UserError(f"{grid} has no {part}: this part is made for {artefact.when}")
    artefact.write(grid)


for _artefact in ARTEFACTS:
    _made = ", ".join([*_artefact.tables, *_artefact.figures, *_artefact.files])
    _help = (
        f"{_artefact.summary[0].upper()}{_artefact.summary[1:]}.\n\n"
        f"Writes {_made} into results/STUDY/report, or results/STUDY/report/GROUP.\nMade for {_artefact.when}. "
        "Nothing is trained.\n\n"
        f"example: python -m ofq {_artefact.part} digits"
    )
    COMMANDS[_artefact.part] = Command(_artefact.part, partial(report, _artefact.part), (STUDY, GROUP), _help)
