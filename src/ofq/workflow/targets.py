"""What Snakemake may be asked for: files by name, and one line for a name that does not exist."""

import os
from collections.abc import Iterable
from pathlib import Path

from ofq.config.params import EVERYTHING, RULES, Params
from ofq.errors import UserError, shortened, unknown
from ofq.runs.paths import FULL_PRECISION, RESULTS, TOY, Run, report_dir

TABLES = ["main", "agreement", "ablation", "oscillation"]
PLAIN_TABLE = ["csv", "runs.json", "md", "tex"]
FIGURES = ["accuracy", "oscillation", "latent_weights", "layer_groups"]
PROBE = ["probe.json", "probe.parquet"]
TOY_FILES = [str(TOY / name) for name in ("trace.csv", "toy.png", "toy.svg")]
_OF_THE_TOY = {"toy": TOY_FILES[0], "toy_figure": TOY_FILES[1]}
CLAIMS = ["report/claims.md", "report/claims.json"]


def named(params: Params) -> dict[str, tuple[str, str | None]]:
    """What can be asked for by name: the study, and its group, ``everything``, or None for the main grid.

    The groups of the study that a bare ``snakemake`` builds have a short name too.
    """
    names: dict[str, tuple[str, str | None]] = {}
    for study, spec in params.studies.items():
        names[study] = study, None
        for group in () if spec.sweep_lr else (*spec.groups, EVERYTHING):
            names[f"{study}-{group}"] = study, group
            if study == params.study:
                names[group] = study, group
    return names


def check_target(params: Params, target: str) -> None:
    """Raise :class:`UserError` with the nearest right name where a target names something that does not exist."""
    if not target:
        raise UserError("a target is empty; name a study or a file under results")
    if target.endswith("/"):
        raise UserError(f"target '{shortened(target)}' is a directory; name a study or a file under results")
    name = os.path.relpath(target) if "/" in target else target
    if Path(target).is_absolute():
        raise UserError(f"a target is named from the project's root: {shortened(name)}")
    if len(os.fsencode(name)) > 4000 or max(len(os.fsencode(part)) for part in Path(name).parts) > 255:
        raise UserError(
            f"target '{shortened(name)}' is too long for a file's name; name a study or a file under results"
        )
    parts = name.split("/")
    if parts[0] == str(RESULTS) and len(parts) > 2:
        _check_result(params, name, parts)
    elif "/" not in name:
        known = {*named(params), "all"}
        if name in _OF_THE_TOY:
            raise UserError(f"'{name}' is a step; ask for its file: {_OF_THE_TOY[name]}")
        if name == "claims":
            page = report_dir(params.study) / "claims.md"
            raise UserError(f"'claims' is a step that needs all runs; ask for its file, {page}, or for everything")
        if name in RULES - known:
            raise UserError(f"'{name}' is a step of many jobs; ask for a file, or: snakemake STUDY --until {name}")
        if name not in known and not Path(name).exists():
            raise unknown("target", name, known)
    elif run := Run.parse(name):
        params.check(run)
        raise UserError(f"'{run}' is a run, no file; ask for {run.files.metrics}")
    elif not Path(name).exists():
        raise UserError(f"no step makes '{name}'; name a study or a file under {RESULTS}")


def check_project(*, writing: bool) -> None:
    """Raise :class:`UserError` where one of the project's folders is no directory, or cannot be written."""
    for name in (str(RESULTS), "logs", "runs"):
        folder = Path(name)
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise UserError(f"{name} is no directory; move it away, or let it lead to one")
            continue
        if writing and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {name}: no permission, or a read-only disk; make it writable first")


def _check_result(params: Params, target: str, parts: list[str]) -> None:
    study = parts[1]
    if study == "reference":
        raise UserError(f"{target} is a committed record; write it with: python -m ofq reference {parts[2]}")
    if study == TOY.name:
        if target not in TOY_FILES:
            raise unknown("file of the toy:", target, TOY_FILES)
        return
    if (run := Run.parse(target)) is not None:
        params.check(run)
        known = [path.name for path in params.published(run)]
        if run.bits != FULL_PRECISION:
            known += [*PROBE, run.files.noise.name]
        if len(parts) < 7:
            raise UserError(f"{target} is the directory of a run; ask for {run.files.metrics}")
        if "/".join(parts[6:]) not in known:
            raise unknown("file of a run:", "/".join(parts[6:]), known)
        return
    params.study_named(study)
    if len(parts) > 5 and parts[2] != "report":
        Run.named(target)
    if len(parts) > 5 and parts[3] != EVERYTHING:
        params.view(study, parts[3])  # names the nearest group
    name = "/".join(parts[2:])
    if name not in (known := _files_of_a_study(params, study)):
        raise unknown(f"file of study '{study}':", name, known)


def _files_of_a_study(params: Params, study: str) -> list[str]:
    """Below ``results/STUDY``, the runs' apart."""
    spec = params.studies[study]
    data = [f"data/{name}" for name in ("manifest.json", "train.safetensors", "eval.safetensors", "prepared.json")]
    if spec.sweep_lr:
        return [*data, *(f"report/{name}" for name in LEARNING_RATES), "mlflow.json"]
    known = [
        *data,
        *CLAIMS,
        *(f"report/{name}" for name in grid_report(params, study)),
        "mlflow.json",
        f"report/{EVERYTHING}/tracked",
    ]
    for group in spec.groups:
        known += [f"report/{group}/{name}" for name in (*grid_report(params, study, group), "tracked")]
    return known


def grid_report(params: Params, study: str, group: str | None = None) -> list[str]:
    """Files of the report on a study's main grid or one of its groups, below the report's directory."""
    view = params.view(study, group)
    spec, bands = view.studies[study], view.bands(study)
    files = [*report_files(TABLES, FIGURES), "tables/main.json", "figures/oscillation.csv"]
    if spec.compare:
        files += report_files(["comparison"], [])
    if bands:
        files += report_files([], ["annealing"])
    if len(set(bands.values())) > 1:
        files += report_files(["boundary_range"], ["scale_trajectories"])
    if "noise" in spec.measure:
        files += report_files(["noise"], [])
    if "probe" in spec.measure:
        files += report_files(["coupling"], ["boundary"])
    return files


def report_files(tables: Iterable[str], figures: Iterable[str]) -> list[str]:
    """The files of some tables and figures, below the report's directory."""
    files = [f"tables/{name}.{suffix}" for name in tables for suffix in (*PLAIN_TABLE, "html")]
    return files + [f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "svg")]


LEARNING_RATES = report_files(["learning_rate"], ["learning_rate"])
