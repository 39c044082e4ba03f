"""What Snakemake may be asked for: files by name, and one line for a name that does not exist."""

import os
from pathlib import Path

from ofq.errors import UserError, shortened, unknown
from ofq.params import RULES, Params
from ofq.paths import FULL_PRECISION, RESULTS, Run

TABLES = ["main", "agreement", "ablation", "oscillation"]
PLAIN_TABLE = ["csv", "runs.json", "md", "tex"]
FIGURES = ["accuracy", "oscillation", "latent_weights", "layer_groups"]
PROBE = ["probe.json", "probe.parquet"]


def check_target(params: Params, target: str) -> None:
    """Raise :class:`UserError` with the nearest right name where a target names something that does not exist."""
    if not target:
        raise UserError("a target is empty; name a study or a file under results")
    if target.endswith("/"):
        raise UserError(f"target '{shortened(target)}' is a directory; name a study or a file under results")
    name = os.path.relpath(target) if "/" in target else target
    if len(os.fsencode(name)) > 4000 or max(len(os.fsencode(part)) for part in Path(name).parts) > 255:
        raise UserError(
            f"target '{shortened(name)}' is too long for a file's name; name a study or a file under results"
        )
    parts = name.split("/")
    if parts[0] == str(RESULTS) and len(parts) > 2:
        _check_result(params, name, parts)
    elif "/" not in name:
        known = {*params.studies, "all"}
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
    if (run := Run.parse(target)) is not None:
        params.check(run)
        known = [path.name for path in run.files.published]
        if run.bits != FULL_PRECISION:
            known += PROBE
        if len(parts) < 7:
            raise UserError(f"{target} is the directory of a run; ask for {run.files.metrics}")
        if "/".join(parts[6:]) not in known:
            raise unknown("file of a run:", "/".join(parts[6:]), known)
        return
    spec = params.study_named(study)
    if len(parts) > 5:
        Run.named(target)
    name = "/".join(parts[2:])
    if name not in (known := _files_of_a_study(sweep=spec.sweep_lr is not None)):
        raise unknown(f"file of study '{study}':", name, known)


def _files_of_a_study(*, sweep: bool) -> list[str]:
    """Below ``results/STUDY``, the runs' apart."""
    more = ["learning_rate"] if sweep else []
    data = [f"data/{name}" for name in ("manifest.json", "train.safetensors", "eval.safetensors", "prepared.json")]
    tables = [f"report/tables/{name}.{suffix}" for name in (*TABLES, *more) for suffix in (*PLAIN_TABLE, "html")]
    figures = [f"report/figures/{name}.{suffix}" for name in (*FIGURES, *more) for suffix in ("png", "svg")]
    return [*data, *tables, "report/tables/main.json", *figures, "report/figures/oscillation.csv", "mlflow.json"]
