"""The training loop: same seed same numbers, exact resume, a passive meter, clear ends."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.recipes import TrainingRecipe
from ofq.config.resolve import Keeping, QatConfig, resolve
from ofq.config.settings import RemedySettings
from ofq.data import batches
from ofq.data.prepare import prepare
from ofq.errors import UserError
from ofq.models.weights import load_weights
from ofq.oscillation.recorder import OscillationRecorder
from ofq.quant import calibrate
from ofq.runs import checkpoint
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from ofq.training.anneal import run_cga
from ofq.training.continued import last_state
from ofq.training.loop import evaluate
from ofq.training.optim import make_optimizer, make_schedule
from ofq.training.qat import run_qat
from ofq.training.student import load_teacher, loss_from, make_student
from ofq.training.teacher import run_teacher
from tests.conftest import ROOT, SMALL
from tests.training.jobs import job_of

TEACHER = Run("digits", "vit_micro", "fp", "teacher", 0)
STATSQ = Run("digits", "vit_micro", "w2a2", "statsq", 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with parameters, data, a teacher and finished runs of both kinds of attention."""
    root = tmp_path_factory.mktemp("trained")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = SMALL
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        loaded = params.load()
        prepare("digits", loaded.studies["digits"].data)
        run_teacher(TEACHER, resolve(loaded, TEACHER))
        for variant in ("statsq", "statsq-qkr", "lsq"):
            run_qat(STATSQ.sibling(variant), resolve(loaded, STATSQ.sibling(variant)))
    return root


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    monkeypatch.chdir(trained)
    return params.load()


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
        patch.setattr(batches, "load", lambda *_: broken)
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


STUBBORN = """
import torch
from ofq.remedies import Remedy

class Stubborn(Remedy):
    def __init__(self, model, steps):
        self.first = {}

    def round_with(self, quantizer, u, step):
        return self.first.setdefault(quantizer, torch.clamp(u.round(), *quantizer.levels()))
"""


def test_codes_that_a_remedy_holds_do_not_oscillate(here: params.Params) -> None:
    lsq = STATSQ.sibling("lsq")
    assert read_json(lsq.files.metrics)["reversals"] > 0
    Path("stubborn.py").write_text(STUBBORN)
    config, held = resolve(here, lsq), lsq.sibling("stubborn")
    run_qat(held, config.model_copy(update={"remedy": RemedySettings(name="stubborn:Stubborn")}))
    metrics = read_json(held.files.metrics)
    assert metrics["reversals"] == metrics["osc_share"] == 0
    assert metrics["loss"] != read_json(lsq.files.metrics)["loss"]


SLIPS = {
    "metrics": [
        ('{"calm/x": float("nan")}', "metrics() of Slip returned nan as calm/x at step 2; it should be finite"),
        ('{"calm/x": 1.0, "calm/y": -float("inf")}', "metrics() of Slip returned -inf as calm/y at step 2"),
        (
            '{"calm/x": torch.ones(())}',
            "metrics() of Slip returned a Tensor as calm/x at step 2; it should be a number",
        ),
        ('{"calm/x": "much"}', "metrics() of Slip returned a str as calm/x at step 2"),
        ('{"calm/x": None}', "metrics() of Slip returned a NoneType as calm/x at step 2"),
        ('{"calm/x": True}', "metrics() of Slip returned a bool as calm/x at step 2"),
        ("None", "metrics() of Slip returned a NoneType at step 2; it should be numbers by name"),
        ("[0.5]", "metrics() of Slip returned a list at step 2"),
        ('{"val/top1": 99.0}', "metrics() of Slip returned val/top1 at step 2, which has another meaning"),
        ('{"osc/share": 0.0}', "metrics() of Slip returned osc/share at step 2, which has another meaning"),
        ('{"step": 7}', "metrics() of Slip returned step at step 2, which has another meaning"),
        ('{"event": 7}', "metrics() of Slip returned event at step 2"),
        ('{"calm/%": 7}', "metrics() of Slip returned the name 'calm/%' at step 2; it should be group/name"),
        ("{3: 7}", "metrics() of Slip returned the name 3 at step 2"),
    ],
    "loss": [
        ('self.weight.sum() * float("nan")', "loss() of Slip returned nan at step 1; it should be finite"),
        ('self.weight.sum().abs() * float("inf")', "loss() of Slip returned inf at step 1"),
    ],
    "state_dict": [
        ('{"f": lambda: 0}', "state_dict() of Slip returned an entry ['f'] of type function; it should hold tensors"),
        ('{"a": [1, {"b": self}]}', "state_dict() of Slip returned an entry ['a'][1]['b'] of type Slip"),
        ('{"a": numpy.float64(1)}', "state_dict() of Slip returned an entry ['a'] of type float64"),
        ("None", "state_dict() of Slip returned a NoneType"),
        ('{"a": torch.ones(2)}', "Slip has a state_dict() and no load_state_dict(state)"),
    ],
}


@pytest.mark.parametrize(
    ("method", "returned", "message"), [(method, *case) for method, cases in SLIPS.items() for case in cases]
)
def test_what_a_remedy_should_not_return_is_one_line(
    here: params.Params, method: str, returned: str, message: str
) -> None:
    name = f"slip_{hashlib.sha256((method + returned).encode()).hexdigest()[:8]}"
    Path(f"{name}.py").write_text(
        "import numpy, torch\nfrom ofq.remedies import Remedy, governed_layers\n\n"
        "class Slip(Remedy):\n    def __init__(self, model, steps):\n"
        "        self.weight = next(iter(governed_layers(model).values())).weight\n\n"
        f"    def {method}(self):\n        return {returned}\n"
    )
    with pytest.raises(UserError) as caught:
        run_qat(STATSQ.sibling(name), with_remedy(here, f"{name}:Slip"))
    assert message in str(caught.value)


def with_remedy(loaded: params.Params, name: str, **arguments: bool) -> QatConfig:
    config = resolve(loaded, STATSQ)
    assert isinstance(config, QatConfig)
    return config.model_copy(update={"remedy": RemedySettings(name=name, arguments=arguments)})


COUNTING = """
import numpy
from ofq.remedies import Remedy

class Counting(Remedy):
    def __init__(self, model, steps, *, ends: bool):
        self.calls, self.ends = 0, ends

    def metrics(self):
        self.calls += 1
        last = float("nan") if self.ends and self.calls == 3 else numpy.float32(0.5)
        return {"good/whole": numpy.int64(3), "good/half": last, "good": 1}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        raise KeyError("old")
"""


def test_numbers_of_numpy_are_numbers_and_a_state_that_does_not_fit_is_one_line(here: params.Params) -> None:
    Path("counting.py").write_text(COUNTING)
    run, broken = STATSQ.sibling("counting"), STATSQ.sibling("broken")
    run_qat(run, with_remedy(here, "counting:Counting", ends=False))
    last = step_events(run)[-1]
    assert (last["good/whole"], last["good/half"], last["good"]) == (3, 0.5, 1)
    for message in ("nan as good/half at step 6", r"load_state_dict\(\) of Counting does not take .*KeyError: 'old'"):
        with pytest.raises(UserError, match=message):
            run_qat(broken, with_remedy(here, "counting:Counting", ends=True), Keeping(checkpoint_seconds=0))


SINKING = """
import torch
from ofq.remedies import Remedy

class Sinking(Remedy):
    def __init__(self, model, steps):
        self.layer = model.blocks[0].mlp.fc1
        self.others = model.blocks[0].mlp.fc2, model.blocks[0].attn.proj

    @torch.no_grad()
    def after_update(self, lr):
        self.layer.weight_quantizer.scale[:16] = -0.01
        self.layer.input_quantizer.scale[3] = 0.0
        for layer in self.others:
            layer.weight_quantizer.scale[0] = 0.0
"""


def test_steps_below_their_floor_are_told_and_files_hold_what_acts(
    here: params.Params, caplog: pytest.LogCaptureFixture
) -> None:
    """The model's file computes what the run measured; annealing goes on from what the optimizer moved."""
    lsq, run = STATSQ.sibling("lsq"), STATSQ.sibling("sinking")
    config = resolve(here, lsq)
    Path("sinking.py").write_text(SINKING)
    run_qat(run, config.model_copy(update={"remedy": RemedySettings(name="sinking:Sinking")}))
    weight, put_in = "blocks.0.mlp.fc1.weight_quantizer.scale", "blocks.0.mlp.fc1.input_quantizer.scale"
    told = [record.getMessage() for record in caplog.records if "ended below 1e-05" in record.getMessage()]
    noted = read_json(run.files.info)["steps_below_floor"]
    low = {name: share for name, share in noted.items() if share}
    assert len(told) == 1 and f": 25.0 % of {weight}, 6.2 % of {put_in}, " in told[0] and " and 1 more; " in told[0]
    assert len(low) == 4 and (low[weight], low[put_in]) == (0.25, 1 / 16)
    published = load_file(run.files.model)
    floor = torch.tensor(1e-5)
    assert (published[weight][:16] == floor).all() and (published[weight][16:] > floor).all()
    assert published[put_in][3] == floor
    with job_of(run, config) as job:
        student = make_student(job)
        load_weights(student, run.files.model)
        assert evaluate(student, job.data)[1] == read_json(run.files.metrics)["loss"]
        continued = last_state(job, run)[0]
        assert (continued.get_parameter(weight)[:16] == torch.tensor(-0.01)).all()
        assert continued.get_parameter(put_in)[3] == 0
        assert evaluate(continued, job.data)[1] == read_json(run.files.metrics)["loss"]
    steps = checkpoint.load(run.files.trainer)["steps"]
    assert steps.keys() == noted.keys() == {name for name in published if name.endswith("scale")}
    assert all(torch.equal(published[name], scale.clamp_min(1e-5)) for name, scale in steps.items())


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


def step_events(run: Run) -> list[dict[str, float]]:
    events = [json.loads(line) for line in run.files.events.read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_the_best_accuracy_of_a_run_is_that_of_its_evaluations(here: params.Params) -> None:
    metrics = read_json(STATSQ.files.metrics)
    assert metrics["top1_best"] == max(event["val/top1"] for event in step_events(STATSQ))
    assert metrics["top1_best"] >= metrics["top1"]
