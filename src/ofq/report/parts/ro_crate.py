"""A finished grid as a research object: an RO-Crate, with Croissant metadata of its data and a bill of its software."""

import json
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from ofq.config.grid import Grid
from ofq.data.manifest import manifest_path, read_manifest
from ofq.errors import UserError, missing, shortened
from ofq.report.artefacts import crated
from ofq.report.claims.terms import load
from ofq.report.croissant import croissant
from ofq.runs.files import AGAIN, read_json, reading, write_bytes, write_json
from ofq.runs.paths import data_info
from ofq.runs.published import read_info

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate  # type: ignore[import-untyped]

_CITATION = Path("CITATION.cff")
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_SETTINGS = ("params.yaml", "claims.yaml")
_ABOUT = ("CITATION.cff", "LICENSE", "Makefile", "pyproject.toml")
# A user's own quantizers, remedies and data sets are files beside the settings.
_CODE = ("rules/*.smk", "src/ofq/**/*.py", "*.py", "envs/*", "report/**/*.rst", "profiles/*/*")
_KINDS = {
    ".json": "application/json",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".html": "text/html",
    ".tex": "application/x-tex",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".yaml": "application/yaml",
    ".py": "text/x-python",
    ".parquet": "application/vnd.apache.parquet",
    ".jsonl": "application/jsonl",
}
_README = """\
# {name}

{description}

* `results/`: tables, figures and verdicts in `report/`; of each run `metrics.json` (results), `run.json` (times,
  versions, machine, commit, sha256 of every file), `events.jsonl` (curves) and what else the report is made from.
* `params.yaml`, `claims.yaml`: every setting, every claim. `Snakefile`, `rules/`, `src/`, `envs/`, `Makefile`: what
  computed it.
* `{folder}/croissant.json`: the images; `sbom.json` beside it: the packages.

Weights are not in it, so Snakemake trains every run anew. Numbers agree to the last bit on the same kind of machine
with the versions of `envs/constraints.txt`. To cite: `CITATION.cff`.
"""


class _Prepared(TypedDict):
    finished: str


class _Author(BaseModel):
    name: str


class _Cited(BaseModel):
    model_config = ConfigDict(extra="ignore")
    title: str
    license: str
    version: str
    authors: list[_Author] = Field(min_length=1)


def write_ro_crate(grid: Grid) -> None:
    """Write ``crate.zip``, ``croissant.json`` and ``sbom.json``.

    The crate is a Workflow Run RO-Crate: the workflow with its code and settings, the report, results and records of
    every run, what is known of the data, and the packages of this environment. Weights and images are left out; their
    sha256 stand in these files. Its author is that of ``CITATION.cff``.

    Args:
        grid: the grid whose report is written.

    Raises:
        UserError: a file is missing or damaged.
    """
    cited, prepared = _cited(), read_json(data_info(grid.study), _Prepared)
    data, packages = grid.directory / "croissant.json", grid.directory / "sbom.json"
    manifest, author = read_manifest(grid.study), cited.authors[0].name
    write_json(data, croissant(grid, manifest, author, cited.version, prepared["finished"]))
    write_json(packages, _packages())
    with TemporaryDirectory() as folder:
        made = Path(folder, "crate.zip")
        _crate(grid, cited, [data, packages]).write_zip(made)
        write_bytes(grid.directory / made.name, made.read_bytes())


def _crate(grid: Grid, cited: _Cited, more: list[Path]) -> "ROCrate":
    from rocrate.model.contextentity import ContextEntity  # type: ignore[import-untyped]
    from rocrate.rocrate import ROCrate

    runs, files = crated(grid)
    infos = [read_info(run.files.info, "finished", "seconds") for run in runs]
    ended = [_when(run.files.info, info["finished"]) for run, info in zip(runs, infos, strict=True)]
    begun = min(end - timedelta(seconds=info["seconds"]) for end, info in zip(ended, infos, strict=True))

    crate = ROCrate(version="1.1")  # on which the profiles are built
    root = crate.root_dataset
    author = crate.add(ContextEntity(crate, "#authors", {"@type": "Organization", "name": cited.authors[0].name}))
    crate.name = f"{cited.title}: study {grid.study}{f', group {grid.group}' if grid.group else ''}"
    scope = load(grid.params).scope(grid.study)
    crate.description = (
        f"{len(runs)} runs of {', '.join(grid.models)} at {', '.join(grid.bits)} on {grid.data.title}"
        f"{f' (scope: {scope})' if scope else ''}. "
        "Weights and images are left out; their sha256 stand in run.json and in the manifest."
    )
    crate.datePublished = max(ended)
    licence = f"https://spdx.org/licenses/{cited.license}"
    crate.license = crate.add(ContextEntity(crate, licence, {"@type": "CreativeWork", "name": cited.license}))
    root["author"] = root["publisher"] = author
    root["conformsTo"] = [
        crate.add(ContextEntity(crate, page, {"@type": "CreativeWork", "name": name, "version": page.rsplit("/")[-1]}))
        for page, name in _PROFILES.items()
    ]

    def add(paths: Iterable[Path]) -> list[Any]:
        """Add files at their places below the project's root."""
        found = []
        for path in paths:
            if not path.exists():
                raise missing(path)
            told = {"name": str(path), "encodingFormat": _KINDS.get(path.suffix, "text/plain")}
            found.append(crate.add_file(path, str(path), properties=told, record_size=True))
        return found

    workflow = crate.add_workflow("Snakefile", "Snakefile", main=True, lang="snakemake", record_size=True)
    workflow["name"], workflow["author"], workflow["version"] = cited.title, author, cited.version
    add([*map(Path, _ABOUT), *(path for pattern in _CODE for path in sorted(Path().glob(pattern)))])
    told = _README.format(name=crate.name, description=crate.description, folder=grid.directory)
    about = {"name": "README.md", "encodingFormat": "text/markdown", "about": root}
    crate.add_file(StringIO(told), "README.md", properties=about)
    inputs = add([*map(Path, _SETTINGS), manifest_path(grid.study), *more])
    results = add(sorted(files))
    bioschemas = {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"}
    workflow["conformsTo"], workflow["encodingFormat"] = bioschemas, "text/plain"
    root["mentions"] = crate.add_action(
        workflow,
        "#study",
        object=inputs,
        result=results,
        properties={
            "name": f"Runs and report of study {grid.study}",
            "description": "From the start of the first run to the end of the last; run.json has the times of each.",
            "startTime": begun.isoformat(timespec="seconds"),
            "endTime": max(ended).isoformat(timespec="seconds"),
            "agent": author,
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )
    return crate


def _when(path: Path, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{path}: finished: '{shortened(text)}' is no time; {AGAIN}") from None


def _cited() -> _Cited:
    with reading(_CITATION, mend="take it from the repository again"):
        try:
            return _Cited.model_validate(yaml.safe_load(_CITATION.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{_CITATION}: {place}: {first['msg']}; the crate's author and licence stand there"
            ) from None


def _packages() -> dict[str, Any]:
    """Return the packages of this environment with their licences, as CycloneDX; without paths of this machine."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.prefix, "--pyproject", "pyproject.toml"]
    done = subprocess.run([*command, "--output-reproducible"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"cyclonedx-py failed: {shortened(done.stderr, 200)}; try: {' '.join(command)}")
    content: dict[str, Any] = json.loads(done.stdout)
    for component in content["components"]:
        pages = component.get("externalReferences", [])
        component["externalReferences"] = [page for page in pages if not page["url"].startswith("file:")]
    return content
