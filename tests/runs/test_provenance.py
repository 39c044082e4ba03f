"""The commit that a run names is what ran, or the run says what was not committed."""

import subprocess
from pathlib import Path

import pytest

from ofq.runs import code_digest
from ofq.runs.provenance import git_state


def git(*arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project with a class of one's own, all of it committed, and its commit."""
    monkeypatch.chdir(tmp_path)
    for cached in (code_digest.syntax_tree, code_digest._fingerprint, code_digest._imports):
        cached.cache_clear()
    Path("params.yaml").write_text("study: x\n")
    Path("README.md").write_text("# x\n")
    Path("mine.py").write_text("from helper import f\n\n\nclass Mine: ...\n")
    Path("helper.py").write_text("def f(): ...\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    return git("rev-parse", "HEAD")


def test_a_clean_tree_is_its_commit_whatever_else_lies_there(project: str) -> None:
    Path("results").mkdir()
    Path("results/metrics.json").touch()
    Path("notes.txt").touch()
    Path("unused.py").touch()
    assert git_state(["mine"]) == {"git": project, "dirty": False}


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("file", ["params.yaml", "mine.py", "README.md"])
def test_an_edit_is_named(project: str, file: str, staged: bool) -> None:
    Path(file).write_text(Path(file).read_text() + "\n# edited\n")
    if staged:
        git("add", ".")
    assert git_state([]) == {"git": project, "dirty": True, "changed": [file]}


@pytest.mark.parametrize("file", ["mine.py", "helper.py", "params.yaml"])
def test_a_file_that_counts_and_that_git_does_not_know_is_named(project: str, file: str) -> None:
    git("rm", "--quiet", "--cached", file)
    git("commit", "--quiet", "-m", "without it")
    state = git_state(["mine"])
    assert state == {"git": git("rev-parse", "HEAD"), "dirty": True, "changed": [file]}
    assert git_state([]).get("dirty") == (file == "params.yaml"), "only a run that uses it"


def test_an_unpacked_archive_has_not_the_commit_of_the_repository_that_it_lies_in(
    project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("archive").mkdir()
    monkeypatch.chdir("archive")
    Path("params.yaml").write_text("study: x\n")
    assert git_state([]) == {}
    git("add", "params.yaml")
    assert git_state([]) == {"git": project, "dirty": True, "changed": ["params.yaml"]}
    git("commit", "--quiet", "-m", "a project in a folder")
    assert git_state([]) == {"git": git("rev-parse", "HEAD"), "dirty": False}


def test_without_git_or_a_commit_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    assert git_state([]) == {}
    git("init", "--quiet")
    assert git_state([]) == {}
    monkeypatch.setenv("PATH", "")
    assert git_state([]) == {}
