"""What Snakemake would run, and how it answers wrong names. Nothing is trained here."""

import re

import pytest

from tests.conftest import Project


def test_a_bare_snakemake_plans_the_default_study(project: Project) -> None:
    report = {"tables": 1, "figures": 1, "annealing": 1, "toy": 1, "toy_figure": 1, "track": 1}
    assert project.plan() == {"data": 1, "teacher": 2, "qat": 4, "cga": 2, **report}


def test_a_dry_run_says_on_one_screen_what_would_run(project: Project) -> None:
    done = project.run("snakemake", "-n")
    assert done.stdout.splitlines()[2:] == [
        "15 jobs would run, 8 trainings among them:",
        "1  data     missing  digits",
        f"2  teacher  missing  {', '.join(f'digits/vit_micro/fp/teacher/seed{seed}' for seed in (0, 1))}",
        "4  qat      missing  lsq, statsq",
        f"2  cga      missing  {', '.join(f'digits/vit_micro/w2a2/statsq-cga/seed{seed}' for seed in (0, 1))}",
        "and then: annealing, figures, tables, toy, toy_figure, track",
        "each job with its files: snakemake -n --verbose; hours: python -m ofq plan digits",
    ]
    toy = project.run("snakemake", "-n", "results/toy/toy.png")
    assert toy.stdout.splitlines()[2:] == [
        "would run: toy, toy_figure",
        "each job with its files: snakemake -n --verbose",
    ]


@pytest.mark.parametrize("option", [["--verbose"], ["--quiet", "reason"], ["-p"]])
def test_who_says_what_to_print_gets_it_from_snakemake(project: Project, option: list[str]) -> None:
    done = project.run("snakemake", "-n", *option, "--", "results/digits/data/manifest.json")
    assert "\nJob 0: Prepare and verify the images of study digits\n" in done.stdout
    assert "would run" not in done.stdout


def test_a_plan_says_why_in_a_few_names(project: Project) -> None:
    lines = project.run("snakemake", "-n", "--verbose").stdout.splitlines()
    reasons = [line for line in lines if line.startswith("Reason: ")]
    assert len(reasons) == 16 and max(map(len, reasons)) < 500
    whole = r"Reason: Input files updated by another job: results/digits/mlflow\.json, \S+, \S+ and \d\d+ more"
    assert any(re.fullmatch(whole, line) for line in reasons)


def test_one_ablation_needs_its_own_teacher_and_nothing_else(project: Project) -> None:
    run = "results/digits/vit_micro/w2a2"
    assert project.plan(f"{run}/statsq/seed1/metrics.json") == {"data": 1, "teacher": 1, "qat": 1}
    assert project.plan(f"{run}/statsq-cga/seed1/metrics.json") == {"data": 1, "teacher": 1, "qat": 1, "cga": 1}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/digits/vit_micro/w2a2/statq/seed0/metrics.json", "unknown variant of study 'digits' at w2a2: 'statq'; did you mean 'statsq'?"),
        ("results/digit/vit_micro/w2a2/statsq/seed0/metrics.json", "unknown study 'digit'; did you mean 'digits'?"),
        ("results/digits/vit_mini/w2a2/statsq/seed0/metrics.json", "did you mean 'vit_micro'?"),
        ("results/digits/vit_micro/w2a3/statsq/seed0/metrics.json", "unknown bits of study 'digits': 'w2a3'; did you mean 'w2a2'?"),
        ("results/digits/vit_micro/w2a2/statsq/seed0/metric.json", "did you mean 'metrics.json'?"),
        ("results/digit/report/tables/main.csv", "unknown study 'digit'; did you mean 'digits'?"),
        ("results/digits/vit_micro/w2a2/lsq-fixed/seed0/metrics.json", "variant 'lsq-fixed' stands in no list of study 'digits' at w2a2; add it to studies.digits.variants"),
        ("claims", "'claims' is a step that needs all runs; ask for its file, results/digits/report/claims.md, or for everything"),
        ("/results/digits/report/tables/main.csv", "a target is named from the project's root: "),
        ("digit", "unknown target 'digit'; did you mean 'digits'?"),
    ],
)  # fmt: skip
def test_a_typo_in_a_target_is_one_line_and_exit_code_2(project: Project, target: str, message: str) -> None:
    done = project.run("snakemake", target)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("ofq: error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr


def test_a_typo_in_the_parameters_is_one_line_and_exit_code_2(project: Project) -> None:
    project.params["recipes"]["digits"]["qat"]["leraning_rate"] = 1.0
    project.write_params()
    done = project.run("snakemake", "-n")
    assert done.returncode == 2
    assert "recipes.digits.qat: unknown key 'leraning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_steps_answer_wrong_names_in_one_line(project: Project) -> None:
    for arguments, message in {
        ("qat", "digits/vit_micro/w2a2/statsk/seed0"): "did you mean 'statsq'?",
        ("qat", "statsq"): "names no run; write study/model/bits/variant/seedN",
        ("teacher", "digits/vit_micro/w2a2/statsq/seed0"): "is a qat run; use: python -m ofq qat",
        ("tables", "digitz"): "unknown study 'digitz'; did you mean 'digits'?",
        ("qat", "digits/vit_micro/w2a2/statsq/seed0"): "manifest.json does not exist; make it with: snakemake",
    }.items():
        done = project.ofq(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1 and message in done.stderr


def test_outside_a_project_the_steps_say_where_to_go(project: Project) -> None:
    (project.root / "params.yaml").unlink()
    done = project.ofq("tables", "digits")
    assert done.returncode == 2 and "run from the project's root" in done.stderr
