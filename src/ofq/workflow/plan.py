"""What each rule of the Snakefile reads and depends on, derived from its wildcards."""

import json
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ofq.config.grid import Coordinates, Grid, all_runs
from ofq.config.params import Params
from ofq.config.resolve import RunConfig, given_weights, resolve
from ofq.errors import UserError
from ofq.report.artefacts import Artefact
from ofq.runs.code_digest import code_digest
from ofq.runs.paths import EVERYTHING, EXPORTS, FULL_PRECISION, RESULTS, Run, RunFiles, data_dir
from ofq.workflow.targets import named, report_files, targets_of

# Entry modules of the steps; the outputs of a step depend on the code of its module.
ENTRIES = {
    "data": "ofq.data.prepare",
    "teacher": "ofq.training.teacher",
    "qat": "ofq.training.qat",
    "cga": "ofq.training.anneal",
    "probe": "ofq.measure.probe",
    "noise": "ofq.measure.noise",
    "export": "ofq.export.write",
    "toy": "ofq.measure.toy",
    "toy_figure": "ofq.report.parts.toy",
    "track": "ofq.tracking.mirror",
}
_CHANGES_NOTHING = {"root", "workers"}  # settings of a study's data
_LARGE = {".safetensors", ".pt", ".parquet"}

_MEMORY, _WITH_A_CARD = 1500, 6000  # megabytes: CUDA's libraries alone take a few thousand

Wildcards = Any  # Snakemake's: an attribute for each wildcard of the rule


class Plan:
    """What rules ask for, derived from the validated ``params.yaml``.

    Every method that takes wildcards serves as an input function or a parameter of a rule.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self._code = cache(code_digest)
        self._config = cache(partial(resolve, params))
        self._grid = cache(partial(Grid, params=params))

    @property
    def constraints(self) -> dict[str, str]:
        """A regular expression for each wildcard, which matches the names in ``params.yaml``."""
        known = [Coordinates.of(self.params, study) for study in self.params.studies]
        groups = {group for study in self.params.studies.values() for group in study.groups}
        return {
            "study": _one_of(self.params.studies),
            "model": _one_of(self.params.models),
            "bits": _one_of({bits for each in known for bits in each.bits} - {FULL_PRECISION}),
            "teacher": _one_of({name for each in known for name in each.teachers}),
            "variant": _one_of(self._variants),
            "seed": r"0|[1-9][0-9]*",
            "report": _one_of({"report", *(f"report/{group}" for group in groups | {EVERYTHING, EXPORTS})}),
        }

    @property
    def trained_variants(self) -> str:
        """Wildcard constraint: variants that are not annealed."""
        return _one_of(name for name in self._variants if self.params.variant(name).parent is None)

    @property
    def annealed_variants(self) -> str:
        """Wildcard constraint: variants that anneal another one's finished run."""
        return _one_of(name for name in self._variants if self.params.variant(name).parent is not None)

    @property
    def names(self) -> dict[str, Callable[[Wildcards], list[Path | str]]]:
        """The names that can be asked for, each with an input function for all that it makes."""

        def asks_for(study: str, group: str | None) -> Callable[[Wildcards], list[Path | str]]:
            return lambda wildcards: targets_of(self.params, study, group)

        return {name: asks_for(*place) for name, place in named(self.params).items()}

    def all(self, wildcards: Wildcards) -> list[Path | str]:
        """Return what a bare ``snakemake`` makes."""
        return targets_of(self.params, self.params.study)

    def run(self, wildcards: Wildcards) -> Run:
        """Return the run that a training job's wildcards name."""
        bits = getattr(wildcards, "bits", FULL_PRECISION)
        name = wildcards.teacher if bits == FULL_PRECISION else wildcards.variant
        return Run(wildcards.study, wildcards.model, bits, name, int(wildcards.seed))

    def config(self, wildcards: Wildcards) -> RunConfig:
        """Return everything in ``params.yaml`` that the run of a training job depends on."""
        return self._config(self.run(wildcards))

    def settings(self, wildcards: Wildcards) -> str:
        """Return only the settings that a run uses, so that a change of other settings does not rerun it."""
        return self.config(wildcards).canonical()

    def data_settings(self, wildcards: Wildcards) -> str:
        """Return the settings of a study's data."""
        data = self.params.studies[wildcards.study].data
        return json.dumps(data.model_dump(mode="json", exclude={"workers"}), sort_keys=True)

    def data_code(self, wildcards: Wildcards) -> str:
        """Return the digest of the code that prepares a study's data, including the module of its reader."""
        return self._code(ENTRIES["data"], self.params.studies[wildcards.study].data.entry.module)

    def made_by(self, step: str) -> dict[str, str]:
        """Return the outputs of a training step by name, with the wildcards of its rule."""
        place = f"{FULL_PRECISION}/{{teacher}}" if step == "teacher" else "{bits}/{variant}"
        files = RunFiles(RESULTS / f"{{study}}/{{model}}/{place}/seed{{seed}}", step == "teacher")
        annealing = [files.annealing] if step == "cga" else []
        return {path.stem: str(path) for path in (*files.published, *annealing)}

    def code(self, step: str) -> str:
        """Return the digest of the code of a step whose jobs all run the same code."""
        return self._code(ENTRIES[step])

    def code_of(self, step: str) -> Callable[[Wildcards], str]:
        """Return a function for the digest of a step's code with the classes that the run's settings name."""
        return lambda wildcards: self._code(ENTRIES[step], *self.config(wildcards).modules)

    def report_code(self, artefact: Artefact) -> str:
        """Return the digest of the code that writes a part of the report."""
        return self._code(artefact.module)

    def threads(self, wildcards: Wildcards) -> int:
        """Return the number of threads of each process of a study's jobs, with the processes that read its images."""
        study = self.params.studies[wildcards.study]
        return study.threads + (study.data.workers or 0)

    def gpu(self, wildcards: Wildcards) -> int:
        """Return how many cards, or places on a shared one, a process of a study's jobs asks for."""
        return int(self.params.studies[wildcards.study].hardware.device == "cuda")

    def mem_mb(self, wildcards: Wildcards) -> int:
        """Return the memory in megabytes that a process of a study's jobs is reckoned with."""
        return _WITH_A_CARD if self.gpu(wildcards) else _MEMORY

    def of_all(self, amount: Callable[[Wildcards], int]) -> Callable[[Wildcards], int]:
        """Return a function for what the processes of a training job ask for together, from that of one of them."""
        return lambda wildcards: amount(wildcards) * self.params.studies[wildcards.study].hardware.devices

    def manifest(self, wildcards: Wildcards) -> Path:
        """Return the path of the manifest of a study's data."""
        return data_dir(wildcards.study) / "manifest.json"

    def weights(self, wildcards: Wildcards) -> list[Path]:
        """Return the file from which a teacher that is not trained has its weights, if one is there or made here."""
        named = given_weights(self._config(self.run(wildcards)))
        return [path for path in named if path.exists() or path.is_relative_to(RESULTS)]

    def check_weights(self, wildcards: Wildcards) -> None:
        """Raise :class:`UserError` if a file from which a teacher has its weights is not there and not made here."""
        named = given_weights(self._config(self.run(wildcards)))
        if named != self.weights(wildcards):
            raise UserError(f"{named[0]} is no file; teacher.pretrained in params.yaml should be true or name one")

    def teacher(self, wildcards: Wildcards) -> list[Path]:
        """Return the files that a student reads of its teacher."""
        return self.run(wildcards).teacher.files.taught

    def of_teacher(self, wildcards: Wildcards) -> list[Path]:
        """Return the files of a student's teacher that stand beside it in the table of sizes."""
        files = self.run(wildcards).teacher.files
        return [files.model, files.metrics]

    def parent(self, wildcards: Wildcards) -> dict[str, Path]:
        """Return the files that an annealing reads of the run that it continues."""
        parent = self.params.variant(wildcards.variant).parent
        assert parent is not None
        files = self.run(wildcards).sibling(parent).files
        return {"parent_model": files.model, "parent_trainer": files.trainer}

    def grid(self, wildcards: Wildcards) -> Grid:
        """Return the grid whose report the wildcards name."""
        return self._grid(study=wildcards.study, group=self._group(wildcards))

    def group(self, wildcards: Wildcards) -> str:
        """Return the grid's group as an argument of the command line: empty for the main grid."""
        return self._group(wildcards) or ""

    def grid_name(self, wildcards: Wildcards) -> str:
        """Return the grid's name for people."""
        return " ".join(filter(None, (wildcards.study, self._group(wildcards))))

    def needs(self, artefact: Artefact) -> Callable[[Wildcards], dict[str, list[Path]]]:
        """Return an input function for the files that a part of the report is made from."""
        return lambda wildcards: artefact.needs(self.grid(wildcards))

    def report_settings(self, wildcards: Wildcards) -> str:
        """Return what tables and figures use besides the runs: their order, and published numbers to show."""
        grid = self.grid(wildcards)
        return json.dumps(
            {
                "runs": [str(run) for run in grid.runs],
                "compare": grid.compare,
                "curve": grid.curve,
                "paper_models": {model: self.params.models[model].paper_model for model in grid.models},
                "data": grid.data.model_dump(mode="json", exclude=_CHANGES_NOTHING),
            }
        )

    def claims_settings(self, wildcards: Wildcards) -> str:
        """Return what a claim uses besides the files of runs: which runs these are, and on which data."""
        runs = [str(run) for run in all_runs(self.params, wildcards.study)]
        return json.dumps(
            [runs, self.params.studies[wildcards.study].data.model_dump(mode="json", exclude=_CHANGES_NOTHING)]
        )

    def mirrored(self, wildcards: Wildcards) -> list[Path]:
        """Return what MLflow shows: results and event logs of the runs, tables and figures; not weights and records."""
        files = report_files(self.params, wildcards.study, self._group(wildcards))
        return [path for path in files if path.suffix not in _LARGE]

    @property
    def _variants(self) -> list[str]:
        known = [Coordinates.of(self.params, study).variants for study in self.params.studies]
        return list(dict.fromkeys(name for names in known for name in names))

    def _group(self, wildcards: Wildcards) -> str | None:
        report = getattr(wildcards, "report", "report")
        return report.removeprefix("report").lstrip("/") or None


def _one_of(names: Iterable[str]) -> str:
    """Return a wildcard constraint: one of the given names."""
    return "|".join(sorted(map(re.escape, set(names)), key=lambda name: (-len(name), name))) or "(?!)"
