"""Take up the finished runs of another machine: each file checked, copied, and noted with Snakemake as made."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

from ofq.config.params import Params
from ofq.errors import UserError, refused
from ofq.runs.files import replacing
from ofq.runs.paths import REFERENCE, RESULTS, Run
from ofq.runs.provenance import file_digest
from ofq.runs.states import only_trainer
from ofq.workflow.clean import snakemake_works_here
from ofq.workflow.finished import STEPS, Finished, Made
from ofq.workflow.targets import DATA_FILES


def adopt(params: Params, folder: Path, studies: list[str]) -> None:
    """Take data, runs and measurements of some studies from a folder, and print a line for each.

    What is not what ``params.yaml`` and the code here ask for is refused whole, and so is what differs from a file that
    is here. Snakemake then takes what is right here for made by itself, so that it runs nothing of it.

    Args:
        params: the project's.
        folder: ``results`` of another project, or a folder that has it.
        studies: their names; none for all.

    Raises:
        UserError: something was refused, there is nothing to take, or Snakemake is not here or works here now.
    """
    for study in studies:
        params.study_named(study)
    source = _results_in(folder)
    if find_spec("snakemake") is None:
        raise UserError("snakemake is not installed here, and should know what is taken; install it (make env) first")
    if snakemake_works_here():
        raise UserError("snakemake works in this directory; wait for it or end it")
    runs = sorted(run for run in _runs(source) if run.study in (studies or {run.study}))
    if absent := sorted({*studies} - {run.study for run in runs}):
        raise UserError(f"there are no runs of study {absent[0]} in {source}; name the results of another project")
    if not runs:
        raise UserError(f"there are no runs in {source}; name the results of another project, or a folder that has it")
    finished, counted = Finished(params), Counter[str]()
    found = _found(finished, source, runs, counted)
    for made in found:
        if made.step in ("noise", "probe") and not all(map(finished.is_right, finished.needs(made))):
            continue  # it went with its run
        counted[_tried(finished, made, source)] += 1
    # With what else is right: Snakemake takes what is older than its inputs for outdated, and what was taken is new.
    beside = [
        made for study in {run.study: None for run in runs} if study in params.studies for made in finished.all(study)
    ]
    _note(finished, [made for made in dict.fromkeys([*beside, *found]) if finished.is_right(made)])
    print(f"{counted['taken']} taken, {counted['here']} were here, {counted['refused']} refused")
    if counted["refused"]:
        raise UserError(f"{counted['refused']} refused, each in a line above; nothing of them was taken")


def _results_in(folder: Path) -> Path:
    """Return the results that a folder is or has.

    Raises:
        UserError: there is no such folder, or it is this project.
    """
    source = folder / RESULTS if (folder / RESULTS).is_dir() else folder
    if not source.is_dir():
        raise UserError(f"{folder} is no folder; name the results of another project, an archive of them unpacked")
    if RESULTS.is_dir() and source.samefile(RESULTS):
        raise UserError(f"{folder} has the results of this project; name those of another one")
    return source


def _runs(source: Path) -> Iterator[Run]:
    for path in source.glob("*/*/*/*/seed*"):
        name = str(path.relative_to(source))
        if (run := Run.parse(name)) and str(run) == name and run.study != REFERENCE.name and path.is_dir():
            yield run


def _found(finished: Finished, source: Path, runs: list[Run], counted: Counter[str]) -> list[Made]:
    """Return what a folder has, each after what it needs; refuse runs that have no place in ``params.yaml``."""
    found = [Made("data", study) for study in {run.study: None for run in runs} if _has_data(source, study)]
    for run in runs:
        try:
            found.append(finished.step_of(run))
        except UserError as error:
            counted[_said("refused", run, str(error))] += 1
            continue
        measured = [Made(kind, run) for kind in ("noise", "probe")]
        found += [each for each in measured if any((source / path).exists() for path in finished.files(each))]
    return sorted(found, key=lambda made: STEPS.index(made.step))


def _has_data(source: Path, study: str) -> bool:
    return any((source / study / name).exists() for name in DATA_FILES)


def _tried(finished: Finished, made: Made, source: Path) -> str:
    """Take something if it is right; print and return what became of it."""
    try:
        new = _take(finished, made, source)
    except UserError as error:
        return _said("refused", made, str(error))
    except OSError as error:
        return _said("refused", made, str(refused(error, action="read") or error))
    return _said("taken" if new else "here", made)


def _said(what: str, of: Made | Run, why: str = "") -> str:
    # What another machine's files are called is told as a user's text is.
    print(UserError(f"{what} {of}{f': {why}' if why else ''}"), flush=True)
    return what


def _take(finished: Finished, made: Made, source: Path) -> bool:
    """Copy what a step made elsewhere; the file that says that it is finished comes last.

    Returns:
        Whether anything was not here yet.

    Raises:
        UserError: it is not right, leads elsewhere, differs from what is here, or is in training here.
    """
    files = finished.files(made)
    for path in files:
        if not (source / path).resolve().is_relative_to(source.resolve()):
            raise UserError(f"{path.name} leads out of {source}")
    digests = finished.check(made, source)
    there = {path: RESULTS / path for path in files if (RESULTS / path).exists()}
    if other := [here for path, here in there.items() if file_digest(here) != digests[path]]:
        raise UserError(f"{other[0]} here is another file, and stays; to take this one, delete {other[0].parent} first")
    if len(there) == len(files):
        return False
    with only_trainer(made.of.state(""), patience=0) if isinstance(made.of, Run) else nullcontext():
        for path in reversed(files):
            if path not in there:
                with replacing(RESULTS / path) as temporary:
                    shutil.copyfile(source / path, temporary)
                    if file_digest(temporary) != digests[path]:
                        raise UserError(f"{path.name} was changed while it was copied; run the same again")
    return True


def _note(finished: Finished, right: list[Made]) -> None:
    """Let Snakemake note what is right as made by the jobs that would make it.

    Raises:
        UserError: Snakemake refuses.
    """
    if not right:
        return
    targets = [str(RESULTS / finished.files(made)[0]) for made in right]
    command = [sys.executable, "-m", "snakemake", "--touch", "--force", "--quiet", "all", "--", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise UserError("snakemake did not note what was taken, as it says above; mend that, then run the same again")
