"""Settings are resolved once, by who plans the jobs, and reach them as they were then."""

from pathlib import Path

import pytest
import yaml

from ofq.config.grid import all_runs
from ofq.config.handover import hand_over, job_settings, planned, resolve_job
from ofq.config.params import Params, load
from ofq.config.resolve import resolve
from ofq.environment import SETTINGS
from ofq.errors import UserError
from ofq.runs.paths import Run
from tests.conftest import ROOT, Project

PARAMS = load(ROOT / "params.yaml")
RUN = Run("digits", "vit_micro", "w2a2", "statsq", 0)
RUNS = sorted({run for study in PARAMS.studies for run in all_runs(PARAMS, study)})


def with_rate(rate: float) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"]["qat"]["lr"] = rate
    return Params.model_validate(content)


def test_what_is_handed_over_is_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [*RUNS, *sorted({run.teacher for run in RUNS if run.study == "fashion"})]
    hand_over(tmp_path / "jobs.json", PARAMS)
    monkeypatch.setenv(SETTINGS, str(tmp_path / "jobs.json"))
    monkeypatch.chdir(tmp_path)  # where there is no params.yaml
    assert planned() == PARAMS
    for run in runs[:: len(runs) // 40]:
        job = job_settings(run)
        assert job == resolve_job(PARAMS, run)
        assert job.config.canonical() == resolve(PARAMS, run).canonical()


def test_a_teacher_is_told_of_the_students_of_its_seed() -> None:
    job = resolve_job(PARAMS, RUN.teacher)
    assert {config.seed for config in job.students} == {0}
    assert {config.phase for config in job.students} == {"qat", "cga"}
    assert resolve_job(PARAMS, RUN).students == []


def test_a_job_by_hand_reads_the_parameters_and_one_of_snakemake_those_that_it_was_planned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert job_settings(RUN) == resolve_job(PARAMS, RUN)
    hand_over(tmp_path / "jobs.json", with_rate(0.001))
    monkeypatch.setenv(SETTINGS, str(tmp_path / "jobs.json"))
    assert job_settings(RUN).config.train.lr == 0.001
    with pytest.raises(UserError, match="did you mean 'statsq'"):
        job_settings(RUN.sibling("stats"))


def test_a_job_that_outlives_its_snakemake_does_not_begin_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(SETTINGS, str(tmp_path / "gone.json"))
    with pytest.raises(
        UserError, match=r"gone.json is gone, .* the snakemake that planned it has ended; run snakemake"
    ):
        job_settings(RUN)


def test_an_edit_while_snakemake_works_reaches_no_job_that_was_planned(project: Project) -> None:
    """The job of the data, which comes first, edits the parameters; the teacher that was planned does not see it."""
    project.params["studies"]["digits"] |= {"variants": ["lsq"], "seeds": [0]}
    project.write_params()
    edit = project.root / "src/ofq/data/prepare.py"
    edit.write_text(
        edit.read_text()
        + "\n\nfrom pathlib import Path\n_file = Path('params.yaml')\n"
        + "_file.write_text(_file.read_text().replace('lr: 0.003', 'lr: 0.0031'))\n"
    )
    teacher = "results/digits/vit_micro/fp/teacher/seed0"
    done = project.run("snakemake", f"{teacher}/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lr: 0.0031" in (project.root / "params.yaml").read_text()
    assert '"lr": 0.003,' in (project.root / teacher / "run.json").read_text()
    assert not list((project.root / ".snakemake").glob("ofq-settings-*")), "what was handed over is gone"
    assert project.plan(f"{teacher}/metrics.json")["teacher"] == 1, "the edit counts from now on"
