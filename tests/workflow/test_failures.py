"""What a user sees when a job fails under Snakemake."""

import re

from tests.conftest import ROOT, Project


def test_the_last_line_of_a_failed_job_names_its_log(project: Project) -> None:
    project.params["studies"]["digits"]["data"] = {"name": "fashion-mnist", "root": "nowhere"}
    project.write_params()
    done = project.run("snakemake", "results/digits/data/manifest.json")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ofq: a job failed; what it printed stands in logs/digits/data.log"
    log = project.root / "logs/digits/data.log"
    first = log.read_text()
    assert "nowhere" in first
    project.run("snakemake", "results/digits/data/manifest.json")
    assert log.read_text() == 2 * first, "a further attempt follows the one before"


def test_no_rule_overwrites_its_log() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        commands = [line for line in text.splitlines() if "{log}" in line]
        assert len(commands) == len(re.findall(r"^ +shell:", text, re.MULTILINE))
        assert all(" >> {log} 2>&1" in command for command in commands)
