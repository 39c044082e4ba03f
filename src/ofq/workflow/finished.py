"""What the steps of a study have made: whether it is what ``params.yaml`` and the code here ask for, file by file.

Snakemake compares times and what it noted of a job itself; here only the files count, and what their makers wrote into
them. So the same is asked of results that no Snakemake made, and of those that another machine made.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ofq.config.changes import changes
from ofq.config.grid import all_runs, grids_named, published, with_sources
from ofq.config.params import Params
from ofq.config.resolve import AnnealConfig, RunConfig, given_weights, keeping, resolve
from ofq.data.manifest import again, manifest_path, read_manifest
from ofq.data.verify import manifest_problems
from ofq.environment import RESUME_ACROSS_CODE
from ofq.errors import UserError
from ofq.runs import states
from ofq.runs.code_digest import code_digest
from ofq.runs.files import AGAIN, read_json
from ofq.runs.paths import EVERYTHING, RESULTS, Run, RunFiles
from ofq.runs.provenance import file_digest
from ofq.runs.published import Measured, read_frame, read_info, read_measured
from ofq.workflow.plan import ENTRIES
from ofq.workflow.targets import DATA_FILES, PROBE

STEPS = ("data", "teacher", "qat", "cga", "noise", "probe")
"""The steps that make results of a study, each after those whose results it may need."""


@dataclass(frozen=True)
class Made:
    """What one step makes: of a study its data, or of a run its files or a measurement."""

    step: str
    of: str | Run

    def __str__(self) -> str:
        return f"{self.step} {self.of}"

    @property
    def study(self) -> str:
        """The name of its study."""
        return self.of.study if isinstance(self.of, Run) else self.of


class Finished:
    """The results of a project, compared with what its settings and its code ask for.

    Args:
        params: the project's.
    """

    def __init__(self, params: Params) -> None:
        self._params = params
        self._code = cache(code_digest)
        self._config = cache(partial(resolve, params))
        self._digest = cache(file_digest)
        self._right: dict[Made, bool] = {}
        self._glances: dict[Made, list[str]] = {}

    def wanted(self, study: str, group: str | None) -> list[Made]:
        """Return what a study's target, or that of one of its groups, has its steps make, each after what it needs.

        Raises:
            UserError: no such study or group.
        """
        grids = grids_named(self._params, study, group)
        measured = [Made(kind, run) for grid in grids for run in grid.trained for kind in grid.measure]
        rates = self._params.studies[study].learning_rates if group == EVERYTHING else None
        wanted = [*self._steps_of(study, [run for grid in grids for run in grid.runs]), *dict.fromkeys(measured)]
        return [*(self.wanted(rates, None) if rates else []), *sorted(wanted, key=lambda made: STEPS.index(made.step))]

    def all(self, study: str) -> list[Made]:
        """Return what there may be of a study: its data, every run, and the measurements that are there."""
        made = self._steps_of(study, all_runs(self._params, study))
        students = [each.of for each in made if isinstance(each.of, Run) and not each.of.full_precision]
        measured = [Made(kind, run) for run in students for kind in ("noise", "probe")]
        return [*made, *(each for each in measured if (RESULTS / self.files(each)[0]).exists())]

    def step_of(self, run: Run) -> Made:
        """Return the training of a run.

        Raises:
            UserError: a coordinate of the run does not exist.
        """
        return Made(self._config(run).phase, run)

    def files(self, made: Made) -> list[Path]:
        """Return the files below ``results`` that a step makes, the one that is written last at the beginning."""
        if not isinstance(made.of, Run):
            return [Path(made.of, name) for name in DATA_FILES]
        names = {"noise": [made.of.files.noise.name], "probe": PROBE}.get(made.step)
        return [Path(str(made.of), name) for name in names or [p.name for p in published(self._params, made.of)]]

    def is_right(self, made: Made) -> bool:
        """Return whether something is here, is right, and was made from what is here and right."""
        if made not in self._right:
            try:
                self.check(made)
                self._right[made] = True
            except UserError:
                self._right[made] = False
        return self._right[made]

    def check(self, made: Made, folder: Path = RESULTS) -> dict[Path, str]:
        """Compare what a step made with the settings and the code here, and with the results here that it needs.

        Args:
            made: by a step.
            folder: results of this project, or of another one.

        Returns:
            The sha256 of each of its files below ``folder``.

        Raises:
            UserError: it is not right; says why.
        """
        for path in self.files(made):
            if not (folder / path).is_file():
                raise UserError(f"{path.name} is missing")
        for needed in self.needs(made):
            if not self.is_right(needed):
                raise UserError(f"it needs {needed}, which is not right here")
        try:
            return self._check_data(made.of, folder) if isinstance(made.of, str) else self._check(made, made.of, folder)
        except UserError as error:  # what mends a file here mends none elsewhere
            raise UserError(str(error).removesuffix(f"; {AGAIN}").removesuffix(f"; {again(made.study)}")) from None

    def glance(self, made: Made) -> list[str]:
        """Return why a training is not right as far as ``run.json`` says so, without reading its other files.

        Nothing said, it looks right. Files that were changed since are found by :meth:`check` alone.
        """
        if made not in self._glances:
            self._glances[made] = self._reasons(made, made.of) if isinstance(made.of, Run) else []
        return self._glances[made]

    def changed_settings(self, run: Run, path: Path) -> list[str]:
        """Return in which settings a ``run.json`` differs from what ``params.yaml`` asks for here, in words.

        Raises:
            UserError: it is missing or damaged.
        """
        return changes(read_info(path, "config")["config"], self._config(run).shown())

    def code_of(self, made: Made) -> str:
        """Return the digest of the code here that makes a run."""
        assert isinstance(made.of, Run)
        return self._code(ENTRIES[made.step], *self._config(made.of).modules)

    def saved_step(self, made: Made) -> int:
        """Return the step after which a training would go on, if what it reads stays as it is here; 0: at its start."""
        run = made.of
        if not isinstance(run, Run) or not (found := states.of_run(run.state(""))):
            return 0
        config, kept = self._config(run), keeping(self._params, made.study)
        paths = [manifest_path(made.study), *_read(made, run, config)]
        if not all(path.exists() for path in paths):
            return 0
        read = {str(path): self._digest(path) for path in paths}
        here = states.Origin(config.canonical(), read, self.code_of(made))
        ignored = {"code"} if kept.across_code or os.environ.get(RESUME_ACROSS_CODE) == "1" else set()
        steps = [state.step for state in found if {*state.origin.differences(here)} <= ignored]
        return steps[-1] if steps else 0

    def _reasons(self, made: Made, run: Run) -> list[str]:
        if not all((RESULTS / path).exists() for path in self.files(made)):
            return ["missing"]
        config = self._config(run)
        try:
            info = read_info(run.files.info, "config", "digests")
            found = changes(info["config"], config.shown())
            if not self._is_code_here(run.study, info["digests"], ENTRIES[made.step], *config.modules):
                found.append("code")
            recorded, manifest = info["digests"].get("inputs", {}), manifest_path(run.study)
            if manifest.exists() and recorded.get(str(manifest)) != self._digest(manifest):
                found.append("other data")
            for needed in self.needs(made):
                if isinstance(needed.of, Run) and (self.glance(needed) or self._other(needed.of.files, recorded)):
                    found.append(f"after {needed.step}")
        except UserError as error:
            return [str(error)]
        return found

    def _other(self, files: RunFiles, recorded: dict[str, str]) -> bool:
        """Return whether a run was made from other files than those that another one says it has published."""
        outputs = read_info(files.info, "digests")["digests"].get("outputs", {})
        paths = files.taught if files.full_precision else [files.model, files.trainer]
        return any(recorded.get(str(path)) != outputs[path.name] for path in paths if path.name in outputs)

    def _steps_of(self, study: str, runs: Iterable[Run]) -> list[Made]:
        """Return the steps of some runs of a study, of what they continue and learn from, and of its data."""
        made = [Made("data", study), *map(self.step_of, with_sources(self._params, runs))]
        return sorted(made, key=lambda each: STEPS.index(each.step))

    def needs(self, made: Made) -> list[Made]:
        """Return what a step needs of other steps."""
        if not isinstance(made.of, Run):
            return []
        if made.step in ("noise", "probe"):
            return [self.step_of(made.of)]
        data, config = Made("data", made.study), self._config(made.of)
        teacher = [] if made.of.full_precision else [Made("teacher", made.of.teacher)]
        parent = [Made("qat", made.of.sibling(config.parent))] if isinstance(config, AnnealConfig) else []
        return [data, *teacher, *parent]

    def _check_data(self, study: str, folder: Path) -> dict[Path, str]:
        settings = self._params.study_named(study).data
        manifest = read_manifest(study, folder)
        for problem in manifest_problems(manifest, settings):
            raise UserError(f"manifest.json {problem}")
        made = self._digests(Made("data", study), folder)
        for stored in (manifest.files.train, manifest.files.eval):
            if made.get(Path(study, "data", stored.name)) != stored.sha256:
                raise UserError(f"{stored.name} is not what manifest.json says (sha256)")
        info = read_json(folder / study / "data/prepared.json", dict[str, Any])
        self._check_code(study, info.get("digests"), ENTRIES["data"], settings.entry.module)
        return made

    def _check(self, made: Made, run: Run, folder: Path) -> dict[Path, str]:
        """Check a run or a measurement of it."""
        config, files = self._config(run), {path.name: folder / path for path in self.files(made)}
        if made.step == "noise":
            digests, outputs = read_frame(files["noise.parquet"], []).attrs.get("digests"), set[str]()
        elif made.step == "probe":
            digests, outputs = read_measured(files["probe.json"], Measured).get("digests"), {"probe.parquet"}
        else:
            digests, outputs = self._check_info(run, files["run.json"]), {*files} - {"run.json"}
        recorded = digests.get("inputs") if isinstance(digests, dict) else None
        if not isinstance(recorded, dict):
            raise UserError("it does not say what it was made from, as of an earlier version")
        self._check_code(run.study, digests, ENTRIES[made.step], *config.modules)
        read = {str(path): self._digest(path) for path in (manifest_path(run.study), *_read(made, run, config))}
        if other := sorted(name for name in {*read, *recorded} if read.get(name) != recorded.get(name)):
            raise UserError(f"it was made from another {other[0]} than the one here")
        found, recorded = self._digests(made, folder), digests.get("outputs") or {}
        for name in sorted(outputs):
            if name not in recorded:
                raise UserError(f"it does not say what {name} was, as of an earlier version")
            if found[Path(str(run), name)] != recorded[name]:
                raise UserError(f"{name} was changed since it was published (sha256)")
        return found

    def _check_info(self, run: Run, path: Path) -> Any:
        info = read_info(path, "run", "config", "digests")
        if info["run"] != str(run):
            raise UserError(f"run.json is that of {info['run']}")
        if different := self.changed_settings(run, path):
            raise UserError(f"its settings are not those of params.yaml here: {', '.join(different)}")
        return info["digests"]

    def _check_code(self, study: str, digests: Any, *modules: str) -> None:
        if not self._is_code_here(study, digests, *modules):
            code = digests.get("code") if isinstance(digests, dict) else None
            raise UserError(f"other code made it: its digest is {code}, {self._code(*modules)} here")

    def _is_code_here(self, study: str, digests: Any, *modules: str) -> bool:
        """Return whether the code here made something, or whether it does not count in its study."""
        made_by = digests.get("code") if isinstance(digests, dict) else None
        return made_by == self._code(*modules) or not self._params.studies[study].rerun_on_code

    def _digests(self, made: Made, folder: Path) -> dict[Path, str]:
        return {path: self._digest(folder / path) for path in self.files(made)}


def _read(made: Made, run: Run, config: RunConfig) -> list[Path]:
    """Return the files that a step reads of runs."""
    taught = given_weights(config) if run.full_precision else run.teacher.files.taught
    if made.step in ("noise", "probe"):
        return [*taught, run.files.model, *([run.files.trainer] if made.step == "probe" else [])]
    parent = run.sibling(config.parent).files if isinstance(config, AnnealConfig) else None
    return [*taught, *([parent.model, parent.trainer] if parent else [])]
