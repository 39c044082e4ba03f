"""The committed record of our own run of a study."""

import shutil
from pathlib import Path

from ofq.config.grid import Grid, with_sources
from ofq.config.params import Params
from ofq.config.resolve import resolve
from ofq.errors import UserError, counted
from ofq.report.artefacts import CLAIMS, RO_CRATE, SIZES, is_made
from ofq.report.record import settings_of, step_of
from ofq.runs.files import replacing, write_json
from ofq.runs.paths import REFERENCE, report_dir
from ofq.runs.published import problems, read_info
from ofq.workflow.forecast.records import to_record

_NOTED = ("finished", "machine", "device", "threads", "versions", "config", "digests", "cpu_seconds")
_OF_GROUPS = {".csv", ".json", ".md", ".png"}


def record(params: Params, study: str) -> None:
    """Copy a finished study's tables, figures and claims to ``results/reference/<study>``; write how they were made.

    Each finished group gets a folder, with CSV, JSON, Markdown and PNG. Other groups of an earlier record stay, and so
    do its claims if there are no new ones, and what a person put there. ``record.json`` lists the former under
    ``kept``, and names seeds, versions, machine, threads, code digests, a digest of the settings of each run, and what
    a run of each kind took.

    Raises:
        UserError: a run or the report is missing or a file was changed, or the runs were made by different code or
            versions.
    """
    spec = params.study_named(study)
    report = report_dir(study)
    if not (report / "tables").is_dir() or not (report / "figures").is_dir():
        raise UserError(f"{report} is not complete; run: snakemake {study}")
    groups = [group for group in spec.groups if (report_dir(study, group) / "tables").is_dir()]
    recorded = [Grid(params, study), *(Grid(params, study, group) for group in groups)]
    runs = list(dict.fromkeys(run for grid in recorded for run in grid.runs))
    infos = [read_info(run.files.info, *_NOTED) for run in runs]
    if wrong := [error for run in runs for error in problems(run.files.root, large=False) or ()]:
        raise wrong[0]
    steps: dict[str, set[str]] = {}
    for run, info in zip(runs, infos, strict=True):
        config = resolve(params, run)  # other quantizers and remedies are other code
        steps.setdefault(step_of(config), set()).add(info["digests"]["code"])
    mixed = [step for step, digests in steps.items() if len(digests) > 1]
    if mixed or len({str(info["versions"]) for info in infos}) > 1:
        raise UserError(f"the runs of {study} were made by different code or versions; run snakemake {study} again")
    description = {
        "study": study,
        "seeds": spec.seeds,
        "groups": {grid.group: grid.seeds for grid in recorded[1:]},
        "runs": len(infos),
        "finished": max(info["finished"] for info in infos),
        "machine": infos[0]["machine"],
        "device": infos[0]["device"],
        "threads": infos[0]["threads"],
        "versions": infos[0]["versions"],
        "code": {step: digests.pop() for step, digests in steps.items()},
        "settings": {str(run): settings_of(info) for run, info in zip(runs, infos, strict=True)},
        "cpu_seconds": round(sum(info["cpu_seconds"] for info in infos)),
        "took": to_record(with_sources(params, runs)),
    }
    # The old record is removed only when the new one is complete.
    target, new, old = REFERENCE / study, REFERENCE / f".{study}-new", REFERENCE / f".{study}-old"
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        for path in sorted(report.rglob("*.*")):
            # Agreement with the record that is being replaced says nothing. For groups, a repository does not need
            # every form of a table and figure.
            of_a_group = len(path.relative_to(report).parts) > 2
            wanted = (not of_a_group or path.suffix in _OF_GROUPS) and path.name not in RO_CRATE.makes
            if path.is_file() and wanted and not path.name.startswith("agreement."):
                with replacing(new / path.relative_to(report)) as temporary:
                    shutil.copyfile(path, temporary)
        further = [*(set(spec.groups) - set(groups)), *CLAIMS.makes, *SIZES.makes]
        kept = sorted(name for name in further if (target / name).exists() and not (new / name).exists())
        for name in kept:
            copy = shutil.copytree if (target / name).is_dir() else shutil.copyfile
            copy(target / name, new / name)
        for path in sorted(target.rglob("*")):  # what a person put beside the record
            own = path.relative_to(target)
            if path.is_file() and own != Path("record.json") and not is_made(own) and not (new / own).exists():
                with replacing(new / own) as temporary:
                    shutil.copyfile(path, temporary)
        write_json(new / "record.json", description | {"kept": kept})
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    note = f"; as before, for {study} has not made them: {', '.join(kept)}" if kept else ""
    print(f"{counted(len(infos), 'run')} recorded in {target}{note}")
