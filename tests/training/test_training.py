"""The training loop: same seed same numbers, exact resume, a passive meter, clear ends."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from ofq.config import params
from ofq.config.recipes import TrainingRecipe
from ofq.config.resolve import resolve
from ofq.data import batches
from ofq.errors import UserError
from ofq.models.weights import load_weights
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant import calibrate
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from ofq.training.anneal import run_cga
from ofq.training.distributed import Rank
from ofq.training.optim import make_optimizer, make_schedule
from ofq.training.qat import run_qat
from ofq.training.student import load_teacher, loss_from, make_student
from ofq.training.teacher import run_teacher
from tests.training.jobs import job_of
from tests.training.trained import STATSQ, TEACHER, step_events


def test_the_meter_does_not_alter_training(here: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = STATSQ.files.model.read_bytes()
    monkeypatch.setattr(OscillationRecorder, "before_update", lambda self, lr: None)
    monkeypatch.setattr(OscillationRecorder, "metrics", lambda self: {})
    monkeypatch.setattr(OscillationRecorder, "finish", lambda self: {})
    monkeypatch.setattr("ofq.oscillation.recorder.record_codes", lambda model: None)
    run_qat(STATSQ, resolve(here, STATSQ))
    unmeasured = STATSQ.files.model.read_bytes()
    monkeypatch.undo()
    assert unmeasured == measured


def test_annealing_holds_q_and_k_still_and_goes_on_from_its_parent(here: params.Params) -> None:
    run = STATSQ.sibling("statsq-qkr-cga")
    run_cga(run, resolve(here, run))
    parent, annealed = load_file(STATSQ.sibling("statsq-qkr").files.model), load_file(run.files.model)
    frozen = [name for name in parent if name.endswith(("attn.q.weight", "attn.k.weight"))]
    assert len(frozen) == 4
    assert all(torch.equal(parent[name], annealed[name]) for name in frozen)
    assert not torch.equal(parent["head.weight"], annealed["head.weight"])
    moved = (parent["blocks.0.mlp.fc1.weight"] != annealed["blocks.0.mlp.fc1.weight"]).float().mean()
    assert 0 < moved < 0.1


def test_the_student_starts_from_every_weight_and_bias_of_the_teacher(here: params.Params) -> None:
    teacher = load_file(TEACHER.files.model)
    with job_of(STATSQ) as job:
        student = make_student(job).state_dict()
    assert all(torch.equal(student[name], value) for name, value in teacher.items())


def test_a_loss_that_is_not_finite_ends_the_run_with_a_clear_message(here: params.Params) -> None:
    config = resolve(here, TEACHER)
    hot = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1.0, "min_lr": 1.0, "warmup": 0.0})})
    broken = replace(batches.load("digits"), mean=torch.full((1, 1, 1, 1), float("nan")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "load", lambda *_, **__: broken)
        with pytest.raises(UserError, match=r"fp teacher s0: the loss is nan before step 2; lower lr"):
            run_teacher(TEACHER, hot)


def test_a_truncated_model_is_named(here: params.Params, tmp_path: Path) -> None:
    from ofq.models.backbone import build

    config = resolve(here, TEACHER)
    model = build(config.model, image_size=(8, 8), channels=1, classes=10, seed=0)
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(TEACHER.files.model.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_weights(model, damaged)
    with pytest.raises(UserError, match=r"nothing\.safetensors does not exist; make it with: snakemake"):
        load_weights(model, tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="belongs to another model"):
        load_weights(build(config.model, image_size=(8, 8), channels=3, classes=10, seed=0), TEACHER.files.model)


def test_the_schedule_warms_up_falls_and_stays() -> None:
    phase = TrainingRecipe(lr=1.0, min_lr=0.1, batch_size=1, steps=100, warmup=0.1, constant_steps=20)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), phase)
    schedule = make_schedule(optimizer, phase)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] < 1e-5 and max(rates) == pytest.approx(rates[10]) and rates[10] > 0.95
    assert all(rate == 0.1 for rate in rates[80:])
    assert rates[79] > 0.1


def test_weight_decay_spares_vectors_tokens_and_quantizer_parameters(here: params.Params) -> None:
    with job_of(STATSQ) as job:
        student = make_student(job)
        calibrate(student, [job.batch(0).images])
        optimizer = make_optimizer(student, job.config.train)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {"patch_embed.proj.weight", "head.weight", "blocks.0.attn.qkv.weight"} <= decayed
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)


def test_run_json_says_what_a_number_came_from(here: params.Params) -> None:
    info = read_json(STATSQ.files.info)
    assert info["config"]["quantization"]["weight"] == "statsq"
    read = {"results/digits/data/manifest.json", *map(str, TEACHER.files.taught)}
    assert set(info["digests"]["inputs"]) == read
    events = [json.loads(line) for line in STATSQ.files.events.read_text().splitlines()]
    assert events[0]["config"] == info["config"]


@pytest.mark.parametrize(("qkr", "drawn"), [(False, {"qkv", "proj"}), (True, {"proj"})])
def test_the_released_start_draws_attention_anew(here: params.Params, qkr: bool, drawn: set[str]) -> None:
    run = STATSQ.sibling("statsq-qkr" if qkr else "statsq")
    states = []
    for start in (None, "random"):
        with job_of(run, resolve(here, run).model_copy(update={"attention_init": start})) as job:
            states.append(make_student(job).state_dict())
    kept, random = states
    different = {name for name, value in kept.items() if not torch.equal(value, random[name])}
    assert {name.split(".")[-2] for name in different} == drawn
    assert {name.split(".")[-1] for name in different} == {"weight", "bias"}


def test_a_teacher_in_training_mode_teaches_with_its_class_head_alone(
    here: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_heads = params.Params.model_validate(yaml.safe_load(Path("params.yaml").read_text()))
    teacher = Run("digits", "vit_micro_distilled", "fp", "teacher", 0)
    run_teacher(teacher, resolve(two_heads, teacher))
    run = Run("digits", "vit_micro_distilled", "w2a2", "statsq-qkr-teacher-train", 0)
    released, described = resolve(two_heads, run), resolve(two_heads, run.sibling("statsq-qkr"))
    with job_of(run, released) as job:
        images = job.batch(0).images
        class_logits, distillation_logits = load_teacher(job)(images)
    with job_of(run, described) as job:
        mean = load_teacher(job)(images)
    torch.testing.assert_close(mean, (class_logits + distillation_logits) / 2)
    assert not torch.equal(class_logits, distillation_logits)

    taught = []
    monkeypatch.setattr(
        "ofq.training.student.distillation_loss",
        lambda student, logits, labels: taught.append(logits) or student[0].sum(),
    )
    for config in (released, described):
        with job_of(run, config) as job:
            student = make_student(job)
            calibrate(student, [images])
            loss_from(job, student)(job.batch(0))
    assert isinstance(taught[0], tuple) and isinstance(taught[1], torch.Tensor)


@pytest.mark.parametrize("variant", ["statsq-qkr-extra", "statsq-qkr-frozen", "statsq-qkr-cga"])
def test_annealing_and_its_controls_say_step_by_step_what_was_free(here: params.Params, variant: str) -> None:
    run = STATSQ.sibling(variant)
    run_cga(run, resolve(here, run))
    trace = pd.read_parquet(run.files.annealing)
    layers = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert list(trace["layer"].unique()) == layers and list(trace["step"].unique()) == list(range(1, 13))
    share = trace["free"].sum() / trace["weights"].sum()
    assert share == {"statsq-qkr-extra": 1, "statsq-qkr-frozen": 0}.get(variant, share)
    if variant == "statsq-qkr-cga":
        assert 0 < share < 0.1
    # Nothing moves where everything is frozen: then the statistical steps stand still too.
    assert (trace.groupby("layer")["scale"].nunique() == 1).all() == (variant == "statsq-qkr-frozen")


def test_a_model_whose_weights_get_no_gradient_is_not_trained(
    here: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    combine = Rank.combine

    def without(rank: Rank, model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
        for name, each in model.named_parameters():
            if name.endswith("weight") and each.ndim > 1 and each.grad is not None:
                each.grad.zero_()
        return combine(rank, model, loss)

    monkeypatch.setattr(Rank, "combine", without)
    with pytest.raises(UserError, match=r"fp other s0: the gradient of every weight is 0, .* hardware\.compile"):
        run_teacher(TEACHER.sibling("other"), resolve(here, TEACHER))


def test_an_evaluation_loss_that_is_not_finite_is_named(here: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofq.training.loop.evaluate", lambda *arguments: (50.0, float("nan")))
    with pytest.raises(UserError, match="loss on the evaluation images is nan at step 2; lower lr"):
        run_teacher(TEACHER.sibling("other"), resolve(here, TEACHER))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_stored_output_of_a_teacher_that_is_not_finite_is_named(
    here: params.Params, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr("ofq.training.student.load_file", lambda path: {"train": torch.full((13200, 10), value)})
    with job_of(STATSQ) as job, pytest.raises(UserError, match=r"logits\.safetensors holds values that are not finite"):
        loss_from(job, torch.nn.Identity())


def test_a_recipe_says_how_often_a_run_is_evaluated(here: params.Params) -> None:
    assert len(step_events(STATSQ)) == 12
    config = resolve(here, STATSQ)
    seldom = config.model_copy(update={"train": config.train.model_copy(update={"evaluations": 4})})
    other = STATSQ.sibling("seldom")
    run_qat(other, seldom)
    assert [event["step"] for event in step_events(other)] == [6, 12, 18, 24]
    assert set(pd.read_parquet(other.files.oscillation)["step"]) == {0, 6, 12, 18, 24}
    assert read_json(other.files.info)["config"]["train"]["evaluations"] == 4
    assert read_json(other.files.metrics)["top1"] == read_json(STATSQ.files.metrics)["top1"], "it changes no number"


def test_the_best_accuracy_of_a_run_is_that_of_its_evaluations(here: params.Params) -> None:
    metrics = read_json(STATSQ.files.metrics)
    assert metrics["top1_best"] == max(event["val/top1"] for event in step_events(STATSQ))
    assert metrics["top1_best"] >= metrics["top1"]
