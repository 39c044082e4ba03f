"""Where and how Snakemake is started: it runs the code of its own checkout, or says in one line why not."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from ofq.config.params import load
from ofq.config.settings import Data
from ofq.data.readers.fashion_mnist import FASHION_MNIST
from ofq.data.sources import check_sources
from ofq.environment import check_checkout
from ofq.errors import UserError
from ofq.workflow.checks import check_software, resumes
from ofq.workflow.dvc_file import stages
from tests.conftest import ROOT, Project

MANIFEST = "results/digits/data/manifest.json"
TEACHER = "results/digits/vit_micro/fp/teacher/seed0/metrics.json"
WRITES_ITS_NAME = "import sys\nfrom pathlib import Path\nPath('imported').open('a').write(f'{sys.orig_argv}\\n')\n"


def refusal(project: Project, *command: str, cwd: Path | None = None, **env: str) -> str:
    """What Snakemake says that refuses to plan: one line of ours, which is the last, and exit code 2."""
    started = Project.__new__(Project)
    started.root = cwd or project.root
    done = started.run(*command, env={"PYTHONPATH": str(project.root / "src")} | env)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ofq: error: ")]
    assert line == done.stderr.splitlines()[-1]
    return line.removeprefix("ofq: error: ")


def test_planning_jobs_and_warm_process_run_the_checkouts_own_package_whatever_is_installed(tmp_path: Path) -> None:
    installed, own = Project(tmp_path / "installed"), Project(tmp_path / "own")
    (installed.root / "src/ofq/__init__.py").write_text("raise RuntimeError('the code of another checkout')\n")
    package = own.root / "src/ofq/__init__.py"
    package.write_text(package.read_text() + WRITES_ITS_NAME)
    own.params["recipes"]["digits"]["teacher"]["steps"] = 2
    own.write_params()
    done = own.run("snakemake", TEACHER, env={"PYTHONPATH": str(installed.root / "src")})
    assert done.returncode == 0, done.stdout + done.stderr
    imported = (own.root / "imported").read_text()
    assert all(f"'{step}'" in imported for step in (TEACHER, "warm", "data", "teacher")), imported


def test_a_checkout_without_the_package_or_a_part_of_it_runs_no_other(project: Project, tmp_path: Path) -> None:
    whole = {"PYTHONPATH": str(shutil.copytree(project.root / "src", tmp_path / "installed"))}
    (project.root / "src/ofq/workflow/warm.py").unlink()
    said = refusal(project, "snakemake", "-n", MANIFEST, **whole)
    assert said.startswith(f"no module ofq.workflow.warm in {project.root}/src; this checkout is not whole")
    for remove in ((project.root / "src/ofq/__init__.py").unlink, lambda: shutil.rmtree(project.root / "src")):
        remove()
        said = refusal(project, "snakemake", "-n", MANIFEST, **whole)
        assert said == f"no package in {project.root}/src/ofq; this checkout is not whole: get it anew with git"


def test_a_step_by_hand_refuses_to_run_the_code_of_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Project(tmp_path / "one"), Project(tmp_path / "other")
    said = refusal(one, "python", "-m", "ofq", "data", "digits", cwd=other.root)
    assert said == f"this is the package of {one.root}/src; for that of this checkout: PYTHONPATH=src python -m ofq ..."
    assert not (other.root / "results").exists()
    monkeypatch.chdir(tmp_path)
    check_checkout()  # no checkout
    monkeypatch.chdir(other.root)
    with pytest.raises(UserError, match="for that of this checkout"):
        check_checkout()


@pytest.mark.parametrize("option", ["--snakefile", "--directory"])
def test_snakemake_started_elsewhere_says_where_to_start_it_and_writes_nothing(tmp_path: Path, option: str) -> None:
    project, elsewhere = Project(tmp_path / "project"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = {"--snakefile": (project.root / "Snakefile", elsewhere), "--directory": (elsewhere, project.root)}
    value, cwd = where[option]
    for dry in ([], ["-n"]):
        said = refusal(project, "snakemake", *dry, option, str(value), "--", MANIFEST, cwd=cwd)
        assert said == f"the project is {project.root}, and this is {elsewhere}; start snakemake in the former"
    assert {path.name for path in elsewhere.iterdir()} <= {".snakemake"}, "Snakemake's own log"
    assert not list(elsewhere.rglob("*ofq*"))
    assert not (project.root / "results").exists()


@pytest.mark.parametrize("name", ["two words", "Prüfung 'β'", "$HOME;"])
def test_a_project_may_lie_anywhere_and_be_reached_by_a_link(tmp_path: Path, name: str) -> None:
    project = Project(tmp_path / name)
    done = project.run("snakemake", MANIFEST)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "link").symlink_to(project.root, target_is_directory=True)
    project.root = tmp_path / "link"
    assert project.plan(MANIFEST) == {}


def test_a_project_whose_path_python_would_cut_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path / "a:b")
    assert "jobs do not find a package below a folder with ':'; move the project" in refusal(
        project, "snakemake", MANIFEST
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"study": "fashion"}, "a study is named as the target: snakemake STUDY"),
        ({"resume_acros_code": True}, "did you mean 'resume_across_code'?"),
        ({"resume_across_code": True, "cores": 2}, "unknown key of --config 'cores'"),
        ({"resume_across_code": "yes"}, "should be true or false"),
        ({"resume_across_code": 1}, "should be true or false"),
        ({"resume_across_code": {}}, "should be true or false"),
    ],
)
def test_a_key_or_value_of_config_that_would_do_nothing_is_refused(config: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        resumes(config)
    assert said in str(error.value)


def test_the_key_of_config_is_taken_in_every_spelling_of_yaml() -> None:
    assert not resumes({}) and not resumes({"resume_across_code": False})
    assert resumes({"resume_across_code": True}) and resumes({"resume_across_code": "TRUE"})


def test_jobs_in_an_environment_of_their_own_are_refused() -> None:
    check_software([])
    for methods in (["conda"], ["env-modules", "apptainer"]):
        with pytest.raises(UserError, match="jobs run in the environment of snakemake; leave it out"):
            check_software(methods)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "study=fashion"], "unknown key of --config 'study'"),
        (["--configfile", "mine.yaml"], "unknown key of --config 'steps'"),
        (["--software-deployment-method", "conda"], "--software-deployment-method conda: "),
        (["--use-apptainer"], "--software-deployment-method apptainer: "),
        (["--until", "qta"], "unknown step or target 'qta'; did you mean 'qat'?"),
        (["--omit-from", "tabels"], "unknown step or target 'tabels'; did you mean 'tables'?"),
        (["--forcerun", "results/digits/data/manifest.jsn"], "unknown file of study 'digits': 'data/manifest.jsn'"),
        (["--set-resources", "qta:mem_mb=3000"], "unknown step or target 'qta'; did you mean 'qat'?"),
        (["--prioritize", "digits", "digitz"], "unknown step or target 'digitz'; did you mean 'digits'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_would_do_nothing_is_one_line(project: Project, arguments: list[str], said: str) -> None:
    (project.root / "mine.yaml").write_text("steps: 3\n")
    assert said in refusal(project, "snakemake", "-n", *arguments, "--", MANIFEST)
    assert not (project.root / "results").exists()


def test_python_may_start_snakemake_as_a_module(project: Project) -> None:
    assert "unknown target 'digitz'; did you mean 'digits'?" in refusal(
        project, "python", "-m", "snakemake", "-n", "digitz"
    )


def test_data_that_are_not_there_are_told_when_their_study_is_planned(project: Project) -> None:
    studies = project.params["studies"]
    studies["other"] = studies["digits"] | {"data": {"name": "fashion-mnist"}}
    project.write_params()
    for command in (["-n", "other"], ["digits", "results/other/data/manifest.json"]):
        said = refusal(project, "snakemake", *command)
        assert said.startswith(
            "study other: data/fashion-mnist/train-images-idx3-ubyte.gz not found; docs/add-a-data-set.md"
        )
    assert not (project.root / "results").exists()
    assert project.plan(MANIFEST) == {"data": 1}
    assert project.run("snakemake", "--rulegraph", "--", "other").returncode == 0
    prepared = project.root / "results/other/data"
    prepared.mkdir(parents=True)
    for name in ("manifest.json", "train.safetensors", "eval.safetensors", "prepared.json"):
        (prepared / name).touch()
    assert "data" not in project.plan("other")
    assert "not found" in refusal(project, "snakemake", "--forcerun", "data", "--", "other"), (
        "it would lose what is prepared"
    )
    assert len(list(prepared.iterdir())) == 4
    shutil.rmtree(prepared)
    (project.root / "data/fashion-mnist").mkdir(parents=True)
    for name in FASHION_MNIST:
        (project.root / "data/fashion-mnist" / name).touch()
    assert project.plan("results/other/data/manifest.json") == {"data": 1}


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        ({"name": "fashion-mnist"}, "data/fashion-mnist/train-images-idx3-ubyte.gz"),
        ({"name": "cifar10"}, "data/cifar10/cifar-10-binary.tar.gz"),
        ({"name": "cifar100", "root": "there"}, "there/cifar-100-binary.tar.gz"),
        ({"name": "shapes:Shapes", "root": "nowhere"}, "nowhere"),
        ({"name": "shapes:Shapes", "root": "there"}, None),
        ({"name": "shapes:Shapes"}, None),
        ({"name": "digits"}, None),
    ],
)
def test_what_is_looked_for_is_what_a_data_set_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, str], missing: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    if missing is None:
        check_sources("mine", Data(**data))
    else:
        with pytest.raises(UserError, match=re.escape(f"study mine: {missing} not found; ")):
            check_sources("mine", Data(**data))


def test_what_a_rule_meets_in_a_file_of_ones_own_is_one_line(project: Project) -> None:
    (project.root / "calm.py").write_text("import helper\nclass Calm:\n    pass\n")
    project.params["variants"]["lsq"]["remedy"] = {"name": "calm:Calm"}
    project.write_params()
    for text in ("def (\n", "\0"):
        (project.root / "helper.py").write_text(text)
        assert refusal(project, "snakemake", "-n").startswith("helper.py cannot be read (")


def test_an_experiment_of_dvc_that_needs_other_stages_says_so(project: Project) -> None:
    path = project.root / "params.yaml"
    (project.root / "dvc.yaml").write_text(stages(load(path)))
    written = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    assert all("study" in stage["params"] for stage in written.values()), "another study is a change of every stage"
    assert "dvc.yaml" not in project.run("snakemake", "-n", MANIFEST, env={"DVC_STAGE": "data"}).stderr
    studies = project.params["studies"]
    studies["other"] = studies["digits"]
    for change in ({"study": "other"}, {"studies": {"digits": studies["digits"] | {"bits": ["w2a2", "w5a5"]}}}):
        path.write_text(yaml.safe_dump(project.params | change))
        said = refusal(project, "snakemake", MANIFEST, DVC_STAGE="data")
        assert "dvc.yaml does not list results/" in said and said.endswith("python -m ofq stages > dvc.yaml")
        done = project.run("snakemake", "-n", MANIFEST)
        assert done.returncode == 0 and "ofq: warning: dvc.yaml does not list results/" in done.stderr


FAKE = """#!/bin/sh
case "$*" in
--version) echo Python 3.{minor}.2 ;;
*ensurepip*) exit 1 ;;
*) exec {python} -c "import sys; sys.version_info = type('', (), dict(minor={minor})); $2" ;;
esac
"""


@pytest.mark.parametrize(
    ("minor", "target", "said"),
    [
        (None, "env", "Python 3.11 to 3.14 is needed, and python3 is: "),
        (None, "clean", "Python 3.11 or newer is needed, and python3 is: "),
        (9, "env", "Python 3.11 to 3.14 is needed, and python3 is: Python 3.9.2; see docs/environments.md"),
        (9, "clean", "Python 3.11 or newer is needed, and python3 is: Python 3.9.2; see docs/environments.md"),
        (15, "env", "Python 3.11 to 3.14 is needed, and python3 is: Python 3.15.2; see docs/environments.md"),
        (12, "env", "python3 has no venv; on Debian and Ubuntu: sudo apt-get install python3-venv"),
    ],
)
def test_make_says_which_python_it_needs(tmp_path: Path, minor: int | None, target: str, said: str) -> None:
    project, programs = Project(tmp_path / "project"), tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "make", "touch"):
        (programs / name).symlink_to(shutil.which(name) or "")
    if minor is not None:
        (programs / "python3").write_text(FAKE.format(minor=minor, python=sys.executable))
        (programs / "python3").chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, project.root)
    (project.root / "envs/constraints.txt").touch()
    done = project.run("make", target, env={"PATH": str(programs)})
    assert done.returncode == 2 and not (project.root / ".venv").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ofq: error: ")]
    assert line.startswith(f"ofq: error: {said}")
