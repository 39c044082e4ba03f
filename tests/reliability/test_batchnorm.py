"""A network with batch norms: its running statistics are resumed, published and loaded to the bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ofq.config import params
from ofq.config.resolve import KEEPING, Keeping, resolve
from ofq.data import batches
from ofq.data.prepare import prepare
from ofq.errors import UserError
from ofq.measure.probe import run_probe
from ofq.models.backbone import build
from ofq.models.batchnorm import batch_norms, reestimate
from ofq.models.weights import load_weights
from ofq.runs.paths import Run
from ofq.training import anneal, qat, student
from ofq.training.distributed import Rank
from ofq.training.loop import evaluate
from ofq.training.preflight import check_study
from ofq.training.student import quantize_as
from ofq.training.teacher import run_teacher
from tests.data.photos import plain_folders
from tests.reliability.conftest import EPOCH, STEPS, run_of, train
from tests.reliability.test_resume import check_killed, contents
from tests.reliability.test_streamed_runs import settings

MODEL = "mobilenet"
TEACHER = run_of("teacher", MODEL)
BATCHES = 3
STUDENTS = [run_of(variant, MODEL) for variant in ("lsq", "lsq-freezing", "statsq", "statsq-cga")]


def edit(change: Any) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    change(content)
    Path("params.yaml").write_text(yaml.safe_dump(content))


def with_a_network(content: dict[str, Any]) -> None:
    content["models"][MODEL] = {"timm": "mobilenetv2_035"}
    study, recipe = content["studies"]["digits"], content["recipes"]["digits"]
    study["models"].append(MODEL)
    study["recipe_for"] = {f"{MODEL}/w2a2": "estimated", "vit_dropout/w2a2": "estimated"}
    content["recipes"]["estimated"] = recipe | {"qat": recipe["qat"] | {"reestimation_batches": BATCHES}}


@pytest.fixture(scope="module")
def root(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data, and a finished teacher and students that have batch norms."""
    root = tmp_path_factory.mktemp("network") / "project"
    shutil.copytree(small_data, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        edit(with_a_network)
        for run in (TEACHER, *STUDENTS):
            train(run)
    return root


@pytest.fixture
def network(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


def rebuilt(run: Run) -> torch.nn.Module:
    config = resolve(params.load(), run)
    return build(config.model, image_size=(8, 8), channels=1, classes=10, seed=1)


def test_a_teacher_that_was_killed_ends_with_the_statistics_of_one_that_was_not(network: Path) -> None:
    statistics = load_file(TEACHER.files.model)["bn1.running_var"]
    assert not torch.equal(statistics, torch.ones_like(statistics))
    assert load_file(TEACHER.files.model)["bn1.num_batches_tracked"] == STEPS
    check_killed(TEACHER, 3, EPOCH + 1)


def test_what_is_published_evaluates_as_what_was_trained(network: Path) -> None:
    model = rebuilt(TEACHER)
    load_weights(model, TEACHER.files.model)
    assert len(batch_norms(model)) == 52
    top1, _ = evaluate(model, batches.load("digits"))
    assert f'"top1": {top1}' in contents(TEACHER)["metrics.json"].decode()


def test_a_file_without_statistics_is_refused(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(TEACHER.files.model).items() if k != "bn1.running_var"}, path)
    with pytest.raises(UserError, match=r"belongs to another model: bn1\.running_var does not match"):
        load_weights(rebuilt(TEACHER), path)


@pytest.mark.parametrize("absent", ["num_batches_tracked", "bn1.running_mean"])
def test_given_weights_may_lack_the_number_of_batches_alone(network: Path, tmp_path: Path, absent: str) -> None:
    content = load_file(TEACHER.files.model)
    path = tmp_path / "given.safetensors"
    save_file({name: value for name, value in content.items() if not name.endswith(absent)}, path)
    config = resolve(params.load(), TEACHER).model_copy(update={"train": None, "pretrained": str(path)})
    before = contents(TEACHER)
    if absent != "num_batches_tracked":
        with pytest.raises(UserError, match=r"does not fit mobilenetv2_035: bn1\.running_mean is missing"):
            run_teacher(TEACHER, config)
        assert contents(TEACHER) == before
        return
    run_teacher(TEACHER, config)
    found = load_file(TEACHER.files.model)
    assert all(torch.equal(found[name], value) for name, value in content.items() if not name.endswith(absent))
    train(TEACHER)
    assert contents(TEACHER) == before


@pytest.mark.parametrize(
    ("keeping", "rank", "told"),
    [
        (Keeping(images_at_once=16), Rank(), "leave out hardware.images_at_once"),
        (Keeping(devices=2), Rank(0, 2), "leave out hardware.devices"),
    ],
    ids=["parts", "devices"],
)
def test_batches_that_are_divided_are_refused_in_one_line(
    network: Path, keeping: Keeping, rank: Rank, told: str
) -> None:
    before = contents(TEACHER)
    with pytest.raises(UserError, match=f"mobilenetv2_035 has batch norms, which would see parts of a batch; {told}"):
        run_teacher(TEACHER, resolve(params.load(), TEACHER), keeping, rank)
    assert contents(TEACHER) == before
    train(TEACHER, KEEPING)
    assert contents(TEACHER) == before


def test_a_teacher_that_trains_while_it_teaches_is_refused(network: Path) -> None:
    run = run_of("statsq-qkr-released", MODEL)
    with pytest.raises(UserError, match=r"fidelity\.teacher_mode should be eval in params\.yaml"):
        train(run)


@pytest.mark.parametrize("run", STUDENTS, ids=lambda run: run.variant)
def test_students_that_were_killed_end_as_those_that_were_not(network: Path, run: Run) -> None:
    check_killed(run, 3, STEPS - 1)


@pytest.mark.parametrize("run", STUDENTS, ids=lambda run: run.variant)
def test_reestimation_changes_nothing_but_what_is_told(
    network: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated = contents(run)
    monkeypatch.setattr(student, "reestimations", lambda job, model: [])
    for module in (qat, anneal):
        monkeypatch.setattr(module, "reestimations", student.reestimations)
    train(run)
    plain = contents(run)
    monkeypatch.undo()
    monkeypatch.chdir(network)
    train(run)
    assert contents(run) == estimated
    same = {name for name in plain if plain[name] == estimated[name]}
    assert {"model.safetensors", "trainer.pt", "weights.parquet"} <= same
    assert set(plain) - same == {"metrics.json", "events.jsonl", "oscillation.parquet"}
    told = {name: json.loads(files["metrics.json"]) for name, files in (("plain", plain), ("more", estimated))}
    assert told["more"] | told["plain"] == told["more"]
    assert set(told["more"]) - set(told["plain"]) == {
        "top1_reestimated",
        *(f"top1{kind}_last{what}" for kind in ("", "_reestimated") for what in ("", "_sd")),
        "dead_channels",
        *(f"kl{kind}_{group}" for kind in ("", "_largest") for group in ("depthwise", "pointwise", "stem")),
    }


def test_accuracies_are_those_of_either_statistics_and_their_means_those_of_the_last_five(network: Path) -> None:
    run = STUDENTS[0]
    metrics = json.loads(contents(run)["metrics.json"])
    events = [json.loads(line) for line in run.files.events.read_text().splitlines()]
    events = [event for event in events if event["event"] == "step"]
    assert len(events) == STEPS
    for name in ("top1", "top1_reestimated"):
        values = [event[f"val/{name}"] for event in events[-5:]]
        assert metrics[name] == values[-1] and metrics[f"{name}_last"] == pytest.approx(np.mean(values))
        assert metrics[f"{name}_last_sd"] == pytest.approx(np.std(values, ddof=1))
    config = resolve(params.load(), run)
    data = batches.load("digits")
    model = quantize_as(rebuilt(run), config.quantization, MODEL)
    load_weights(model, run.files.model)
    assert evaluate(model, data)[0] == metrics["top1"]
    size = config.train.batch_size
    reestimate(model, [data.train(run.seed + student._ORDER, STEPS + k, size).images for k in range(BATCHES)])
    assert evaluate(model, data)[0] == metrics["top1_reestimated"]


def test_divergences_stand_beside_each_layer_from_the_first_evaluation_on(network: Path) -> None:
    run = STUDENTS[0]
    metrics = json.loads(contents(run)["metrics.json"])
    record = pd.read_parquet(run.files.oscillation)
    assert set(record["group"]) == {"depthwise", "pointwise"} and record[record["step"] == 0]["kl_mean"].isna().all()
    last = record[record["step"] == STEPS]
    assert len(last) == 51 and last[["channels", "dead", "kl_mean", "kl_max"]].notna().all(axis=None)
    for group, part in last.groupby("group"):
        assert metrics[f"kl_{group}"] == pytest.approx(np.average(part["kl_mean"], weights=part["channels"]))
        assert metrics[f"kl_largest_{group}"] == pytest.approx(part["kl_mean"].max())
    assert metrics["dead_channels"] >= last["dead"].sum()


def test_a_model_without_batch_norms_has_none_to_estimate(network: Path) -> None:
    told = r"vit_tiny_patch16_224 has no batch norms whose statistics change; leave out qat\.reestimation_batches"
    with pytest.raises(UserError, match=told):
        check_study("digits", [resolve(params.load(), run_of("lsq", "vit_dropout"))])


def test_statistics_that_cannot_be_estimated_are_named_with_their_layer(network: Path) -> None:
    model: Any = rebuilt(STUDENTS[0])
    model.bn2 = torch.nn.SyncBatchNorm(1280)
    told = "mobilenetv2_035: bn2 keeps running statistics in a SyncBatchNorm, which is not supported; .*; leave out qat"
    with pytest.raises(UserError, match=told):
        student.check_norms(model, resolve(params.load(), STUDENTS[0]))


def test_of_a_finished_student_a_probe_tells_all_but_coupling(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = STUDENTS[0]
    before = contents(run)
    run_probe(run, resolve(params.load(), run), steps=4)
    probe = json.loads((run.files.root / "probe-4.json").read_text())
    assert probe["coupling"] == [] and set(probe["groups"]) == {"depthwise", "pointwise"}
    assert sum(probe["boundary"]["weight_steps"]) == 4 * probe["all"]["weights"]
    assert "query" not in capsys.readouterr().out and contents(run) == before


def test_streamed_and_mixed_images_come_in_the_order_in_which_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain_folders(tmp_path / "photos")
    content = settings(tmp_path)
    content["models"][MODEL] = {"timm": "mobilenetv2_035"}
    content["studies"]["photos"] |= {"models": [MODEL], "variants": ["lsq"]}
    recipe = content["recipes"]["photos"]
    recipe["qat"] = recipe["qat"] | {"mixup": 0.8, "cutmix": 1.0}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    prepare("photos", params.load().studies["photos"].data)
    run = Run("photos", MODEL, "w2a2", "lsq", 0)
    train(run.teacher)
    train(run)
    plain = contents(run)
    edit(lambda content: content["recipes"]["photos"]["qat"].update(reestimation_batches=2))
    train(run)
    assert contents(run)["model.safetensors"] == plain["model.safetensors"]
    assert "top1_reestimated" in json.loads(contents(run)["metrics.json"])
    check_killed(run, 4)
