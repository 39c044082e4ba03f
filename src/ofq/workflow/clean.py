"""Remove what the pipeline made, and nothing that a person made or committed."""

import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ofq.errors import UserError, refused
from ofq.report.artefacts import is_made
from ofq.runs import locks
from ofq.runs.files import UNFINISHED, remove_empty
from ofq.runs.paths import LOGS, PARAMS, REFERENCE, RESULTS, STATE, Run, RunFiles
from ofq.runs.standing import FAILED, PROGRESS
from ofq.workflow.targets import DATA_FILES, TOY_FILES

_SNAKEMAKE = Path(".snakemake")
_CACHES = [Path(name) for name in (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "build/lib")]
_OF_RUNS = {path.name for teacher in (True, False) for path in RunFiles(RESULTS, teacher).published} | {
    "annealing.parquet",
    "noise.parquet",
    "probe*.json",
    "probe*.parquet",
}
_EXPORTED = {"export/packed.safetensors", "export/model.onnx", "export/sizes.json", "export/hub/*"}
_OF_STATES = {"state.json", "checkpoint*", "events.jsonl", "lock", "mlflow.lock", "files-*.sha256", PROGRESS, FAILED}


def clean(*, yes: bool) -> None:
    """Remove results, logs and caches of the project in this directory, after asking.

    Args:
        yes: do not ask, and remove the resumable states under ``runs/`` too.

    Raises:
        UserError: this is not a project, snakemake is working in it, or a file cannot be removed.
    """
    if not PARAMS.is_file():
        raise UserError(f"{PARAMS} not found in {Path.cwd()}; run from the project's root")
    if snakemake_works_here():
        raise UserError("snakemake works in this directory; wait for it or end it")
    chosen = {top: files for top, files in _candidates(runs=yes).items() if files or (top.is_dir() and not _files(top))}
    if not chosen:
        print("Nothing to remove.")
        return
    for top, files in chosen.items():
        others = len({*_files(top)} - {*files}) if files != [top] else 0
        print(f"{_mebibytes(files):>10}  {top}{f' (without {others} files of other origin)' if others else ''}")
    if not yes and not _agreed():
        print("Nothing was removed.")
        return
    for top, files in chosen.items():
        for path in files:
            _remove(path)
        remove_empty(top)
    print("Removed.")


def snakemake_works_here() -> bool:
    """Return whether a snakemake works in this directory."""
    path = _SNAKEMAKE / "ofq.lock"
    if not path.exists():
        return False
    file, alone = locks.shared(path)
    file.close()
    return not alone


def _candidates(*, runs: bool) -> dict[Path, list[Path]]:
    """Return the places where something lies that the pipeline made, each with what of it is to go: all, or files."""
    bytecode = (path for top in ("src", "tests") for path in Path(top).rglob("__pycache__"))
    whole = [path for path in (_SNAKEMAKE, *_CACHES, *sorted(bytecode)) if path.exists() or path.is_symlink()]
    places = [*(path for path in sorted(RESULTS.glob("*")) if path != REFERENCE), LOGS, *([STATE] if runs else [])]
    # Of a link only the link itself: what it points to may be shared.
    found = {top: [top] if top.is_symlink() else [path for path in _files(top) if _made(path)] for top in places}
    return found | {path: [path] for path in whole}


def _files(top: Path) -> list[Path]:
    return [top] if top.is_file() else [path for path in sorted(top.rglob("*")) if path.is_symlink() or path.is_file()]


def _made(path: Path) -> bool:
    """Return whether the pipeline writes a file of this name at this place."""
    place, name = path.parts[0], path.name
    if name.startswith(UNFINISHED):
        return True
    if place == str(LOGS):
        return path.suffix in (".log", ".tsv")
    if place == str(STATE):
        return any(fnmatchcase(name, pattern) for pattern in _OF_STATES)
    if str(path) in TOY_FILES:
        return True
    below = path.parts[2:]
    if below[:1] == ("report",):
        return is_made(Path(*below[1:])) or name == "tracked"
    if below == ("mlflow.json",) or (len(below) == 2 and "/".join(below) in DATA_FILES):
        return True
    run = Run.parse(str(path))
    if run is None:
        return False
    exported = any(fnmatchcase(str(path.relative_to(run.files.root)), each) for each in _EXPORTED)
    return exported or (path.parent == run.files.root and any(fnmatchcase(name, each) for each in _OF_RUNS))


def _agreed() -> bool:
    try:
        return input("Remove all of this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to ask
        print()
        return False


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()  # only the link itself: what it points to may be shared
    except OSError as error:
        raise (
            refused(error, path, action="remove")
            or UserError(f"cannot remove {path}: {error.strerror}; remove it yourself")
        ) from None


def _mebibytes(paths: Iterable[Path]) -> str:
    files = [file for path in paths for file in ([path] if path.is_symlink() else _files(path))]
    return f"{sum(file.lstat().st_size for file in files) / 2**20:.1f} MiB"
