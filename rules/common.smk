# Parameters, the names that wildcards may have, and what happens around a whole run of Snakemake.

import atexit
import contextlib
import io
import json
import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.cli import parse_args
from snakemake.logging import logger

# Jobs run `python` of this very environment, whether or not it was activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH', os.defpath)}")

try:
    from ofq.config import params
except ImportError:
    print("ofq: error: the package is not installed here; run: make env, then .venv/bin/snakemake", file=sys.stderr)
    sys.exit(2)

from ofq.config.params import EVERYTHING
from ofq.environment import RESUME_ACROSS_CODE, UNDER_SNAKEMAKE
from ofq.errors import UserError, refused
from ofq.runs import locks, states
from ofq.runs.code import code_digest
from ofq.runs.files import read_json
from ofq.runs.paths import FULL_PRECISION, Run, data_dir, data_info, recorded, report_dir
from ofq.tracking.mirror import stamp, warnings
from ofq.workflow.dvc_file import unlisted
from ofq.workflow.targets import (
    CLAIMS,
    FIGURES,
    LEARNING_RATES,
    PLAIN_TABLE,
    TABLES,
    TOY_FILES,
    check_project,
    check_target,
    grid_report,
    named,
)
from ofq.workflow.warm import WarmProcess

os.environ[UNDER_SNAKEMAKE] = "1"

# Entry modules of the steps that train, whose code is part of what their runs depend on.
STEPS = {"teacher": "ofq.training.teacher", "qat": "ofq.training.qat", "cga": "ofq.training.anneal"}


def shorten_reason(record):
    """Logging filter: a job's reason names three files and counts the others; a study's target has a thousand."""
    if reason := getattr(record, "reason", None):
        record.reason = _FILES.sub(lambda found: _first_three(found[0].split(", ")), reason)
    return True


def _first_three(names):
    return f"{', '.join(sorted(names)[:3])} and {len(names) - 3} more"


_FILES = re.compile(r"[^\s,;'\"]+/[^\s,;'\"]+(?:, [^\s,;'\"]+/[^\s,;'\"]+){3,}")
logger.addFilter(shorten_reason)


def command_line():
    """The arguments of the snakemake that a person started; None in the processes that it starts itself."""
    if Path(sys.argv[0]).name != "snakemake" or workflow.exec_mode != workflow.exec_mode.DEFAULT:
        return None
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return parse_args(sys.argv[1:])[1]


def hold_project():
    """Show for as long as this process lives that a snakemake works here, and clear up after one that was killed.

    Snakemake's own locks are files that stay when it is killed, and would ask for `snakemake --unlock`.
    """
    lock, alone = locks.shared(Path(".snakemake") / "ofq.lock")
    stale = list(Path(".snakemake/locks").glob("*.lock")) if alone else []
    for path in stale:
        path.unlink()
    if stale:
        print("ofq: an earlier snakemake did not end by itself; its locks are removed", file=sys.stderr)
    return lock


try:
    PARAMS = params.load(Path(workflow.basedir) / "params.yaml")
    _arguments = command_line()
    check_project(writing=_arguments is not None and not _arguments.dryrun)
    for _target in sorted(_arguments.targets if _arguments else []):
        check_target(PARAMS, _target)
        if EVERYTHING in _target or _target.endswith(tuple(CLAIMS)):
            from ofq.report.claims.terms import load as load_claims

            load_claims(PARAMS)  # known to be wrong before everything has been trained
    if str(config.get("resume_across_code", "")).lower() == "true":
        os.environ[RESUME_ACROSS_CODE] = "1"
    if _arguments and not _arguments.dryrun:
        _alive = hold_project()
except (UserError, OSError) as error:
    _problem = refused(error) if isinstance(error, OSError) else error
    if _problem is None:
        raise
    print(f"ofq: error: {_problem}", file=sys.stderr)
    sys.exit(2)


def one_of(names):
    """Wildcard constraint: one of the given names."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


STUDY_NAMES = list(PARAMS.studies)
VARIANT_NAMES = {name for study in STUDY_NAMES for name in PARAMS.variant_names(study)}
GROUP_NAMES = {group for study in PARAMS.studies.values() for group in study.groups}
QAT_VARIANTS = {name for name in VARIANT_NAMES if PARAMS.variant(name).parent is None}


wildcard_constraints:
    study=one_of(STUDY_NAMES),
    model=one_of(PARAMS.models),
    bits=one_of({bits for study in STUDY_NAMES for bits in PARAMS.bit_widths(study)} - {FULL_PRECISION}),
    teacher=one_of({name for study in STUDY_NAMES for name in PARAMS.teacher_names(study)}),
    variant=one_of(VARIANT_NAMES),
    seed=r"0|[1-9][0-9]*",
    report=one_of({"report", *(f"report/{group}" for group in GROUP_NAMES | {EVERYTHING})}),


# Local training jobs fork from one warm process, which ends with this one.
warm_process = WarmProcess()


if workflow.exec_mode == workflow.exec_mode.DEFAULT and (
    _folders := unlisted(PARAMS, Path(workflow.basedir) / "dvc.yaml")
):
    print(
        f"ofq: warning: dvc.yaml does not list {', '.join(_folders)}; write it anew: python -m ofq stages > dvc.yaml",
        file=sys.stderr,
    )


def left_behind():
    """A warning about unfinished runs that start from the first step because they were made by other code, or None."""
    changed = []
    for run, state in states.unfinished().items():
        try:
            settings = PARAMS.resolve(run)
        except UserError:  # no longer in params.yaml
            continue
        same = settings.canonical() == state.origin.settings
        across = PARAMS.keeping(run.study).across_code or os.environ.get(RESUME_ACROSS_CODE) == "1"
        if same and not across and code_digest(STEPS[settings.phase], *settings.modules) != state.origin.code:
            changed.append(f"{run} (step {state.step})")
    if not changed:
        return None
    return (
        f"the code changed since {', '.join(changed)} stopped: a run starts from its first step, what was saved stays"
        " in runs/; to go on from there: snakemake --config resume_across_code=true"
    )


onstart:
    if workflow.exec_mode == workflow.exec_mode.DEFAULT and not workflow.touch:
        if _warning := left_behind():
            print(f"ofq: warning: {_warning}", file=sys.stderr)
        if workflow.local_exec:
            warm_process.start()


onsuccess:
    warm_process.stop()
    states.drop_finished()
    if warm_process.started:
        from ofq.workflow.cost import summary

        print(summary(PARAMS, since=warm_process.started))
    for _warning in warnings(STUDY_NAMES):
        print(f"ofq: warning: {_warning}", file=sys.stderr)


def name_logs_of_failed_jobs():
    """Say last of all where to read what went wrong: Snakemake itself prints some lines after `onerror`."""
    failed = sorted({path for job in workflow.scheduler.failed for path in job.log})
    if failed:
        print(f"ofq: a job failed; what it printed stands in {', '.join(failed)}", file=sys.stderr)


# States stay, also those of runs that ended well: Snakemake may have stopped before it took note of that, and runs them
# again.
onerror:
    warm_process.stop()
    atexit.register(name_logs_of_failed_jobs)
