"""Commands for the data, the project and what it has made. Each imports what it needs when it is called."""

import os
from pathlib import Path

from ofq.cli.command import STUDY, Commands
from ofq.errors import UserError

COMMANDS = Commands()


@COMMANDS(
    ("study", {"metavar": "STUDY", "nargs": "?", "help": "with --verify left out: all studies that have data"}),
    ("--verify", {"action": "store_true", "help": "read prepared files and their sources again, write nothing"}),
)
def data(study: str | None, verify: bool) -> None:
    """Prepare a study's images, or verify what is prepared.

    Reads the study's data set (studies.STUDY.data in params.yaml) and writes train.safetensors, eval.safetensors and
    manifest.json (sha256, counts by class, pixel statistics, sources) into results/STUDY/data. Later steps check the
    files against the manifest.

    --verify reads the prepared files again, and their sources where they are on this machine; it prints a line for each
    good file and for each problem, and ends with exit code 2 where there is one. Without STUDY: all studies that have
    data. For the files of runs there is `python -m ofq verify`.

    examples: python -m ofq data digits
              python -m ofq data --verify
    """
    from ofq.workflow.targets import load_project

    if verify:
        from ofq.data.verify import verify as verify_data

        verify_data(load_project(), study)
        return
    if study is None:
        raise UserError("which study? name one, as in: python -m ofq data digits; or verify all with: data --verify")
    settings = load_project().study_named(study)
    from ofq.data.prepare import prepare

    prepare(study, settings.data)


@COMMANDS(("study", {"metavar": "STUDY", "nargs": "?", "help": "all studies that have runs where it is left out"}))
def verify(study: str | None) -> None:
    """Compare the files of finished runs with what the runs published.

    Reads all files of the runs again and compares them with the digests (sha256) in their run.json, noise and probes
    with those in themselves; writes nothing. Prints a line for each good run and for each problem, and ends with exit
    code 2 where there is one. A run of an earlier version, whose run.json has no digests, is said to be unknown.
    Tables, figures, claims and `why` compare what they read in the same way.

    example: python -m ofq verify digits
    """
    from ofq.workflow.targets import load_project
    from ofq.workflow.verify import verify as verify_runs

    verify_runs(load_project(), study)


@COMMANDS()
def toy() -> None:
    """Simulate weights that are pulled towards targets through a quantizer, and write their way.

    A row of eight weights with a fixed, a learned and a statistical step of the quantizer; each weight's way goes into
    results/toy/trace.csv. It needs no data and no run.

    example: python -m ofq toy
    """
    from ofq.measure.toy import write_trace
    from ofq.workflow.targets import load_project

    load_project()  # so that nothing is written beside the project
    write_trace()


@COMMANDS()
def toy_figure() -> None:
    """Draw how latent weight and step move in the toy.

    Reads results/toy/trace.csv and draws results/toy/toy.png and toy.svg: latent weight and step of the quantizer,
    against each other and over time.

    example: python -m ofq toy-figure
    """
    from ofq.report.parts.toy import write_toy

    write_toy()


@COMMANDS(
    ("file", {"metavar": "FILE", "help": "a CSV or figure of results/STUDY/report, or of results/reference"}),
    ("bits", {"metavar": "BITS", "nargs": "?", "help": "such as w2a2; left out: every bit width"}),
    ("variant", {"metavar": "VARIANT", "nargs": "?", "help": "such as statsq; left out: every variant"}),
)
def why(file: str, bits: str | None, variant: str | None) -> None:
    """Say which runs, settings and versions a cell of a table, or a figure, comes from.

    FILE is a table (CSV) or figure (PNG, SVG) of a report. Prints the chosen rows and, for each run behind them, its
    seed, settings, digests of code and inputs, versions, and its id in the MLflow store. Where the table is older than
    the files of its runs, where these were changed by hand, and where the id is of another attempt, it ends with a line
    that says so, and exit code 2.

    examples: python -m ofq why results/digits/report/tables/main.csv w2a2 statsq
              python -m ofq why results/digits/report/figures/accuracy.png
    """
    from ofq.report.why import trace

    origin, stale = trace(Path(file), bits, variant)
    print(origin)
    if stale:
        raise UserError("; ".join(stale))


@COMMANDS(
    ("study", {"metavar": "STUDY", "nargs": "?", "help": "all studies that have runs where it is left out"}),
    ("--follow", {"action": "store_true", "help": "go on until interrupted, while runs are in training"}),
    (
        "--keep-going",
        {"action": "store_true", "help": "end well where the store cannot be written, with a warning"},
    ),
)
def track(study: str | None, follow: bool, keep_going: bool) -> None:
    """Mirror the event logs of one study, or of all, into the MLflow store.

    Reads events.jsonl of runs, finished or in training, and mirrors them into the MLflow store of the project: one
    experiment for each study, one run for each run, tables and figures beside them. What stands there unchanged is
    passed over; a run that was repeated replaces its earlier self. The store can be deleted: this brings everything
    back.

    examples: python -m ofq track
              python -m ofq track digits --follow
    """
    from ofq.config.grid import grids
    from ofq.tracking import mirror
    from ofq.tracking.views import MAIN
    from ofq.workflow.targets import load_project

    params = load_project()
    if study is not None:
        params.study_named(study)
    parts = [grid for name in params.studies for grid in grids(params, name)]
    groups = {run: grid.group or MAIN for grid in reversed(parts) for run in (*grid.runs, *grid.teachers)}
    if follow:
        mirror.follow(study, groups)
    else:
        mirror.track(study, groups, keep_going=keep_going)


@COMMANDS(
    ("folder", {"metavar": "FOLDER", "help": "results of another project, or a folder that has results"}),
    ("studies", {"metavar": "STUDY", "nargs": "*", "help": "which; left out: all that have runs there"}),
)
def adopt(folder: str, studies: list[str]) -> None:
    """Take up the finished runs of another machine, so that snakemake runs none of them again.

    FOLDER is the results of another checkout, an unpacked archive of them, or a folder that has results. Every run
    there is checked: its settings are those that params.yaml gives here, its code is that of this checkout, each file
    is what the run published (sha256), and data, teacher and parent are the same as here, or are taken too. What is
    right is copied, and Snakemake notes it as made; a file here that differs stays, and the run is refused.

    Prints a line for each: taken, here (before), or refused with the reason; ends with exit code 2 where something was
    refused. The same command again goes on where it was interrupted.

    examples: python -m ofq adopt /mnt/node7/ofq
              python -m ofq adopt unpacked/results digits
    """
    from ofq.workflow.adopt import adopt as adopt_runs
    from ofq.workflow.targets import check_project, load_project

    params = load_project()
    check_project(writing=True)
    adopt_runs(params, Path(folder), studies)


@COMMANDS(STUDY)
def reference(study: str) -> None:
    """Copy a study's report to results/reference, with versions and machine.

    Takes a finished study whose runs were all made by the same code and versions; replaces results/reference/STUDY, the
    record that is committed. No other step writes there.

    example: python -m ofq reference digits
    """
    from ofq.workflow.reference import record
    from ofq.workflow.targets import load_project

    record(load_project(), study)


@COMMANDS(
    ("--markdown", {"action": "store_true", "help": "print docs/params.md instead"}),
    ("--report", {"action": "store_true", "help": "print docs/report.md instead, the parts of a report"}),
)
def schema(markdown: bool, report: bool) -> None:
    """Print the JSON schema of params.yaml, or a page that is written from the code.

    The JSON schema is what editors check params.yaml with; --markdown prints the page docs/params.md. Both are written
    from the types in src/ofq/config. --report prints docs/report.md from src/ofq/report/artefacts.py. A test holds that
    they are up to date.

    examples: python -m ofq schema > params.schema.json
              python -m ofq schema --markdown > docs/params.md
              python -m ofq schema --report > docs/report.md
    """
    if markdown and report:
        raise UserError("which page? --markdown or --report, not both")
    from ofq.config.params import json_schema
    from ofq.config.params_page import markdown as params_page
    from ofq.report.artefacts import page

    print(params_page() if markdown else page() if report else json_schema(), end="")


@COMMANDS(("--yes", {"action": "store_true", "help": "do not ask, and remove runs/ too"}))
def clean(yes: bool) -> None:
    """Remove results, logs and caches, after asking.

    Lists what would go, with sizes, and asks. Goes: results of every study, logs, what Snakemake remembers, caches of
    the tools. Stays: results/reference, runs (states from which interrupted runs resume), the environment, the MLflow
    store, DVC's cache, and everything else, files of other origin among the results too.

    With --yes it does not ask, and removes runs too. It refuses while snakemake works here.

    examples: python -m ofq clean
              make clean YES=1
    """
    from ofq.workflow.clean import clean as clean_project

    clean_project(yes=yes)


@COMMANDS()
def stages() -> None:
    """Print dvc.yaml for the study that params.yaml names.

    Prints dvc.yaml: four stages (data, teacher, runs, report) that ask Snakemake, with the folders of the study that
    `study:` in params.yaml names. Write it anew after that name, or the study's models or bits, have changed.

    example: python -m ofq stages > dvc.yaml
    """
    from ofq.workflow.dvc_file import stages as dvc_stages
    from ofq.workflow.targets import load_project

    print(dvc_stages(load_project()), end="")


@COMMANDS(("socket", {"metavar": "SOCKET", "help": "address to listen on"}))
def warm(socket: str) -> None:
    """Serve training jobs from one warm process (the Snakefile starts it).

    There is no need to call it. Jobs find it through the variable OFQ_WARM_SOCKET, and run in a process of their own
    where it does not answer.

    example: python -m ofq warm /tmp/ofq.socket
    """
    from ofq.cli.run import run
    from ofq.workflow.warm import serve

    try:
        serve(socket, run)
    except OSError as error:
        raise UserError(f"cannot listen on {socket}: {error.strerror or error}; name a new file") from None
    os._exit(0)  # Snakemake waits for this end, and Python would take seconds to leave its libraries in order
