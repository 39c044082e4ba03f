"""``imagenet-mobilenet`` and ``cifar10-cnn`` but for their length, on generated images; ``--whole``: every variant."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import yaml
from safetensors.torch import load_file, save_file

from ofq.cli.main import main
from ofq.config import params
from ofq.config.grid import all_runs
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from tests.conftest import ROOT, Project
from tests.data.photos import plain_folders

LARGE, SMALL = "imagenet-mobilenet", "cifar10-cnn"
SIZES = {LARGE: 224, SMALL: 32}
CLASSES, STEPS, SEED = 3, 5, 0  # as few steps as there are evaluations to compare
# Of every day: four and three bits, activations rounded and float, either remedy, weights given and trained.
RUNS = [
    Run(LARGE, "mobilenet_v2", "w4a4", "nagel-freezing-w4", SEED),
    Run(LARGE, "mobilenet_v2", "w3a32", "nagel", SEED),
    Run(SMALL, "mobilenet32", "w2a32", "nagel-dampening", SEED),
]


def write_studies(project: Project, *, whole: bool = False) -> None:
    """Make both the studies of a project: a few steps a run, generated photos, weights of the teacher as a file.

    Unless it is to be whole, the large photos have a quarter of their pixels.
    """
    plain_folders(project.root / "photos", train=4)
    for second in (project.root / "photos/val").glob("*/1.*"):
        second.unlink()
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    kept: dict[str, Any] = {}
    for study, size in SIZES.items():
        data = {"name": "imagefolder", "root": "photos", "image_size": size if whole or study == SMALL else size // 2}
        streamed = {"stream": True, "workers": 1} if study == LARGE else {}
        kept[study] = content["studies"][study] | {"data": data | streamed, "hardware": {}, "threads": 1}
        kept[study]["seeds"] = [SEED]
    for recipe in content["recipes"].values():
        if recipe["qat"].get("quantizer_lr") is None:
            continue
        for phase in ("qat", "cga"):
            recipe[phase] = {key: value for key, value in recipe[phase].items() if "epochs" not in key}
        recipe["qat"] |= {"batch_size": 2, "steps": STEPS, "evaluations": STEPS, "reestimation_batches": 2}
        if recipe["teacher"] == {"pretrained": True}:
            recipe["teacher"] = {"pretrained": "weights/{model}.safetensors"}
        else:
            recipe["teacher"] |= {"batch_size": 2, "steps": STEPS}
        recipe["cga"]["steps"] = STEPS
    (project.root / "weights").mkdir()
    made = timm.create_model(content["models"]["mobilenet_v2"]["timm"], num_classes=CLASSES)
    save_file(made.state_dict(), project.root / "weights/mobilenet_v2.safetensors")
    project.params = content | {"study": SMALL, "studies": kept}
    project.write_params()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Run]:
    """The runs of every day, made by the steps; or, by Snakemake, all runs and reports of both studies."""
    project = Project(tmp_path_factory.mktemp("mobilenets"))
    write_studies(project, whole=request.config.getoption("whole"))
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.chdir(project.root)
    if request.config.getoption("whole"):
        groups = [f"{study}-{group}" for study in SIZES for group in project.params["studies"][study]["groups"]]
        done = project.run("snakemake", *SIZES, *groups)
        assert done.returncode == 0, done.stdout + done.stderr
        for study in SIZES:
            table = pd.read_csv(project.root / f"results/{study}/report/tables/main.csv")
            assert sorted(set(table["variant"])) == sorted(project.params["studies"][study]["variants"])
        return [run for study in SIZES for run in all_runs(params.load(), study)]
    for study in SIZES:
        assert main(["data", study]) == 0
    for run in dict.fromkeys(run.teacher for run in RUNS):
        assert main(["teacher", str(run)]) == 0
    for run in RUNS:
        assert main(["qat", str(run)]) == 0
    return RUNS


def test_every_run_tells_both_accuracies_and_what_separates_the_statistics(finished: list[Run]) -> None:
    for run in finished:
        metrics = read_json(run.files.metrics)
        assert metrics["steps"] == STEPS, run
        wanted = ["top1", "top1_reestimated", "kl_depthwise", "kl_pointwise", "kl_stem", "osc_share", "reversals"]
        assert all(math.isfinite(metrics[name]) for name in wanted), run
        groups = set(pd.read_parquet(run.files.oscillation)["group"])
        assert groups == {"depthwise", "pointwise"}


def test_the_teacher_has_the_numbers_of_the_given_file(finished: list[Run]) -> None:
    teacher = next(run.teacher for run in finished if run.study == LARGE)
    given, found = load_file(Path("weights/mobilenet_v2.safetensors")), load_file(teacher.files.model)
    assert given.keys() == found.keys() and all(given[name].equal(found[name]) for name in given)


def test_bits_steps_and_remedies_are_those_of_the_settings(finished: list[Run]) -> None:
    for run in finished:
        model = load_file(run.files.model)
        inputs = {name for name in model if name.endswith("input_quantizer.scale")}
        layers = {name for name in model if name.endswith("weight_quantizer.scale")}
        assert len(layers) > 50 and all(model[name].numel() == 1 for name in layers), "a step for a tensor"
        assert len(inputs) == (0 if run.bits.endswith("a32") else len(layers) - 1), "the image stays float"
        lines = [json.loads(line) for line in run.files.events.read_text().splitlines()]
        told = {name.split("/")[0] for line in lines for name in line if "/" in name}
        for remedy in ("dampening", "freezing"):
            assert (remedy in told) == (remedy in run.variant), run
