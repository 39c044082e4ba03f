# Parameters, names, and the helpers that rules take their settings from.

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

# Jobs run `python` of this very environment, whether or not it was activated.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH', os.defpath)}")

try:
    from ofq import params
except ImportError:
    print("ofq: error: the package is not installed here; run: make env, then .venv/bin/snakemake", file=sys.stderr)
    sys.exit(2)

from ofq import locks, states
from ofq.cli import RESUME_ACROSS_CODE
from ofq.dvc_file import unlisted
from ofq.errors import UserError, refused
from ofq.files import read_json
from ofq.params import EVERYTHING
from ofq.paths import FULL_PRECISION, Run, data_dir, data_info, recorded, report_dir
from ofq.provenance import code_digest
from ofq.targets import (
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
from ofq.tracking import stamp, warnings
from ofq.warm import WarmProcess

os.environ[states.UNDER_SNAKEMAKE] = "1"

# Entry modules of the steps that train, whose code is part of what their runs depend on.
STEPS = {"teacher": "ofq.training.teacher", "qat": "ofq.training.qat", "cga": "ofq.training.anneal"}


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
QAT_VARIANTS = {name for name in VARIANT_NAMES if PARAMS.variant(name).parent is None}


wildcard_constraints:
    study=one_of(STUDY_NAMES),
    model=one_of(PARAMS.models),
    bits=one_of({bits for study in STUDY_NAMES for bits in PARAMS.bit_widths(study)} - {FULL_PRECISION}),
    teacher=one_of({name for study in STUDY_NAMES for name in PARAMS.teacher_names(study)}),
    variant=one_of(VARIANT_NAMES),
    seed=r"0|[1-9][0-9]*",
    report=one_of({"report", *(f"report/{group}" for study in PARAMS.studies.values() for group in study.groups)}),


def study_targets(study):
    """What a study's target asks for: its main grid, the groups that always go with it, and their mirror in MLflow."""
    return [*study_files(study), *TOY_FILES, stamp(study)]


def study_files(study):
    """Files of the study's main grid and of the groups that always go with it."""
    groups = [name for name, group in PARAMS.studies[study].groups.items() if group.always]
    return list(dict.fromkeys(path for group in (None, *groups) for path in grid_files(study, group)))


def group_targets(study, group):
    """What a group's target asks for."""
    return [*grid_files(study, group), report_dir(study, group) / "tracked"]


def everything(study):
    """A study with all of its groups, and the verdicts on the claims."""
    rates = PARAMS.studies[study].learning_rates
    rest = [*TOY_FILES, *(study_targets(rates) if rates else [])]
    return [*all_files(study), report_dir(study) / "tracked", *rest]


def all_files(study):
    """Files of the study's main grid, of all its groups, and the claims."""
    grids = [None, *PARAMS.studies[study].groups]
    files = [path for group in grids for path in grid_files(study, group)]
    return list(dict.fromkeys([*files, *claims_files(study)]))


def targets_of(study, group):
    """What a name asks for: the main grid (None), a group, or everything."""
    if group == EVERYTHING:
        return everything(study)
    return study_targets(study) if group is None else group_targets(study, group)


def grid_files(study, group=None):
    """Tables, figures, and by name every file of every run of a study's main grid or one of its groups.

    Snakemake does not make a missing intermediate file again while what follows from it is there; a deleted run
    would go unnoticed.
    """
    folder = report_dir(study, group)
    runs = PARAMS.view(study, group).runs(study)
    targets = [path for run in {*runs, *(run.teacher for run in runs)} for path in PARAMS.published(run)]
    names = LEARNING_RATES if PARAMS.studies[study].sweep_lr else grid_report(PARAMS, study, group)
    return sorted([*targets, *measured_files(study, group), *(folder / name for name in names)])


def claims_files(study):
    return [Path("results") / study / name for name in CLAIMS]


def run_of(wildcards):
    """The run that a training job's wildcards name."""
    if hasattr(wildcards, "teacher"):
        return Run(wildcards.study, wildcards.model, FULL_PRECISION, wildcards.teacher, int(wildcards.seed))
    return Run(wildcards.study, wildcards.model, wildcards.bits, wildcards.variant, int(wildcards.seed))


def settings(wildcards):
    """The settings that a run uses and no others: a change of them, and of nothing else, reruns it."""
    return PARAMS.resolve(run_of(wildcards)).canonical()


def code_of(module, recorded):
    """A rule's parameter that reruns it when the code of the module, or of the run's remedy, changes.

    Args:
        module: entry of the code.
        recorded: from the wildcards to the file of a finished run that holds its digest. Of a study with
            `rerun_on_code: false` that digest is what counts, so that nothing finished runs again.
    """

    current = cache(lambda modules: code_digest(module, *modules))

    def digest(wildcards):
        if not PARAMS.studies[wildcards.study].rerun_on_code and (path := recorded(wildcards)).exists():
            return read_json(path)["digests"]["code"]
        return current(PARAMS.resolve(run_of(wildcards)).modules if hasattr(wildcards, "seed") else ())

    return digest


def info_of(wildcards):
    return run_of(wildcards).files.info


def data_info_of(wildcards):
    return data_info(wildcards.study)


def threads_of(wildcards):
    return PARAMS.studies[wildcards.study].threads


def manifest_of(wildcards):
    return data_dir(wildcards.study) / "manifest.json"


def teacher_of(wildcards):
    return run_of(wildcards).teacher.files.taught


def parent_files(wildcards):
    parent = run_of(wildcards).sibling(PARAMS.variant(wildcards.variant).parent).files
    return {"parent_model": parent.model, "parent_trainer": parent.trainer}


def data_settings(wildcards):
    return json.dumps(PARAMS.studies[wildcards.study].data.model_dump(mode="json"), sort_keys=True)


def grid_of(wildcards):
    """Study and group (None: the main grid) whose report the wildcards name."""
    return wildcards.study, getattr(wildcards, "report", "report").removeprefix("report").lstrip("/") or None


def group_of(wildcards):
    """The group as an argument of the command line."""
    return grid_of(wildcards)[1] or ""


def grid_name(wildcards):
    """As people read it."""
    return " ".join(filter(None, grid_of(wildcards)))


def runs_of(wildcards):
    study, group = grid_of(wildcards)
    return PARAMS.view(study, group).runs(study)


def metrics_of(wildcards):
    return [run.files.metrics for run in runs_of(wildcards)]


def teacher_metrics_of(wildcards):
    runs = runs_of(wildcards)
    return sorted({run.teacher.files.metrics for run in runs if run.bits != FULL_PRECISION})


def mirrored_files(wildcards):
    """What MLflow shows: results and event logs of the runs, tables and figures; not weights and records."""
    large = {".safetensors", ".pt", ".parquet"}
    study, group = grid_of(wildcards)
    if group is not None:
        files = grid_files(study, group)
    else:
        files = all_files(study) if hasattr(wildcards, "report") else study_files(study)
    return [path for path in files if path.suffix not in large]


def oscillation_of(wildcards):
    return [run.files.oscillation for run in runs_of(wildcards) if run.bits != FULL_PRECISION]


def weights_of(wildcards):
    return [run.files.weights for run in runs_of(wildcards) if run.bits != FULL_PRECISION]


def annealing_of(wildcards):
    study, group = grid_of(wildcards)
    view = PARAMS.view(study, group)
    return [run.files.annealing for run in view.runs(study) if run.variant in view.bands(study)]


def noise_of(wildcards):
    study, group = grid_of(wildcards)
    return [run.files.noise for run in PARAMS.view(study, group).trained(study)]


def probes_of(wildcards):
    study, group = grid_of(wildcards)
    return [run.files.probe for run in PARAMS.view(study, group).trained(study)]


def measured_files(study, group=None):
    """What is measured on the finished runs of a grid."""
    view = PARAMS.view(study, group)
    kinds = view.studies[study].measure
    return [getattr(run.files, kind) for run in view.trained(study) for kind in kinds]


def all_records(wildcards):
    """What verdicts are made of: every run of a study and its groups, teachers too, and what was measured on them."""
    study = wildcards.study
    runs = PARAMS.all_runs(study)
    files = [path for run in {*runs, *(run.teacher for run in runs)} for path in PARAMS.published(run)]
    files += [path for group in (None, *PARAMS.studies[study].groups) for path in measured_files(study, group)]
    return sorted(path for path in set(files) if path.suffix in (".json", ".parquet") and path.name != "run.json")


def claims_settings(wildcards):
    """What a claim uses beside the runs: which they are, and how they differ."""
    runs = [str(run) for run in PARAMS.all_runs(wildcards.study)]
    return json.dumps([runs, PARAMS.studies[wildcards.study].data.model_dump(mode="json", exclude={"root"})])


def record_of(wildcards):
    """The committed record that the main table is compared with, where there is one."""
    record = recorded(report_dir(*grid_of(wildcards))) / "tables" / "main.csv"
    return record if record.exists() else []


def report_settings(wildcards):
    """What the tables and figures use beside the runs themselves: their order, and published numbers to show."""
    study, group = grid_of(wildcards)
    view = PARAMS.view(study, group)
    spec = view.studies[study]
    return json.dumps(
        {
            "runs": [str(run) for run in view.runs(study)],
            "compare": spec.compare,
            "paper_models": {model: PARAMS.models[model].paper_model for model in spec.models},
            "data": spec.data.model_dump(mode="json", exclude={"root"}),
        }
    )


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
        from ofq.report.cost import summary

        print(summary(PARAMS, since=warm_process.started))
    for _warning in warnings(STUDY_NAMES):
        print(f"ofq: warning: {_warning}", file=sys.stderr)


def name_logs_of_failed_jobs():
    """Say last of all where to read what went wrong: Snakemake itself prints some lines after `onerror`."""
    failed = sorted({path for job in workflow.scheduler.failed for path in job.log})
    if failed:
        print(f"ofq: a job failed; what it printed stands in {', '.join(failed)}", file=sys.stderr)


onerror:
    warm_process.stop()
    states.drop_finished()
    atexit.register(name_logs_of_failed_jobs)
