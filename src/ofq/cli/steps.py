"""What each subcommand of ``python -m ofq`` does, given its arguments.

Every function imports what it needs when it is called, so that a list of them costs nothing.
"""

import argparse
import os
from collections.abc import Callable

from ofq.environment import RESUME_ACROSS_CODE
from ofq.errors import UserError

Step = Callable[[argparse.Namespace], None]


def data(arguments: argparse.Namespace) -> None:
    """Prepare a study's images, or verify what is prepared."""
    from ofq.config import params

    if arguments.verify:
        from ofq.data.verify import verify

        verify(params.load(), arguments.study)
        return
    if arguments.study is None:
        raise UserError("which study? name one, as in: python -m ofq data digits; or verify all with: data --verify")
    study = params.load().study_named(arguments.study)
    from ofq.data.prepare import prepare

    prepare(arguments.study, study.data)


def training(phase: str) -> Step:
    """The step that trains a run of the given phase; a run of another phase is refused."""

    def step(arguments: argparse.Namespace) -> None:
        from ofq.config import params
        from ofq.runs.paths import Run

        run = Run.named(arguments.run)
        parameters = params.load()
        config = parameters.resolve(run)
        if config.phase != phase:
            raise UserError(f"{run} is a {config.phase} run; use: python -m ofq {config.phase} {run}")
        if phase == "teacher":
            from ofq.training.preflight import check_study
            from ofq.training.teacher import run_teacher as train

            # What its students would fail of should be known before it has been trained for days.
            runs = [other for other in parameters.all_runs(run.study) if other.model == run.model]
            check_study(run.study, [config, *map(parameters.resolve, runs)])
        elif phase == "qat":
            from ofq.training.qat import run_qat as train
        else:
            from ofq.training.anneal import run_cga as train
        across = arguments.resume_across_code or os.environ.get(RESUME_ACROSS_CODE) == "1"
        train(run, config, parameters.keeping(run.study, resume_across_code=across))

    return step


def report(module: str, function: str) -> Step:
    """A step that writes one part of the report on a study's main grid, or on one of its groups."""

    def step(arguments: argparse.Namespace) -> None:
        from importlib import import_module

        from ofq.config import params
        from ofq.runs.paths import report_dir

        study, group = arguments.study, getattr(arguments, "group", None)
        write = getattr(import_module(f"ofq.report.{module}"), function)
        write(params.load().view(study, group), study, report_dir(study, group))

    return step


def claims(arguments: argparse.Namespace) -> None:
    """Give each claim its verdict on a study and all of its groups."""
    from ofq.config import params
    from ofq.report.claims.write import write_claims

    write_claims(params.load(), arguments.study)


def track(arguments: argparse.Namespace) -> None:
    """Mirror event logs into the MLflow store, once or until interrupted."""
    from ofq.config import params
    from ofq.tracking import mirror

    if arguments.study is not None:
        params.load().study_named(arguments.study)
    if arguments.follow:
        mirror.follow(arguments.study)
    else:
        mirror.track(arguments.study, keep_going=arguments.keep_going)


def why(arguments: argparse.Namespace) -> None:
    """Print what a cell of a table, or a figure, comes from."""
    from pathlib import Path

    from ofq.report.why import explain

    print(explain(Path(arguments.file), arguments.bits, arguments.variant))


def probe(arguments: argparse.Namespace) -> None:
    """Measure a finished run over a further window of training."""
    from ofq.config import params
    from ofq.runs.paths import Run

    run = Run.named(arguments.run)
    config = params.load().resolve(run)
    from ofq.measure.probe import WINDOW, run_probe

    run_probe(run, config, steps=WINDOW if arguments.steps is None else arguments.steps)


def noise(arguments: argparse.Namespace) -> None:
    """Evaluate a finished run with noise on its codes."""
    from ofq.config import params
    from ofq.runs.paths import Run

    run = Run.named(arguments.run)
    config = params.load().resolve(run)
    from ofq.measure.noise import run_noise

    run_noise(run, config)


def toy(arguments: argparse.Namespace) -> None:
    """Write the trace of the toy regression."""
    from ofq.measure.toy import write_trace

    write_trace()


def toy_figure(arguments: argparse.Namespace) -> None:
    """Draw the toy regression."""
    from ofq.report.parts.toy import write_toy

    write_toy()


def reference(arguments: argparse.Namespace) -> None:
    """Copy a study's report to ``results/reference``."""
    from ofq.config import params
    from ofq.workflow.reference import record

    record(params.load(), arguments.study)


def cost(arguments: argparse.Namespace) -> None:
    """Print what the runs of a study cost."""
    from ofq.config import params
    from ofq.workflow.cost import table

    print(table(params.load(), arguments.study))


def schema(arguments: argparse.Namespace) -> None:
    """Print the schema of ``params.yaml``, or the page that explains its keys."""
    from ofq.config.params import json_schema
    from ofq.config.params_page import markdown

    print(markdown() if arguments.markdown else json_schema(), end="")


def clean(arguments: argparse.Namespace) -> None:
    """Remove what the pipeline made."""
    from ofq.workflow.clean import clean

    clean(yes=arguments.yes)


def stages(arguments: argparse.Namespace) -> None:
    """Print ``dvc.yaml``."""
    from ofq.config import params
    from ofq.workflow.dvc_file import stages

    print(stages(params.load()), end="")


def drill(arguments: argparse.Namespace) -> None:
    """Say where the drill is."""
    raise UserError("the drill is a tool of the project now; run it with: python -m tools.drill --kills 20")


def warm(arguments: argparse.Namespace) -> None:
    """Serve training jobs from one warm process."""
    from ofq.workflow.warm import serve

    try:
        serve(arguments.socket, arguments.execute)
    except OSError as error:
        raise UserError(f"cannot listen on {arguments.socket}: {error.strerror or error}; name a new file") from None
