"""What rules read and depend on, from their wildcards."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ofq.config.grid import Grid
from ofq.config.params import load
from ofq.report.artefacts import ARTEFACTS, BY_NAME, page
from ofq.runs.paths import Run
from ofq.workflow import internals
from ofq.workflow.forecast.due import Due
from ofq.workflow.forecast.outlook import outlook
from ofq.workflow.plan import ENTRIES, Plan
from ofq.workflow.targets import RULES, named, not_remade
from tests.conftest import ROOT

PLAN = Plan(load(ROOT / "params.yaml"))


def of(run: str, **more: Any) -> SimpleNamespace:
    """The wildcards of a job."""
    named_run = Run.named(run)
    wildcards = SimpleNamespace(study=named_run.study, model=named_run.model, seed=str(named_run.seed), **more)
    if named_run.full_precision:
        wildcards.teacher = named_run.variant
    else:
        wildcards.bits, wildcards.variant = named_run.bits, named_run.variant
    return wildcards


@pytest.mark.parametrize("name", ["digits/vit_micro/w2a2/statsq/seed3", "digits-lr/vit_micro/fp/teacher-lr0.03/seed0"])
def test_wildcards_name_a_run(name: str) -> None:
    assert str(PLAN.run(of(name))) == name
    assert json.loads(PLAN.settings(of(name)))["seed"] == int(name[-1])


def test_a_run_with_a_remedy_depends_on_its_code_and_others_do_not() -> None:
    code = PLAN.code_of("qat")
    names = ("lsq", "lsq-midrise", "lsq-freezing", "statsq")
    plain, midrise, calmed, other = (code(of(f"digits/vit_micro/w2a2/{name}/seed0")) for name in names)
    assert plain == midrise and len({plain, calmed, other}) == 3


def test_the_images_of_a_study_depend_on_its_own_reader() -> None:
    digits, same, fashion = (
        PLAN.data_code(SimpleNamespace(study=study)) for study in ("digits", "digits-lr", "fashion")
    )
    assert digits == same != fashion


def test_an_annealing_reads_its_parent() -> None:
    files = PLAN.parent(of("digits/vit_micro/w2a2/statsq-qkr-cga/seed1"))
    assert str(files["parent_model"]) == "results/digits/vit_micro/w2a2/statsq-qkr/seed1/model.safetensors"


def test_constraints_hold_every_name_and_nothing_else() -> None:
    for wildcard, names in {
        "study": PLAN.params.studies,
        "variant": ["statsq", "statsq-qkr-cga-br0.003", "lsq-lr0.004"],
        "bits": ["w2a2", "w4a4"],
        "teacher": ["teacher", "teacher-lr0.003"],
        "report": ["report", "report/controls", "report/everything"],
        "seed": ["0", "12"],
    }.items():
        pattern = PLAN.constraints[wildcard]
        assert all(re.fullmatch(pattern, name) for name in names), wildcard
        assert not any(re.fullmatch(pattern, name) for name in ("", "nothing", "fp", "statsqx", "01")), wildcard


def test_each_variant_is_trained_or_annealed() -> None:
    for name in PLAN.params.variants:
        kinds = [bool(re.fullmatch(kind, name)) for kind in (PLAN.trained_variants, PLAN.annealed_variants)]
        assert kinds == ([True, False] if PLAN.params.variants[name].parent is None else [False, True])


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.name)
def test_each_part_of_the_report_has_a_writer_files_of_its_own_and_a_rule(artefact: Any) -> None:
    others = {name for other in ARTEFACTS if other is not artefact for name in other.makes}
    assert artefact.makes and not others & set(artefact.makes)
    assert artefact.name in RULES and artefact.name not in named(PLAN.params)
    assert PLAN.report_code(artefact)
    wildcards = SimpleNamespace(study="digits", report="report")
    needs = PLAN.needs(artefact)(wildcards)
    assert all(isinstance(path.name, str) for paths in needs.values() for path in paths)


def test_tables_and_figures_are_shown_in_the_report_of_snakemake_with_their_captions() -> None:
    files = internals.outputs(BY_NAME["boundary_range"], PLAN.grid_name, ROOT)
    shown = {str(file): file.flags["report"] for file in files if hasattr(file, "flags")}
    assert list(shown) == [
        "results/{study}/{report}/tables/boundary_range.html",
        "results/{study}/{report}/figures/boundary_range.png",
    ]
    table, figure = shown.values()
    assert (table.category, table.labels, table.caption) == (
        "Tables",
        {"table": "Table 4: boundary range"},
        "../report/tables/boundary_range.rst",
    )
    assert figure.category == "Figures" and figure.caption == "../report/figures/boundary_range.rst"


def test_each_caption_belongs_to_a_table_or_figure() -> None:
    captions = {path.relative_to(ROOT / "report").with_suffix("") for path in (ROOT / "report").rglob("*/*.rst")}
    made = {f"tables/{name}" for each in ARTEFACTS for name in each.tables}
    made |= {f"figures/{name}" for each in ARTEFACTS for name in each.figures}
    assert {str(path) for path in captions} == made | {"figures/toy"}


def test_the_page_of_the_report_is_the_one_of_the_list() -> None:
    assert (ROOT / "docs/report.md").read_text() == page(), "renew it with: python -m ofq schema --report"


def test_each_entry_is_a_module() -> None:
    for step in ENTRIES:
        assert re.fullmatch("[0-9a-f]{16}", PLAN.code(step))


def test_a_reason_names_three_files_and_counts_the_others() -> None:
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", None, None)
    record.reason = f"Missing output files: {', '.join(f'results/{name}' for name in 'edcba')}; Code has changed"
    assert internals._reworded(record)
    assert record.reason == "Missing output files: results/a, results/b, results/c and 2 more; Code has changed"


NOTHING: dict[str, Any] = {"missing": [], "newer": [], "settings": [], "after": []}
NOTHING |= dict.fromkeys(("code", "inputs", "incomplete", "forced"), False)


@pytest.mark.parametrize(
    ("why", "part", "said"),
    [
        ({"missing": ["a"], "after": ["qat"]}, False, "missing"),
        ({"missing": list("abcd"), "after": ["cga", "qat"]}, True, "missing: a, b, c and 1 more; after cga and qat"),
        ({"missing": ["a"], "incomplete": True}, True, "missing: a"),
        ({"incomplete": True}, True, "incomplete"),
        ({"settings": ["qat.lr 1 -> 2"], "code": True, "inputs": True}, True, "qat.lr 1 -> 2; code; other inputs"),
        ({"newer": ["data/manifest.json"]}, True, "newer: data/manifest.json"),
        ({"forced": True}, True, "forced"),
        ({}, True, "other reasons, told by --verbose"),
    ],
)
def test_a_job_has_its_reasons_in_words(why: dict[str, Any], part: bool, said: str) -> None:
    assert "; ".join(Due(rule="qat", wildcards=None, **(NOTHING | why)).reasons(part=part)) == said


def test_of_many_reasons_a_dry_run_counts_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["statsq", *(f"statsq-k{width}" for width in ("1.5", 3, 4, 6, 8))]
    jobs = [
        Due(
            rule="qat",
            wildcards=of(f"digits/vit_micro/w2a2/{name}/seed0"),
            **NOTHING | {"settings": [f"because {name}"]},
        )
        for name in names
    ]
    _, *rows, last = outlook(PLAN.params, jobs).splitlines()
    assert [re.split("  +", row)[:3] for row in rows] == [
        *(["1", "qat", f"because {name}"] for name in names[:3]),
        ["3", "qat", "for 3 other reasons"],
    ]
    assert last.endswith("hours: python -m ofq plan digits")


@pytest.mark.parametrize("name", ["claims.md", "tables/main.csv", "boundary-range/tables/boundary_range.md"])
def test_a_part_that_is_there_without_its_runs_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Snakemake takes it for done, whoever made it."""
    monkeypatch.chdir(tmp_path)
    settings, target = load(ROOT / "params.yaml"), f"results/digits/report/{name}"
    assert not_remade(settings, target) is None, "it will be made, with its runs"
    Path(target).parent.mkdir(parents=True)
    Path(target).touch()
    said = not_remade(settings, target) or ""
    assert said.startswith(f"{target} is there, and ") and "to have it made, delete it" in said
    group = "boundary-range" if "boundary" in name else None
    (artefact,) = (each for each in ARTEFACTS if name.removeprefix(f"{group}/") in each.makes)
    for paths in artefact.needs(Grid(settings, "digits", group)).values():
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert not_remade(settings, target) is None
