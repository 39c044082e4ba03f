"""What surrounds a run of Snakemake: checks before it plans, the warm process, and messages at its end."""

import atexit
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from ofq.config.handover import hand_over
from ofq.config.params import Params
from ofq.config.recipes import check_images
from ofq.config.resolve import keeping, resolve
from ofq.config.settings import PROCESSOR
from ofq.data.sources import check_sources, is_streamed
from ofq.environment import (
    OWN_PROCESS,
    RESUME_ACROSS_CODE,
    SETTINGS,
    SOURCE,
    UNDER_SNAKEMAKE,
    check_variables,
    configure_logging,
)
from ofq.errors import UserError, refused
from ofq.report.claims.terms import load as load_claims
from ofq.runs import locks, states
from ofq.runs.code_digest import code_digest
from ofq.runs.paths import LOGS, PARAMS, Run
from ofq.tracking.mirror import warnings
from ofq.workflow import internals
from ofq.workflow.checks import RESUME, check_executor, check_place, check_software, resumes
from ofq.workflow.cost import summary
from ofq.workflow.dvc_file import unlisted
from ofq.workflow.forecast.due import due_of
from ofq.workflow.forecast.outlook import outlook
from ofq.workflow.limits import cards
from ofq.workflow.plan import ENTRIES, Plan
from ofq.workflow.stopping import Stopping
from ofq.workflow.targets import (
    check_project,
    check_step,
    check_target,
    load_project,
    needs_claims,
    not_remade,
)
from ofq.workflow.warm import WarmProcess

_log = logging.getLogger(__name__)

_SNAKEMAKE = Path(".snakemake")
_ERROR = "ofq: error: "
_ANEW = "write it anew: python -m ofq stages > dvc.yaml"
_TRAINING = {"teacher", "qat", "cga"}
_ON_CARDS = _TRAINING | {"probe", "noise"}
# In a study with `rerun_on_code: false`, what these rules have finished stays when the code changes.
_KEPT = {"data", *_ON_CARDS}


class Startup:
    """One run of Snakemake, from reading the Snakefile to its end.

    Creating it checks the project and the targets; a mistake ends the process with one line and exit code 2.

    Args:
        workflow: Snakemake's workflow, as the Snakefile has it.
        config: values of ``--config``.

    Attributes:
        plan: what rules ask for.
    """

    def __init__(self, workflow: Any, config: dict[str, Any]) -> None:
        # Jobs run the `python` of this environment, whether or not it was activated, and the package that plans.
        _first_in("PATH", Path(sys.executable).parent)
        _first_in("PYTHONPATH", SOURCE)
        os.environ[UNDER_SNAKEMAKE] = "1"
        if internals.is_main(workflow):
            os.environ.pop(SETTINGS, None)  # of a job that this snakemake was started in
        else:
            internals.wait_for_signalled_jobs()
        internals.reword()
        internals.explain_deaths(self._after_death)
        internals.append_to_logs()
        internals.end_by(_end)
        self._workflow = workflow
        self._warm = WarmProcess()
        self._stopping = Stopping(workflow)
        self._started = 0.0  # seconds since the epoch; no job yet
        if given := internals.arguments(workflow):
            self._stopping.listen(working=False)
            internals.limit(workflow, given)
        self._brief = given is not None and internals.is_brief(given)
        if self._brief:
            internals.hush(workflow, header=True)
        with _one_line():
            check_variables()
            configure_logging()
            if resumes(config):
                os.environ[RESUME_ACROSS_CODE] = "1"
            self.params = self._check()
        internals.keep_finished(self._keeps)
        self.plan = Plan(self.params)
        if internals.is_main(workflow):
            internals.after_planning(workflow, self._check_plan)

    def on_start(self) -> None:
        """Hand the jobs their parameters before the first one starts, and start the warm process for local ones."""
        if not internals.is_main(self._workflow) or self._workflow.touch:
            return
        if warning := self.left_behind():
            _log.warning(warning)
        path = _SNAKEMAKE / f"ofq-settings-{os.uname().nodename}-{os.getpid()}.json"
        hand_over(path, self.params)
        elsewhere = [name for name, study in self.params.studies.items() if study.hardware != PROCESSOR]
        os.environ[OWN_PROCESS] = " ".join(elsewhere)
        jobs = internals.jobs_to_run(self._workflow)
        self._trains = {self.plan.run(job.wildcards) for job in jobs if job.rule.name in _TRAINING}
        if self._trains:
            print(self._how_to_watch(), file=sys.stderr)
        self._started = time.time()
        os.environ[SETTINGS] = str(path.resolve())
        atexit.register(path.unlink, missing_ok=True)
        self._stopping.listen(working=True)
        if self._workflow.local_exec:
            internals.start_jobs_at_once(self._workflow)
            self._warm.start()

    def on_success(self) -> None:
        """Drop the states of finished runs after the last job, and print what they cost."""
        self._warm.stop()
        states.drop_finished()
        try:
            if self._started:
                print(summary(sorted(self._trains), since=self._started, here=self._workflow.local_exec))
            for warning in warnings(self.params.studies):
                _log.warning(warning)
        except UserError as error:  # of a file that another wrote meanwhile; the study itself is complete
            _log.warning("%s", error)

    def on_error(self) -> None:
        """Print after a failure, as the last lines, what was refused and where to read it, or how to go on.

        States stay, even those of finished runs: Snakemake may have stopped before it recorded that they finished, and
        then runs them again.
        """
        self._warm.stop()
        if self._stopping.signum:
            self._stopping.note_saved(self._trains)
        else:
            atexit.register(self._name_logs_of_failed_jobs)  # Snakemake itself prints some lines after this

    def _how_to_watch(self) -> str:
        """Return how to see how far the runs are, and where what they print is."""
        python = Path(sys.executable)
        command = f"{python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else 'python'} -m ofq status"
        studies = sorted({run.study for run in self._trains})
        log = next(iter(self._trains)).log if len(self._trains) == 1 else f"{LOGS}/STUDY/MODEL/BITS/VARIANT/seedN.log"
        watch = " or ".join(f"{command} {study} --watch" for study in studies)
        return f"ofq: to watch: {watch}; log of {'the' if len(self._trains) == 1 else 'each'} training: {log}"

    def left_behind(self) -> str | None:
        """Return a warning about unfinished runs that start from the first step because the code changed, or None."""
        unfinished = states.unfinished().items()
        changed = [f"{run} (step {state.step})" for run, state in unfinished if self._starts_anew(run, state)]
        if not changed:
            return None
        return (
            f"the code changed since {', '.join(changed)} stopped: a run starts from its first step, what was saved"
            f" stays in runs/; to go on from there: snakemake --config {RESUME}=true"
        )

    def _check(self) -> Params:
        """Check all that can be checked before a job is planned, and return the parameters."""
        root = Path(self._workflow.basedir)
        if internals.is_main(self._workflow):
            check_place(root)
            check_software(internals.software(self._workflow))
        params = load_project(root / PARAMS)
        if internals.is_main(self._workflow) and (folders := unlisted(params, root / "dvc.yaml")):
            problem = f"dvc.yaml does not list {', '.join(folders)}"
            if "DVC_STAGE" in os.environ:
                raise UserError(f"{problem}, and no experiment changes that; set it in params.yaml, then {_ANEW}")
            _log.warning(f"{problem}; {_ANEW}")
        arguments = internals.arguments(self._workflow)
        working = arguments if arguments and not arguments.dryrun else None
        check_project(writing=working is not None)
        if working:
            check_executor(working.executor)
        for name in sorted(internals.steps_named(arguments) if arguments else []):
            check_step(params, name)
        for target in sorted(arguments.targets if arguments else []):
            check_target(params, target)
            if needs_claims(target):
                load_claims(params)
            if warning := not_remade(params, target):
                _log.warning("%s", warning)
        if working:
            self._lock = hold_project()
        return params

    def _check_plan(self) -> None:
        """Check what only the job graph tells: what cannot be read, and whether there are cards to train on."""
        jobs = list(internals.jobs_to_run(self._workflow))
        with _one_line():
            for job in jobs:
                if job.rule.name == "data":
                    check_sources(job.wildcards.study, self.params.studies[job.wildcards.study].data)
                elif job.rule.name == "teacher":
                    self.plan.check_weights(job.wildcards)
            self._check_images([job for job in jobs if job.rule.name in _ON_CARDS])
            self._offer_cards([job for job in jobs if job.rule.name in _ON_CARDS and self.plan.gpu(job.wildcards)])
            if self._brief and jobs:
                print(outlook(self.params, due_of(self._workflow), self._workflow.dag_settings.targets))
                internals.hush(self._workflow)

    def _check_images(self, jobs: Collection[Any]) -> None:
        """Check that images which are streamed, or held in memory, can be what the recipes of runs ask for."""
        streamed = cache(lambda study: is_streamed(study, self.params.studies[study].data))
        for job in jobs:
            config, study = self.plan.config(job.wildcards), job.wildcards.study
            try:
                stored = getattr(config, "teacher_once", False)
                check_images(config.augment, streamed=streamed(study), stored=stored)
            except UserError as error:
                raise UserError(f"study {study}: {error}") from None

    def _offer_cards(self, jobs: Collection[Any]) -> None:
        """Offer jobs the places of this machine's cards: of each as many as the study that shares least allows."""
        if not jobs or not self._workflow.local_exec:
            return
        found = cards()
        trained = [job.wildcards.study for job in jobs if job.rule.name in _TRAINING]
        if found:
            shared = min(self.params.studies[job.wildcards.study].hardware.runs_per_gpu for job in jobs)
            for study in trained:
                if (devices := self.params.studies[study].hardware.devices) > found and not self._workflow.dryrun:
                    raise UserError(
                        f"a run of study {study} takes {devices} cards, and there are {found} here; lower "
                        f"studies.{study}.hardware.devices in params.yaml, or start snakemake where there are more"
                    )
            internals.offer_cards(self._workflow, found * shared)
        elif trained and not self._workflow.dryrun:
            raise UserError(
                f"study {trained[0]} trains on cuda, and there is no card here that nvidia-smi lists; start snakemake "
                f"where there is one, or set studies.{trained[0]}.hardware.device: cpu in params.yaml"
            )

    def _after_death(self, step: str, wildcards: Any) -> str:
        """Return how a job goes on whose process was killed."""
        aside = "" if step in _TRAINING else step
        found = states.of_run(self.plan.run(wildcards).state(aside)) if hasattr(wildcards, "seed") else []
        kept = (
            f"step {found[-1].step} is kept, and snakemake goes on from there" if found else "snakemake begins it anew"
        )
        here = internals.is_main(self._workflow)
        more = f"to ask for more memory: snakemake --set-resources {step}:mem_mb=N"
        return f"{kept}; {'to run fewer jobs at once: snakemake --cores 1' if here else more}"

    def _keeps(self, rule: str, study: str) -> bool:
        return rule in _KEPT and study in self.params.studies and not self.params.studies[study].rerun_on_code

    def _starts_anew(self, run: Run, state: states.State) -> bool:
        try:
            config = resolve(self.params, run)
        except UserError:  # no longer in params.yaml
            return False
        across = keeping(self.params, run.study).across_code or os.environ.get(RESUME_ACROSS_CODE) == "1"
        code = code_digest(ENTRIES[config.phase], *config.modules)
        return config.canonical() == state.origin.settings and not across and code != state.origin.code

    def _name_logs_of_failed_jobs(self) -> None:
        if failed := internals.logs_of_failed_jobs(self._workflow):
            logs = [path.read_text(errors="replace") for path in map(Path, failed) if path.is_file()]
            ends = dict.fromkeys(log.splitlines()[-1] for log in logs if log)
            for line in ends:
                if line.startswith(_ERROR):
                    print(line, file=sys.stderr)
            print(f"ofq: a job failed; what it printed stands in {', '.join(failed)}", file=sys.stderr)


@contextmanager
def _one_line() -> Iterator[None]:
    """End the process with one line and exit code 2 where something is refused."""
    try:
        yield
    except (UserError, OSError) as error:
        problem = refused(error) if isinstance(error, OSError) else error
        if problem is None:
            raise
        _end(problem)


def _end(problem: UserError) -> NoReturn:
    print(f"{_ERROR}{problem}", file=sys.stderr)
    sys.exit(2)


def _first_in(variable: str, folder: Path) -> None:
    """Put a folder in front of the others of an environment variable, once."""
    others = os.environ.get(variable, os.defpath if variable == "PATH" else "").split(os.pathsep)
    kept = [other for other in others if other not in ("", str(folder))]
    os.environ[variable] = os.pathsep.join([str(folder), *kept])


def hold_project() -> IO[str]:
    """Show while this process lives that a snakemake works here, and clear up after one that was killed.

    Snakemake's own locks are files that stay when it is killed; without this, they would need `snakemake --unlock`.

    Returns:
        The file that holds the lock.
    """
    lock, alone = locks.shared(_SNAKEMAKE / "ofq.lock")
    stale = list((_SNAKEMAKE / "locks").glob("*.lock")) if alone else []
    for path in stale:
        path.unlink()
    if alone:
        for path in _SNAKEMAKE.glob("ofq-settings-*.json"):
            path.unlink(missing_ok=True)
    if stale:
        _log.warning("an earlier snakemake did not end by itself; its locks are removed")
    return lock
