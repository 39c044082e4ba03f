"""Groups of a study, what is measured on their runs, and the claims: one real run of everything."""

import json
import shutil
import sys
import zipfile
from urllib.parse import quote

import pandas as pd
import pytest

from tests.conftest import ROOT, Project

RUN = "results/digits/vit_micro/w2a2"
REPORT = "results/digits/report"
VARIANTS = ["statsq", "statsq-cga", "statsq-cga-wide", "statsq-extra"]


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study with a group that goes with it and one that does not."""
    project = Project(tmp_path_factory.mktemp("grouped"))
    project.params["variants"]["statsq-cga-wide"] = {"parent": "statsq", "cga": {"boundary_range": 0.1}}
    compare = [["statsq-cga", "statsq-extra"]]
    project.params["studies"]["digits"] |= {
        "variants": ["statsq", "lsq"],
        "groups": {
            "bands": {"always": True, "variants": ["statsq-cga", "statsq-cga-wide"], "seeds": [0]},
            "more": {"variants": VARIANTS, "compare": compare, "measure": ["noise", "probe"]},
        },
    }
    project.write_params()
    return project


@pytest.fixture(scope="module")
def finished(grouped: Project) -> Project:
    """All of it has been run."""
    done = grouped.run("snakemake", "everything")
    assert done.returncode == 0, done.stdout + done.stderr
    return grouped


def test_a_study_makes_its_main_grid_and_the_groups_that_go_with_it(grouped: Project) -> None:
    common = {"data": 1, "toy": 1, "toy_figure": 1, "track": 1}
    runs = {"teacher": 2, "qat": 4, "cga": 2, "tables": 2, "figures": 2, "annealing": 1, "boundary_range": 1}
    assert grouped.plan() == common | runs


def test_a_group_is_made_by_name_and_repeats_no_run_of_another_grid(grouped: Project) -> None:
    report = {"tables": 1, "figures": 1, "annealing": 1, "boundary_range": 1, "comparison": 1, "noise_table": 1}
    measured = {"noise": 2, "probe": 2, "probes": 1, "track_group": 1}
    alone = grouped.plan("more")
    assert alone == {"data": 1, "teacher": 2, "qat": 2, "cga": 6} | report | measured
    assert grouped.plan("digits-more") == alone
    both = grouped.plan("digits", "more")
    assert (both["qat"], both["cga"], both["tables"]) == (4, 6, 3)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mor", "unknown target 'mor'; did you mean 'more'?"),
        (f"{REPORT}/moore/tables/main.csv", "unknown group of study 'digits': 'moore'; did you mean 'more'?"),
        (f"{REPORT}/more/tables/noize.csv", "did you mean 'report/more/tables/noise.csv'?"),
        (f"{REPORT}/bands/tables/noise.csv", "unknown file of study 'digits'"),
        (f"{RUN}/statsq/seed0/annealing.parquet", "unknown file of a run"),
        ("comparison", "is a step of many jobs"),
    ],
)
def test_a_wrong_name_is_one_line(grouped: Project, target: str, said: str) -> None:
    done = grouped.run("snakemake", "-n", target)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr


def test_everything_leaves_nothing_to_do_and_every_table_there(finished: Project) -> None:
    assert finished.plan("everything") == {}
    assert finished.plan() == {}
    tables = {path.stem for path in (finished.root / REPORT / "more/tables").glob("*.csv")}
    assert tables == {
        "main",
        "best",
        "agreement",
        "ablation",
        "oscillation",
        "comparison",
        "boundary_range",
        "noise",
        "coupling",
    }
    figures = {path.stem for path in (finished.root / REPORT / "more/figures").glob("*.png")}
    assert {"annealing", "scale_trajectories", "boundary", "accuracy"} <= figures
    comparison = pd.read_csv(finished.root / REPORT / "more/tables/comparison.csv")
    one, other = (
        [json.loads((finished.root / RUN / name / f"seed{seed}/metrics.json").read_text())["top1"] for seed in (0, 1)]
        for name in ("statsq-cga", "statsq-extra")
    )
    assert comparison["top1_mean"][0] == pytest.approx(sum(one) / 2 - sum(other) / 2)


def test_claims_are_judged_on_what_there_is(finished: Project) -> None:
    claims = {claim["id"]: claim for claim in json.loads((finished.root / REPORT / "claims.json").read_text())}
    counts = {claim["n"] for claim in claims.values()}
    assert counts == {0, 2}
    assert all((claim["verdict"] == "untested") == (claim["n"] == 0) for claim in claims.values())
    text = (finished.root / REPORT / "claims.md").read_text()
    assert all(claim["statement"] in text for claim in claims.values())


def test_a_crate_has_what_it_lists_and_names_the_authors_of_the_citation(finished: Project) -> None:
    for name in ("CITATION.cff", "pyproject.toml", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, finished.root)
    assert finished.plan("crate") == {"ro_crate": 1}
    done = finished.run("snakemake", "crate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert finished.plan("crate") == {} == finished.plan("everything")
    report = finished.root / REPORT
    with zipfile.ZipFile(report / "crate.zip") as content:
        names = set(content.namelist())
        entities = {each["@id"]: each for each in json.loads(content.read("ro-crate-metadata.json"))["@graph"]}
        for path in (f"{RUN}/statsq-cga/seed1/metrics.json", f"{REPORT}/more/tables/main.csv", f"{REPORT}/claims.json"):
            assert content.read(path) == (finished.root / path).read_bytes()
    listed = {quote(name) for name in names} - {"ro-crate-metadata.json"}  # by their addresses
    assert {name for name, each in entities.items() if "File" in each["@type"]} == listed
    assert {each["@id"] for each in entities["./"]["hasPart"]} == listed
    assert {"Snakefile", "params.yaml", "src/ofq/quant/convert.py", f"{REPORT}/croissant.json"} <= names
    assert {f"{RUN}/lsq/seed0/oscillation.parquet", f"{RUN}/statsq/seed1/noise.parquet"} <= names
    assert not any(name.endswith(("safetensors", ".pt")) for name in names)
    assert entities[entities["./"]["author"]["@id"]]["name"] == "The ofq authors"
    action = entities["#study"]
    assert action["instrument"]["@id"] == entities["./"]["mainEntity"]["@id"] == "Snakefile"
    assert {f"{RUN}/lsq/seed0/run.json", f"{REPORT}/claims.md"} <= {each["@id"] for each in action["result"]}
    whole = "".join(path.read_text() for path in (report / "croissant.json", report / "sbom.json"))
    assert str(finished.root) not in whole + json.dumps(entities) and sys.prefix not in whole
    packages = {each["name"] for each in json.loads((report / "sbom.json").read_text())["components"]}
    assert {"torch", "timm", "snakemake", "dvc", "mlflow", "pandas"} <= packages


def test_a_crate_of_damaged_files_is_one_line(finished: Project) -> None:
    for path, old, new, said in (
        (f"{RUN}/lsq/seed0/run.json", '"finished": "2', '"finished": "x2', "run.json: finished: 'x2"),
        ("results/digits/data/prepared.json", '"finished"', '"ended"', "prepared.json"),
        ("CITATION.cff", "authors:", "writers:", "CITATION.cff: authors: Field required"),
    ):
        file = finished.root / path
        whole = file.read_text()
        file.write_text(whole.replace(old, new, 1))
        done = finished.ofq("report", "ro-crate", "digits")
        file.write_text(whole)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_an_edited_claim_reruns_the_claims_and_a_deleted_measurement_itself(finished: Project) -> None:
    path = finished.root / "claims.yaml"
    path.write_text(path.read_text() + "# a comment\n")
    assert finished.plan(f"{REPORT}/claims.json") == {"claims": 1}
    noise = finished.root / RUN / "statsq/seed0/noise.parquet"
    before = noise.read_bytes()
    noise.unlink()
    assert finished.plan("more").get("noise") == 1 and "qat" not in finished.plan("more")
    done = finished.run("snakemake", str(noise.relative_to(finished.root)))
    assert done.returncode == 0 and noise.read_bytes() == before


def test_the_record_has_the_groups(finished: Project) -> None:
    done = finished.ofq("reference", "digits")
    assert done.returncode == 0, done.stderr
    record = finished.root / "results/reference/digits"
    assert not (record / "crate.zip").exists(), "a crate has a record in it, and not the other way"
    note = json.loads((record / "record.json").read_text())
    assert note["groups"] == {"bands": [0], "more": [0, 1]} and note["runs"] == 10
    for name in ("tables/main.csv", "more/tables/noise.csv", "more/figures/boundary.png", "claims.md"):
        assert (record / name).read_bytes() == (finished.root / REPORT / name).read_bytes()


def test_a_new_record_keeps_the_groups_that_were_not_made_again(finished: Project) -> None:
    folder = finished.root / REPORT / "more"
    aside, record = folder.with_name("aside"), finished.root / "results/reference/digits"
    assert finished.ofq("reference", "digits").returncode == 0
    before = (record / "more/tables/noise.csv").read_bytes()
    folder.rename(aside)
    done = finished.ofq("reference", "digits")
    shutil.move(aside, folder)
    assert done.returncode == 0 and "as before, for digits has not made them: more" in done.stdout
    assert (record / "more/tables/noise.csv").read_bytes() == before
    note = json.loads((record / "record.json").read_text())
    assert note["kept"] == ["more"] and note["groups"] == {"bands": [0]}


def test_wrong_claims_are_known_before_anything_is_trained(grouped: Project) -> None:
    path = grouped.root / "claims.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("variant: statsq}", "variant: statsqq}"))
    done = grouped.run("snakemake", "-n", "everything")
    main = grouped.run("snakemake", "-n")
    path.write_text(whole)
    assert done.returncode == 2 and "unknown variant 'statsqq'; did you mean 'statsq'?" in done.stderr
    assert main.returncode == 0, "the main grid needs no claims"
