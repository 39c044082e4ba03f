"""What a user sees when a job fails under Snakemake."""

from tests.conftest import Project


def test_the_last_line_of_a_failed_job_names_its_log(project: Project) -> None:
    project.params["studies"]["digits"]["data"] = {"name": "fashion-mnist", "root": "nowhere"}
    project.write_params()
    done = project.run("snakemake", "results/digits/data/manifest.json")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ofq: a job failed; what it printed stands in logs/digits/data.log"
    assert "nowhere" in (project.root / "logs/digits/data.log").read_text()
