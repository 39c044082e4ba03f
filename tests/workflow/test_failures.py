"""What a user sees when a job fails under Snakemake."""

from ofq.data.readers.fashion_mnist import FASHION_MNIST
from tests.conftest import Project


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
    assert refusal in (project.root / "logs/digits/data.log").read_text()
