"""Remove what the pipeline made, and nothing that a person made or committed."""

import shutil
from pathlib import Path

from ofq.errors import UserError, refused
from ofq.runs import locks
from ofq.runs.paths import PARAMS, REFERENCE, RESULTS, STATE

_LOGS = Path("logs")
_SNAKEMAKE = Path(".snakemake")
_CACHES = [Path(name) for name in (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "build")]


def clean(*, yes: bool) -> None:
    """Remove results, logs and caches of the project in this directory, after asking.

    Args:
        yes: do not ask, and remove the resumable states under ``runs/`` too.

    Raises:
        UserError: this is not a project, snakemake is working in it, or a file cannot be removed.
    """
    if not PARAMS.is_file():
        raise UserError(f"{PARAMS} not found in {Path.cwd()}; run from the project's root")
    if _snakemake_works_here():
        raise UserError("snakemake works in this directory; wait for it or end it")
    existing = [path for path in _candidates(runs=yes) if path.exists()]
    if not existing:
        print("Nothing to remove.")
        return
    for path in existing:
        print(f"{_mebibytes(path):>10}  {path}")
    if not yes and not _agreed():
        print("Nothing was removed.")
        return
    for path in existing:
        _remove(path)
    print("Removed.")


def _snakemake_works_here() -> bool:
    path = _SNAKEMAKE / "ofq.lock"
    if not path.exists():
        return False
    file, alone = locks.shared(path)
    file.close()
    return not alone


def _candidates(*, runs: bool) -> list[Path]:
    results = sorted(path for path in RESULTS.glob("*") if path != REFERENCE)
    bytecode = sorted(path for top in ("src", "tests") for path in Path(top).rglob("__pycache__"))
    return [*results, _LOGS, *([STATE] if runs else []), _SNAKEMAKE, *_CACHES, *bytecode]


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


def _mebibytes(path: Path) -> str:
    files = [path] if path.is_symlink() or path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.lstat().st_size for file in files) / 2**20:.1f} MiB"
