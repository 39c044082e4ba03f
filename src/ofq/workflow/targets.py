"""What Snakemake may be asked for: files by name, and a one-line error for a name that does not exist."""

import os
from pathlib import Path

from ofq.config.grid import Grid, check_run, grids_named, published
from ofq.config.handover import planned
from ofq.config.params import Params
from ofq.errors import UserError, shortened, unknown
from ofq.report.artefacts import ARTEFACTS, CLAIMS, RO_CRATE, SIZES, files_of
from ofq.runs.paths import CRATE, EVERYTHING, EXPORTS, PARAMS, RESULTS, TOY, Run, report_dir
from ofq.runs.registry import family_of
from ofq.tracking.mirror import stamp

PROBE = ["probe.json", "probe.parquet"]
DATA_FILES = [f"data/{name}" for name in ("manifest.json", "train.safetensors", "eval.safetensors", "prepared.json")]
TOY_FILES = [str(TOY / name) for name in ("trace.csv", "toy.png", "toy.svg")]
# Steps of the toy, each with the file to ask for in its place.
_OF_THE_TOY = {"toy": TOY_FILES[0], "toy_figure": TOY_FILES[1]}
# Snakemake has one set of names for rules and studies.
RULES = {
    "all",
    "data",
    "teacher",
    "qat",
    "cga",
    "probe",
    "noise",
    "export",
    "toy",
    "toy_figure",
    "track",
    "track_group",
}
RULES |= {artefact.name for artefact in ARTEFACTS}


def load_project(path: Path = PARAMS) -> Params:
    """Return what :func:`planned` does, after a check that no study or group has the name of a rule.

    Raises:
        UserError: the file is wrong, or a name is a rule's; names the place.
    """
    params = planned(path)
    for study, spec in params.studies.items():
        if study in RULES:
            raise UserError(f"{path}: studies: '{study}' is a reserved name, choose another")
        for group in sorted(RULES & set(spec.groups)):
            raise UserError(
                f"{path}: studies.{study}.groups.{group}: '{group}' is a reserved name, or a study's; choose another"
            )
    return params


def named(params: Params) -> dict[str, tuple[str, str | None]]:
    """Return the names that can be asked for: a study's, and the group that each means; None: the main grid.

    A group is one of ``params.yaml``, or ``everything``, ``exports`` or ``crate``.

    The groups of the study that a bare ``snakemake`` builds have a short name too.
    """
    names: dict[str, tuple[str, str | None]] = {}
    for study, spec in params.studies.items():
        names[study] = study, None
        for group in () if spec.sweep_lr else (*spec.groups, EVERYTHING, EXPORTS, CRATE):
            names[f"{study}-{group}"] = study, group
            if study == params.study:
                names[group] = study, group
    return names


def targets_of(params: Params, study: str, group: str | None = None) -> list[Path | str]:
    """Return what a name asks for: files of the study, the toy, and the file that marks all as mirrored in MLflow."""
    if group == CRATE:
        return [report_dir(study) / name for name in RO_CRATE.makes]
    rates = params.studies[study].learning_rates if group == EVERYTHING else None
    toy = TOY_FILES if group in (None, EVERYTHING) else []
    return [
        *report_files(params, study, group),
        *toy,
        tracked(study, group),
        *(targets_of(params, rates) if rates else []),
    ]


def exports(params: Params, study: str) -> list[Path]:
    """Return the files of the exported runs of a study's main grid, and the tables of their sizes."""
    grid = Grid(params, study)
    made = [path for run in grid.exported for path in run.files.exported]
    return [*made, *(grid.directory / name for name in SIZES.makes)]


def tracked(study: str, group: str | None) -> Path:
    """Return the file that marks what a name asks for as mirrored in MLflow."""
    return stamp(study) if group is None else report_dir(study, group) / "tracked"


def report_files(params: Params, study: str, group: str | None) -> list[Path]:
    """Return the files that a name asks for; a study itself is its main grid and the groups that always go with it."""
    if group == EXPORTS:
        return exports(params, study)
    files = [path for grid in grids_named(params, study, group) for path in grid_files(grid)]
    claims = [report_dir(study) / name for name in CLAIMS.makes] if group == EVERYTHING else []
    return list(dict.fromkeys([*files, *claims]))


def grid_files(grid: Grid) -> list[Path]:
    """Return a grid's tables and figures, and by name every file of every run.

    Snakemake does not remake a missing intermediate file while the files made from it exist, so a deleted run that is
    not named would go unnoticed.
    """
    return sorted([*grid.published, *grid.measured, *(grid.directory / name for name in files_of(grid))])


def check_target(params: Params, target: str) -> None:
    """Raise :class:`UserError` with the nearest right name if a target names something that does not exist."""
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
        _check_word(params, name)
    elif run := Run.parse(name):
        check_run(params, run)
        raise UserError(f"'{run}' is a run, no file; ask for {run.files.metrics}")
    elif not Path(name).exists():
        raise UserError(f"no step makes '{name}'; name a study or a file under {RESULTS}")


def check_step(params: Params, name: str) -> None:
    """Raise :class:`UserError` with the nearest right name if a name is neither that of a step nor a target."""
    if "/" in name:
        check_target(params, name)
    elif name not in (known := {*named(params), *RULES}):
        raise unknown("step or target", name, known)


def not_remade(params: Params, target: str) -> str | None:
    """Return a warning about a file of a report that is there while runs that it is made from are not, or None.

    Snakemake takes such a file for complete, whoever made it; a rule cannot say otherwise.
    """
    parts = Path(os.path.relpath(target)).parts
    if parts[:1] != (str(RESULTS),) or parts[2:3] != ("report",) or not Path(target).is_file():
        return None
    groups = params.studies[parts[1]].groups
    group, name = (parts[3], parts[4:]) if parts[3] in groups else (None, parts[3:])
    grid = Grid(params, parts[1], group)
    made = [artefact for artefact in ARTEFACTS if "/".join(name) in artefact.makes]
    read = [path for artefact in made for paths in artefact.needs(grid).values() for path in paths]
    absent = [path for path in read if not path.exists()]
    if not absent:
        return None
    return (
        f"{target} is there, and {len(absent)} of the files that it is made from are not, such as {absent[0]}: "
        "snakemake leaves it as it is; to have it made, delete it"
    )


def needs_claims(target: str) -> bool:
    """Return whether a target makes verdicts, so that ``claims.yaml`` must be right before everything is trained."""
    return EVERYTHING in target or target.endswith(tuple(f"report/{name}" for name in CLAIMS.makes))


def _check_word(params: Params, name: str) -> None:
    known = {*named(params), "all"}
    if name in _OF_THE_TOY:
        raise UserError(f"'{name}' is a step; ask for its file: {_OF_THE_TOY[name]}")
    if name == CLAIMS.name:
        page = report_dir(params.study) / "claims.md"
        raise UserError(f"'{name}' is a step that needs all runs; ask for its file, {page}, or for everything")
    if name in RULES - known:
        raise UserError(f"'{name}' is a step of many jobs; ask for a file, or: snakemake STUDY --until {name}")
    if name not in known and not Path(name).exists():
        raise unknown("target", name, known)
    study, group = named(params).get(name, (params.study, None))
    if group == EXPORTS:
        _check_exported(params, Grid(params, study).models)


def _check_exported(params: Params, models: list[str]) -> None:
    """Raise :class:`UserError` for a model that no export takes, before its runs are trained for one."""
    for model in models:
        if family_of(params.models[model].timm).name == "cnn":
            raise UserError(
                f"{model} ({params.models[model].timm}) is a convolutional network, and those cannot be exported yet; "
                "ask for its study"
            )


def _check_result(params: Params, target: str, parts: list[str]) -> None:
    study = parts[1]
    if study == "reference":
        raise UserError(f"{target} is a committed record; write it with: python -m ofq reference {parts[2]}")
    if study == TOY.name:
        if target not in TOY_FILES:
            raise unknown("file of the toy:", target, TOY_FILES)
        return
    if (run := Run.parse(target)) is not None:
        check_run(params, run)
        known = [path.name for path in published(params, run)]
        if not run.full_precision:
            known += [*PROBE, run.files.noise.name]
            known += [str(path.relative_to(run.files.root)) for path in run.files.exported]
        if len(parts) < 7:
            raise UserError(f"{target} is the directory of a run; ask for {run.files.metrics}")
        if "/".join(parts[6:]) not in known:
            raise unknown("file of a run:", "/".join(parts[6:]), known)
        if Path(target) in run.files.exported:
            _check_exported(params, [run.model])
        return
    params.study_named(study)
    if len(parts) > 5 and parts[2] != "report":
        Run.named(target)
    if len(parts) > 5 and parts[3] != EVERYTHING:
        Grid(params, study, parts[3])  # names the nearest group
    name = "/".join(parts[2:])
    if name not in (known := _files_of_a_study(params, study)):
        raise unknown(f"file of study '{study}':", name, known)
    if name in {f"report/{each}" for each in SIZES.makes}:
        _check_exported(params, Grid(params, study).models)


def _files_of_a_study(params: Params, study: str) -> list[str]:
    """Return the files below ``results/STUDY``, except those of runs."""
    spec = params.studies[study]
    known = [*DATA_FILES, *(f"report/{name}" for name in files_of(Grid(params, study))), stamp(study).name]
    if spec.sweep_lr:
        return known
    known += [*(f"report/{name}" for name in (*CLAIMS.makes, *SIZES.makes)), f"report/{EVERYTHING}/tracked"]
    for group in spec.groups:
        known += [f"report/{group}/{name}" for name in (*files_of(Grid(params, study, group)), "tracked")]
    return known


def check_project(*, writing: bool) -> None:
    """Raise :class:`UserError` if one of the project's folders is not a directory or cannot be written."""
    for name in (str(RESULTS), "logs", "runs"):
        folder = Path(name)
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise UserError(f"{name} is no directory; move it away, or let it lead to one")
            continue
        if writing and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot write {name}: no permission, or a read-only disk; make it writable first")
