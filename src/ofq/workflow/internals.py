"""The few places that use internals of Snakemake, of which nobody else does; written for 9.27, tested with each."""

import ast
import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import psutil  # type: ignore[import-untyped]
from snakemake import cli
from snakemake.api import SnakemakeApi
from snakemake.exceptions import LockException, RuleException
from snakemake.executors import local
from snakemake.io import report
from snakemake.jobs import Job
from snakemake.logging import ColorizingTextHandler, LogEvent, logger
from snakemake.persistence import NO_PARAMS_CHANGE, ParamsChange, PersistenceBase
from snakemake.settings.types import Quietness
from snakemake.shell import shell
from snakemake.utils import available_cpu_count

from ofq.config.changes import changes
from ofq.environment import LOCKS
from ofq.errors import UserError, first_of
from ofq.report.artefacts import Artefact
from ofq.workflow.limits import memory_mb, processors
from ofq.workflow.warm import SIGNALS

_SHELLS = {"bash", "sh"}
_TOGETHER = 0.5  # seconds
_DIGEST = re.compile("'[0-9a-f]{16}'")  # of code, among the parameters of a job
_FILES = re.compile(r"[^\s,;'\"]+/[^\s,;'\"]+(?:, [^\s,;'\"]+/[^\s,;'\"]+){3,}")


def is_main(workflow: Any) -> bool:
    """Return whether this process is the Snakemake that somebody started, not one that it starts for a job."""
    return bool(workflow.exec_mode == workflow.exec_mode.DEFAULT)


def arguments(workflow: Any) -> Namespace | None:
    """Return the arguments of the snakemake that a person started; None in the processes that it starts itself."""
    program = Path(sys.argv[0])
    by_module = program.parts[-2:] == ("snakemake", "__main__.py")
    if not (program.name == "snakemake" or by_module) or not is_main(workflow):
        return None
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        # What it takes for `--cores all`.
        cli.available_cpu_count = lambda: processors(available_cpu_count())
        parsed: Namespace = cli.parse_args(sys.argv[1:])[1]
    return parsed


def steps_named(arguments: Namespace) -> set[str]:
    """Return the names of steps and targets that options other than the targets themselves hold."""
    options = ["until", "omit_from", "forcerun", "prioritize", "allowed_rules", "preemptible_rules"]
    options += ["set_threads", "set_resources", "groups"]  # by the name of a step
    return {str(name) for option in options for name in getattr(arguments, option) or ()}


def software(workflow: Any) -> list[str]:
    """Return the names of the methods by which software would be deployed for jobs, such as ``conda``."""
    return [str(method) for method in workflow.deployment_settings.deployment_method]


def end_by(end: Callable[[UserError], NoReturn]) -> None:
    """Let a user's mistake that Snakemake meets in a function of a rule end the process in our way, not in a report."""
    print_exception = SnakemakeApi.print_exception

    def print_others(self: Any, error: Exception) -> None:
        if mistake := mistake_behind(error):
            end(mistake)
        print_exception(self, error)

    SnakemakeApi.print_exception = print_others


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the user's mistake that an error comes from, if it does."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def after_planning(workflow: Any, check: Callable[[], None]) -> None:
    """Let a check see the job graph of a real or a dry run before anything else does; it may end the process."""
    build = workflow._build_dag

    def build_and_check() -> None:
        build()
        if workflow.executor_plugin is not None and not workflow.touch:  # no picture or list of the graph
            check()

    workflow._build_dag = build_and_check


def limit(workflow: Any, given: Namespace) -> None:
    """Let local jobs use no more than there is: of memory unless its limit was given, of processors where all were.

    Args:
        workflow: Snakemake's.
        given: the arguments of the snakemake that a person started.
    """
    if given.executor not in (None, "local"):
        return
    if "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", memory_mb())
    if given.cores is not None:
        workflow.resource_settings.cores = given.cores
        workflow.register_resource("_cores", given.cores)


def offer_cards(workflow: Any, amount: int) -> None:
    """Let local jobs together hold so many places on cards, unless ``--resources gpu=`` was given."""
    if workflow.local_exec and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", amount)


def jobs_to_run(workflow: Any) -> Iterable[Any]:
    """Return the jobs that will run; the job graph must have been built."""
    jobs: Iterable[Any] = workflow.dag.needrun_jobs()
    return jobs


def logs_of_failed_jobs(workflow: Any) -> list[str]:
    """Return the log files of failed jobs."""
    return sorted({path for job in workflow.scheduler.failed for path in job.log})


def start_jobs_at_once(workflow: Any) -> None:
    """Lift Snakemake's limit of a hundred job starts a second, for local jobs, which never come near it.

    Under the limit the scheduler wakes up once a second for every job that has finished, and looks at all that wait:
    after some hundred jobs that costs it a good part of a core.
    """
    workflow.scheduler.job_rate_limiter = None


def job_processes() -> list[psutil.Process]:
    """Return the processes of local jobs, without the shells that started them."""
    with shell._lock:
        inside = {process.pid for process in shell._processes.values()}
    found = []
    for process in psutil.Process().children(recursive=True):  # each after its parent
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid in inside or process.ppid() in inside:
                inside.add(process.pid)
                if process.name() not in _SHELLS:
                    found.append(process)
    return found


def wait_for_signalled_jobs() -> None:
    """Let Snakemake's process beside a job of a cluster, and the job's shell, wait for it where all are told to stop.

    If one of them ended at once, as without a handler, the cluster would kill what the job still saves. To SIGTERM
    Snakemake has a handler of its own while it runs jobs.
    """
    shell.prefix(f"set -euo pipefail; trap : {' '.join(number.name for number in SIGNALS)}; ")
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda signum, frame: None)


def end_terminal_output() -> None:
    """Let Snakemake print nothing more: of jobs that were told to stop it says in many lines that they failed."""
    for handler in logger.handlers:
        if isinstance(handler, ColorizingTextHandler):
            handler.addFilter(lambda record: False)


def is_brief(given: Namespace) -> bool:
    """Return whether a person asked for a dry run and left it to us what is printed."""
    return bool(given.dryrun) and not (given.verbose or given.quiet or given.printshellcmds or given.debug_dag)


def hush(workflow: Any, *, header: bool = False) -> None:
    """Let a dry run print only warnings and errors from now on, and not go through its jobs; or no header alone."""

    def passes(record: logging.LogRecord) -> bool:
        told = (
            getattr(record, "event", None) == LogEvent.WORKFLOW_STARTED if header else record.levelno < logging.WARNING
        )
        return not told

    for handler in logger.handlers:
        handler.addFilter(passes)
    if not header:
        workflow.output_settings.quiet = {Quietness.RULES, Quietness.PROGRESS}


def changed_params(change: Any) -> tuple[list[str], bool]:
    """Return which settings of a job changed since its files were made, in words, and whether its code did.

    Args:
        change: Snakemake's note of the parameters that changed.
    """
    values = {*change.only_old, *change.only_new}
    digests = {value for value in values if _DIGEST.fullmatch(value)}
    old, new = ([_parsed(value) for value in sorted({*side} - digests)] for side in (change.only_old, change.only_new))
    found = [word for one in old for other in new for word in changes(one, other)]
    return list(dict.fromkeys(found)) or (["settings"] if old or new else []), bool(digests)


def _parsed(value: str) -> dict[str, Any]:
    """Return a parameter that Snakemake has noted, by ``repr``: a run's settings, or another one under a name."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError):
        parsed = json.loads(ast.literal_eval(value))
        return parsed if isinstance(parsed, dict) else {"settings": parsed}
    return {"settings": value}


def reword() -> None:
    """Put what Snakemake says into better words: the reason of a job, its message, and that its files are locked."""
    logger.addFilter(_reworded)
    ParamsChange.__str__ = _said_of_change


def _said_of_change(self: Any) -> str:
    settings, code = changed_params(self)
    return f"{', '.join([*settings, *(['code'] if code else [])])} (the earlier result is replaced)"


def _reworded(record: logging.LogRecord) -> bool:
    if reason := getattr(record, "reason", None):  # a study's target has a thousand files
        record.reason = _FILES.sub(lambda match: first_of(sorted(match[0].split(", ")), 3), reason)
    if message := getattr(record, "rule_msg", None):  # a name that is left out leaves a blank
        record.rule_msg = " ".join(message.split())
    if getattr(record, "exception", None) == LockException.__name__:  # its own words: to remove the locks
        record.msg = (
            "ofq: error: another snakemake makes some of these files; wait for it or end it, then start this one again"
        )
        if os.environ.get(LOCKS):  # then one that was killed is not noticed
            record.msg += "; if there is none on any machine: snakemake --unlock"
    return True


def explain_deaths(explain: Callable[[str, Any], str]) -> None:
    """Let the log of a job that a signal ended say so, unless the job could say it itself.

    Args:
        explain: returns what else is to be said, from the names of the job's rule and its wildcards.
    """
    run = local.run_wrapper

    def run_and_explain(*arguments: Any) -> None:
        job = signature(run).bind(*arguments).arguments
        sizes = {log: log.stat().st_size if log.exists() else 0 for log in map(Path, job["log"])}
        try:
            run(*arguments)
        except RuleException as error:
            code = getattr(error.__context__, "returncode", 0)
            number = -code if code < 0 else code - 128  # of the shell itself, or of what it ran
            if number in SIGNALS:
                time.sleep(_TOGETHER)  # what told a whole group has told Snakemake too, which then says the rest
            for log, before in sizes.items() if number in list(signal.Signals) else ():
                last = log.read_bytes()[before:].splitlines()[-1:] if log.exists() else []
                if not b"".join(last).startswith(b"ofq: "):
                    memory = ", often for want of memory" if number == signal.SIGKILL else ""
                    with log.open("a") as file:
                        file.write(f"ofq: error: killed by {signal.Signals(number).name}{memory}")
                        file.write(f"; {explain(job['job_rule'].name, job['wildcards'])}\n")
            raise

    local.run_wrapper = run_and_explain


def keep_finished(keeps: Callable[[str, str], bool]) -> None:
    """Keep what some studies have finished when the shell text of a rule or the digest of its code changes.

    Args:
        keeps: returns, from the names of a rule and a study, whether finished outputs stay.
    """
    code_changed, params_changed = PersistenceBase._code_changed, PersistenceBase.params_changed

    def kept(job: Any) -> bool:
        return keeps(job.rule.name, getattr(job.wildcards, "study", ""))

    def code_changed_and_counts(self: Any, job: Any, file: Any = None) -> bool:
        return not kept(job) and bool(code_changed(self, job, file=file))

    def params_changed_and_count(self: Any, job: Any, file: Any = None) -> Any:
        change = params_changed(self, job, file=file)
        others = [value for value in (*change.only_old, *change.only_new) if not _DIGEST.fullmatch(value)]
        return NO_PARAMS_CHANGE if kept(job) and not others else change

    PersistenceBase._code_changed = code_changed_and_counts
    PersistenceBase.params_changed = params_changed_and_count


def append_to_logs() -> None:
    """Make a job that runs again append to its log, which Snakemake would remove with the job's old outputs."""
    remove = Job.remove_existing_output

    async def remove_all_but_logs(self: Any) -> None:
        logs, self._log = self.log, []
        try:
            await remove(self)
        finally:
            self._log = logs

    Job.remove_existing_output = remove_all_but_logs


def outputs(artefact: Artefact, subcategory: Callable[[Any], str], root: Path) -> list[Any]:
    """Return the outputs of a part of the report as rules name them, tables and figures flagged for Snakemake's report.

    Args:
        artefact: the part.
        subcategory: returns the subcategory under which the report lists it, from a job's wildcards.
        root: root of the project; its folder ``report`` may have a caption for each table and figure.
    """
    shown = {f"tables/{name}.html": ("Tables", "table", title) for name, title in artefact.tables.items()}
    shown |= {f"figures/{name}.png": ("Figures", "figure", title) for name, title in artefact.figures.items()}
    files: list[Any] = []
    for name in artefact.makes:
        path = f"results/{{study}}/{{report}}/{name}"
        if name in shown:
            category, kind, title = shown[name]
            caption = Path("report") / Path(name).with_suffix(".rst")
            described = {"caption": f"../{caption}"} if (root / caption).exists() else {}
            path = report(path, category=category, subcategory=subcategory, labels={kind: title}, **described)
        files.append(path)
    return files
