"""What a user sees when a job fails under Snakemake."""

import re

from ofq.data.readers.fashion_mnist import FASHION_MNIST
from tests.conftest import ROOT, Project


def test_the_last_lines_of_a_failed_job_are_its_refusal_and_the_name_of_its_log(project: Project) -> None:
    project.params["studies"]["digits"]["data"] = {"name": "fashion-mnist", "root": "images"}
    project.write_params()
    (project.root / "images").mkdir()
    for name in FASHION_MNIST:
        (project.root / "images" / name).write_text("no archive")
    done = project.run("snakemake", "results/digits/data/manifest.json")
    assert done.returncode == 1
    refusal, last = done.stderr.splitlines()[-2:]
    assert last == "ofq: a job failed; what it printed stands in logs/digits/data.log"
    assert refusal.startswith("ofq: error: images/train-images-idx3-ubyte.gz is damaged")
    log = project.root / "logs/digits/data.log"
    first = log.read_text()
    assert refusal in first
    project.run("snakemake", "results/digits/data/manifest.json")
    assert log.read_text() == 2 * first, "a further attempt follows the one before"


def test_no_rule_overwrites_its_log() -> None:
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        commands = [line for line in text.splitlines() if "{log}" in line]
        assert len(commands) == len(re.findall(r"^ +shell:", text, re.MULTILINE))
        assert all(" >> {log} 2>&1" in command for command in commands)
