"""``dvc.yaml`` for the study that ``params.yaml`` names: four coarse stages, each of which calls Snakemake.

DVC needs every output directory by name: it can neither match a pattern nor look up a list by the study's name. So the
file is generated (``python -m ofq stages``), and the Snakefile warns if it is out of date.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.config.resolve import resolve
from ofq.runs.code_digest import PACKAGE, module_file
from ofq.runs.paths import FULL_PRECISION, RESULTS, TOY, data_dir, report_dir

_HEADER = """\
# Written by: python -m ofq stages > dvc.yaml
# Write it anew after `study`, its models, bits or classes of your own have changed in params.yaml. See docs/dvc.md.

"""
_CODE = ["Snakefile", "rules", "report", "src/ofq"]


def stages(params: Params) -> str:
    """Return the text of ``dvc.yaml``.

    Snakemake decides what reruns; a stage's dependencies only say when to call it. The study's name is one of them, for
    an experiment that sets another one would otherwise find nothing to do. Every output is ``persist: true``,
    because DVC would otherwise delete the finished runs before it calls Snakemake.
    """
    name = params.study
    study = params.studies[name]
    data, teachers, students, report = _folders(params)
    recipes = dict.fromkeys([study.recipe, *study.recipe_for.values()])
    named = [module for run in Grid(params, name).students for module in resolve(params, run).modules]
    content: dict[str, Any] = {
        "stages": {
            "data": _stage(
                f"snakemake {data[0]}/manifest.json", _own([study.data.entry.module]), [f"studies.{name}.data"], data
            ),
            "teacher": _stage(
                f"snakemake {name} --until teacher",
                data,
                [f"studies.{name}", "models", *(f"recipes.{recipe}.teacher" for recipe in recipes)],
                teachers,
            ),
            "runs": _stage(
                f"snakemake {name} --until qat cga",
                [*data, *teachers, *_own(named)],
                [f"studies.{name}", "models", "variants", *(f"recipes.{recipe}" for recipe in recipes)],
                students,
            ),
            "report": _stage(
                f"snakemake {name}", [*teachers, *students], [f"studies.{name}", "models", "variants"], report
            ),
        }
    }
    if not study.sweep_lr:
        curves = str(report_dir(name) / "figures" / "oscillation.csv")
        content["metrics"] = [str(report_dir(name) / "tables" / "main.json")]
        content["plots"] = [{"oscillation": {"template": "oscillation", "x": "step", "y": {curves: "share"}}}]
    return _HEADER + yaml.safe_dump(content, sort_keys=False, width=120)


def unlisted(params: Params, path: Path) -> list[str]:
    """Return the study's folders that ``dvc.yaml`` at ``path`` does not list; none if there is no such file.

    A file that is not such YAML gives none either; DVC reports what is wrong with it.
    """
    try:
        content = yaml.safe_load(path.read_text())
        entries = [entry for stage in content["stages"].values() for entry in stage.get("outs", [])]
        listed = {out for entry in entries for out in ([entry] if isinstance(entry, str) else entry)}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []
    return [folder for folders in _folders(params) for folder in folders if folder not in listed]


def _folders(params: Params) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the study's folders of data, teachers, students and report; the toy's folder is listed with the last."""
    study = params.studies[params.study]
    models = [RESULTS / params.study / model for model in study.models]
    students = [str(model / bits) for model in models for bits in study.bits]
    teachers = [str(model / FULL_PRECISION) for model in models]
    return [str(data_dir(params.study))], teachers, students, [str(report_dir(params.study)), str(TOY)]


def _own(modules: Iterable[str]) -> list[str]:
    """Return the files of those classes that stand beside ``params.yaml``."""
    return sorted({str(module_file(module)) for module in modules if not module.startswith(f"{PACKAGE}.")})


def _stage(command: str, inputs: list[str], params: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "cmd": command,
        "deps": [*_CODE, *inputs],
        "params": ["study", *params],
        "outs": [{output: {"persist": True}} for output in outputs],
    }
