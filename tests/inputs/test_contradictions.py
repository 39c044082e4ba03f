"""Settings that are right by themselves and contradict each other: one line that names the place."""

import re
from pathlib import Path
from typing import Any

import pytest

from ofq.config import params
from ofq.config.resolve import resolve
from ofq.errors import UserError
from ofq.runs.paths import Run
from ofq.workflow.targets import RULES
from tests.conftest import ROOT
from tests.inputs.settings import ABSENT, Place, changed
from tests.inputs.test_fields import refusal

PLAIN, RATES = ("studies", "plain"), ("studies", "rates")
GROUP = (*PLAIN, "groups", "further")
SWEEP = (*RATES, "sweep_lr")
RECIPE = ("recipes", "short")
LONG = ("recipes", "long")
TEACHER, QAT = (*RECIPE, "teacher"), (*RECIPE, "qat")
HARDWARE = (*PLAIN, "hardware")
STATSQ, CGA = ("variants", "statsq"), ("variants", "statsq-cga")
MODEL: dict[str, Any] = {"timm": "vit_tiny_patch16_224"}

CONTRADICTIONS: list[tuple[dict[Place, Any], str]] = [
    # bits, ranges
    ({(*PLAIN, "bits"): ["w0a2"]}, "studies.plain.bits.0: String should match pattern '^w[2-8]a([2-8]|32)$', not 'w0a2'"),
    ({(*PLAIN, "bits"): ["w2a9"]}, "studies.plain.bits.0: String should match"),
    ({(*PLAIN, "bits"): ["w2a2", "w1a1"]}, "studies.plain.bits.1: String should match"),
    ({(*PLAIN, "bits"): ["w32a2"]}, "studies.plain.bits.0: String should match"),
    ({(*PLAIN, "bits"): ["w3a16"]}, "studies.plain.bits.0: String should match"),
    ({(*PLAIN, "bits"): ["fp"]}, "studies.plain.bits.0: String should match"),
    ({(*PLAIN, "bits"): [2]}, "studies.plain.bits.0: Input should be a valid string, not 2"),
    ({(*CGA, "cga"): {"boundary_range": 0.7}}, "variants.statsq-cga.cga.boundary_range: Input should be less than 0.5"),
    ({(*CGA, "cga"): {"boundary_range": 0.5}}, "should be less than 0.5, not 0.5"),
    ({(*CGA, "cga"): {"boundary_range": -0.1}}, "should be greater than or equal to 0"),
    ({(*CGA, "cga"): {}}, "variants.statsq-cga.cga: boundary_range is missing"),
    # what continues what
    ({(*STATSQ, "cga"): {"boundary_range": 0.1}}, "variants.statsq: cga needs a parent"),
    ({(*CGA, "cga"): ABSENT}, "variants.statsq-cga: parent without cga"),
    ({(*CGA, "parent"): ABSENT}, "variants.statsq-cga: weight is missing"),
    ({(*CGA, "cga"): {"frozen": "everything", "boundary_range": 0.1}}, "mean nothing where everything is frozen"),
    ({(*CGA, "weight"): "lsq"}, "variants.statsq-cga: weight of an annealed variant comes from its parent"),
    ({(*CGA, "learn_step"): False}, "variants.statsq-cga: learn_step of an annealed variant comes from its parent"),
    ({(*STATSQ, "clipped_gradient"): "identity"}, "variants.statsq: clipped_gradient is a switch of lsq"),
    ({(*CGA, "qkr"): True}, "of an annealed variant comes from its parent"),
    ({(*CGA, "fidelity"): "as_released"}, "of an annealed variant comes from its parent"),
    ({(*CGA, "parent"): "statsq-cga"}, "variants.statsq-cga.parent: 'statsq-cga' is itself annealed"),
    ({(*CGA, "parent"): "statq"}, "variants.statsq-cga.parent: unknown variant 'statq'; did you mean 'statsq'?"),
    ({(*CGA, "parent"): "teacher"}, "variants.statsq-cga.parent: unknown variant 'teacher'"),
    ({(*STATSQ, "weight"): ABSENT}, "variants.statsq: weight is missing"),
    ({STATSQ: {"qkr": True}}, "variants.statsq: weight is missing"),
    ({STATSQ: {}}, "variants.statsq: weight is missing"),
    # remedies
    ({(*CGA, "remedy"): {"name": "dampening"}}, "variants.statsq-cga: remedy acts during quantization-aware training"),
    ({(*STATSQ, "remedy"): {"name": "dampenig"}}, "variants.statsq.remedy.name: unknown remedy 'dampenig'; did you mean 'dampening'?"),
    ({(*STATSQ, "remedy"): {"name": "calm:"}}, "variants.statsq.remedy.name: 'calm:' should be module:Class"),
    ({(*STATSQ, "remedy"): {"name": "../calm:Calm"}}, "should be module:Class"),
    ({(*STATSQ, "remedy"): {"name": "calm:Calm"}}, "no module 'calm' here; it should be the file calm.py"),
    # augmentation
    ({(*RECIPE, "teacher_once"): True}, "recipes.short: qat.augment changes the images at every step, and the teacher's output is stored for unchanged ones: write teacher_once: false"),
    ({(*RECIPE, "teacher_once"): ABSENT}, "recipes.short: qat.augment changes the images at every step"),
    ({(*QAT, "augment", "crop"): -1}, "recipes.short.qat.augment.crop: Input should be greater than or equal to 0, not -1"),
    ({(*QAT, "augment"): {"flop": True}}, "recipes.short.qat.augment: unknown key 'flop'; did you mean 'flip'?"),
    ({(*QAT, "augment", "scale"): [0.08, 1.0]}, "recipes.short.qat.augment: crop and cutout should not stand beside scale, policy, jitter or erasing"),
    ({(*QAT, "augment"): {"scale": [1.0, 0.08]}}, "recipes.short.qat.augment: scale [1.0, 0.08] should begin with the lower share"),
    ({(*QAT, "augment"): {"scale": [0.08]}}, "recipes.short.qat.augment.scale: Tuple should have at least 2 items"),
    ({(*QAT, "augment"): {"policy": "rand-m9-mstd"}}, "recipes.short.qat.augment.policy: String should match pattern"),
    ({(*QAT, "augment"): ABSENT, (*QAT, "mixup"): 0.8, (*RECIPE, "teacher_once"): True}, "recipes.short: qat.mixup changes the images at every step, and the teacher's output is stored"),
    ({(*QAT, "augment"): ABSENT, (*QAT, "cutmix"): 1.0, (*RECIPE, "teacher_once"): ABSENT}, "recipes.short: qat.cutmix changes the images at every step"),
    ({(*QAT, "smoothing"): 0.1}, "recipes.short.qat: smoothing should be left out where images are not mixed"),
    ({(*QAT, "mixup"): 0.8, (*QAT, "batch_size"): 15}, "recipes.short.qat: batch_size 15 should be even"),
    # schedules
    ({(*QAT, "min_lr"): 0.5}, "recipes.short.qat: min_lr 0.5 is above lr"),
    ({(*QAT, "momentum"): 0.9}, "recipes.short.qat: momentum should be left out: it belongs to optimizer: sgd"),
    ({(*QAT, "quantizer_lr"): 1e-5}, "recipes.short.qat: quantizer_lr should be left out: it belongs to optimizer: sgd"),
    ({(*QAT, "optimizer"): "sgd"}, "recipes.short.qat: weight_decay is missing: sgd has no default; 2.5e-5 is that of"),
    ({(*QAT, "optimizer"): "adam"}, "recipes.short.qat.optimizer: Input should be 'adamw' or 'sgd', not 'adam'"),
    ({(*QAT, "min_lr"): 0.0}, "recipes.short: cga.lr is missing: qat ends at a rate of 0"),
    ({(*QAT, "min_lr"): 0.0, (*QAT, "constant_steps"): 1}, "recipes.short.qat: min_lr 0 leaves constant steps in which"),
    ({(*RECIPE, "distillation"): False}, "recipes.short: teacher_once should be left out: without distillation the"),
    ({(*TEACHER, "warmup"): 0.9, (*TEACHER, "constant_steps"): 1}, "recipes.short.teacher: constant_steps and warmup leave no step"),
    ({(*QAT, "constant_steps"): 4}, "recipes.short.qat: constant_steps and warmup leave no step"),
    ({(*QAT, "constant_steps"): 5}, "leave no step"),
    ({(*QAT, "warmup"): 1.0}, "recipes.short.qat.warmup: Input should be less than 1"),
    ({(*QAT, "steps"): ABSENT}, "recipes.short.qat: steps or epochs should be given, one of the two"),
    ({(*QAT, "epochs"): 3}, "recipes.short.qat: steps or epochs should be given, one of the two"),
    ({(*QAT, "warmup_epochs"): 1}, "recipes.short.qat: warmup_epochs should be left out of a recipe in steps"),
    ({(*QAT, "evaluate_every"): 2}, "recipes.short.qat: evaluate_every should be left out of a recipe in steps"),
    ({(*LONG, "qat", "warmup"): 0.1}, "recipes.long.qat: warmup should be left out of a recipe in epochs"),
    ({(*LONG, "qat", "constant_steps"): 1}, "recipes.long.qat: constant_steps should be left out of a recipe in epochs"),
    ({(*LONG, "qat", "evaluations"): 3}, "recipes.long.qat: evaluations should be left out of a recipe in epochs"),
    ({(*LONG, "qat", "constant_epochs"): 3}, "recipes.long.qat: constant_epochs and warmup_epochs leave no epoch"),
    ({(*LONG, "cga"): {"steps": 1}}, "recipes.long: cga should be given in epochs alone, as qat is"),
    ({(*LONG, "cga"): {}}, "recipes.long: cga should be given in epochs alone"),
    ({(*RECIPE, "cga", "epochs"): 1}, "recipes.short: cga should be given in steps alone, as qat is"),
    # weights from elsewhere, and recipes by place
    ({(*LONG, "teacher", "pretrained"): False}, "recipes.long.teacher.pretrained: pretrained should be true, or the name of a file"),
    ({(*LONG, "teacher", "pretrained"): ""}, "recipes.long.teacher.pretrained: pretrained should be true"),
    ({(*LONG, "teacher", "lr"): 0.1}, "recipes.long.teacher: unknown key 'lr'; known: pretrained"),
    ({(*PLAIN, "recipe_for"): {"vit/w2a2": "shirt"}}, "studies.plain.recipe_for: unknown recipe 'shirt'; did you mean 'short'?"),
    ({(*PLAIN, "recipe_for"): {"vit/w3a3": "long"}}, "studies.plain.recipe_for: unknown model and bits of the study 'vit/w3a3'; did you mean 'vit/w2a2'?"),
    ({(*PLAIN, "recipe_for"): {"vit": "long"}}, "studies.plain.recipe_for: unknown model and bits of the study 'vit'"),
    ({(*RATES, "recipe"): "long"}, "studies.rates.sweep_lr.teacher: recipe 'long' trains no teacher"),
    # hardware
    ({(*HARDWARE, "device"): "cpu"}, "studies.plain.hardware: precision tf32 needs device: cuda"),
    ({HARDWARE: {"precision": "bf16"}}, "studies.plain.hardware: precision bf16 needs device: cuda"),
    ({HARDWARE: {"runs_per_gpu": 2}}, "studies.plain.hardware: runs_per_gpu needs device: cuda"),
    ({HARDWARE: {"device": "cuda", "runs_per_gpu": 2, "devices": 2}}, "studies.plain.hardware: devices and runs_per_gpu: a run on several cards shares none; leave one"),
    ({HARDWARE: {"devices": 3}}, "studies.plain.hardware.devices: 3 cannot share batches of "),
    ({HARDWARE: {"devices": 2}, (*QAT, "batch_size"): 6, (*QAT, "mixup"): 0.8}, "devices: 2 cannot share batches of 6 equally, in pairs that are mixed"),
    ({HARDWARE: {"images_at_once": 0}}, "studies.plain.hardware.images_at_once: Input should be greater than 0"),
    ({(*HARDWARE, "precision"): "bfloat16"}, "studies.plain.hardware.precision: Input should be 'float32', 'tf32' or 'bf16', not 'bfloat16'"),
    ({(*HARDWARE, "gpu"): True}, "studies.plain.hardware: unknown key 'gpu'"),
    # names that lead nowhere
    ({("study",): "plane"}, "study: unknown study 'plane'; did you mean 'plain'?"),
    ({("studies",): {}}, "study: unknown study 'plain'; known: none"),
    ({(*PLAIN, "recipe"): "shirt"}, "studies.plain.recipe: unknown recipe 'shirt'; did you mean 'short'?"),
    ({("recipes",): {}}, "studies.plain.recipe: unknown recipe 'short'; known: none"),
    ({(*PLAIN, "models"): ["vit", "vat"]}, "studies.plain.models: unknown model 'vat'; did you mean 'vit'?"),
    ({("models",): {}}, "studies.plain.models: unknown model 'vit'; known: none"),
    ({(*PLAIN, "variants"): ["statsk"]}, "studies.plain.variants: unknown variant 'statsk'; did you mean 'statsq'?"),
    ({("variants",): {}}, "unknown variant 'statsq'; known: none"),
    # twice
    ({(*PLAIN, "seeds"): [0, 1, 0]}, "studies.plain.seeds: named twice: 0"),
    ({(*PLAIN, "models"): ["vit", "vit"]}, "studies.plain.models: named twice: vit"),
    ({(*PLAIN, "bits"): ["w2a2", "w2a2"]}, "studies.plain.bits: named twice: w2a2"),
    ({(*PLAIN, "variants"): ["statsq", "statsq"]}, "studies.plain.variants: named twice: statsq"),
    ({(*SWEEP, "qat"): [1e-3, 0.001]}, "studies.rates.sweep_lr.qat: named twice: 0.001"),
    # seeds
    ({(*PLAIN, "seeds"): [2**31]}, "studies.plain.seeds.0: Input should be less than 2147483648"),
    ({(*PLAIN, "seeds"): [0.0]}, "studies.plain.seeds.0: Input should be a valid integer, not 0.0"),
    ({(*PLAIN, "seeds"): [True]}, "studies.plain.seeds.0: Input should be a valid integer, not True"),
    ({(*PLAIN, "seeds"): 3}, "studies.plain.seeds: Input should be a valid list, not 3"),
    # further grids
    ({GROUP: {"variants": ["statsk"]}}, "studies.plain.groups.further.variants: unknown variant 'statsk'; did you mean 'statsq'?"),
    ({(*GROUP, "models"): ["vat"]}, "studies.plain.groups.further.models: unknown model 'vat'; did you mean 'vit'?"),
    ({(*GROUP, "seeds"): [1, 1]}, "studies.plain.groups.further.seeds: named twice: 1"),
    ({(*GROUP, "compare"): [["statsq", "lsq"]]}, "compare: unknown variant of the grid 'lsq'"),
    ({(*GROUP, "compare"): [["statsq"]]}, "studies.plain.groups.further.compare.0: List should have at least 2 items"),
    ({(*GROUP, "compare"): [["statsq", "statsq"]]}, "compare: 'statsq' with itself is no comparison"),
    ({(*GROUP, "curve"): ["statsq"]}, "studies.plain.groups.further: curve: a curve needs two variants at least"),
    ({(*GROUP, "curve"): ["statsq", "statsk"]}, "studies.plain.groups.further: curve: unknown variant of the grid 'statsk'"),
    ({(*GROUP, "curve"): ["statsq", "statsq"]}, "studies.plain.groups.further.curve: named twice: statsq"),
    ({GROUP: {"variants": ["statsq", "statsq-cga"], "curve": ["statsq", "statsq-cga"]}}, "groups.further.curve: 'statsq-cga' is annealed: leave it out"),
    ({("variants", "lsq"): {"weight": "lsq"}, GROUP: {"variants": ["statsq", "lsq"], "curve": ["statsq", "lsq"]}}, "groups.further.curve: the steps of 'lsq' learn: leave it out"),
    ({GROUP: {"variants": ["statsq-cga"], "measure": ["noise"]}}, "groups.further.measure: annealed variants are not measured, and there is no other"),
    ({("studies", "plain-further"): {**changed({})["studies"]["plain"]}, GROUP: {"variants": ["statsq"]}}, "studies.plain.groups: 'further' would be asked for as plain-further, which is a study"),
    ({(*PLAIN, "groups"): {"claims.md": {"variants": ["statsq"]}}}, "'claims.md' is a reserved name, or a study's"),
    ({(*PLAIN, "compare"): [["statsq", "lsq"]]}, "studies.plain: compare: unknown variant of the grid 'lsq'"),
    ({(*PLAIN, "groups"): {"rates": {"variants": ["statsq"]}}}, "groups.rates: 'rates' is a reserved name, or a study's"),
    ({(*PLAIN, "groups"): {"all": {"variants": ["statsq"]}}}, "groups.all: 'all' is a reserved name, or a study's"),
    ({(*RATES, "measure"): ["noise"]}, "studies.rates: groups, compare, measure and curve mean nothing beside sweep_lr"),
    ({(*PLAIN, "learning_rates"): "plain"}, "studies.plain.learning_rates: unknown study with sweep_lr 'plain'"),
    # learning rates to compare
    ({(*SWEEP, "qat"): [1.23456789e-3]}, "studies.rates.sweep_lr.qat: 0.00123456789 should have at most six digits"),
    ({SWEEP: {}}, "studies.rates: sweep_lr should name learning rates"),
    ({(*SWEEP, "qat"): []}, "studies.rates: sweep_lr.qat and quantized variants need each other"),
    ({(*RATES, "variants"): ["teacher"]}, "studies.rates: sweep_lr.qat and quantized variants need each other"),
    ({(*RATES, "variants"): ["statsq"]}, "studies.rates: sweep_lr.teacher needs `teacher` among the study's variants"),
    ({(*RATES, "variants"): ["teacher", "statsq-cga"]}, "studies.rates.sweep_lr cannot try 'statsq-cga', an annealed variant"),
    ({("variants", "statsq-lr0.001"): {"weight": "lsq"}}, "studies.rates.sweep_lr makes a variant 'statsq-lr0.001'"),
    ({(*PLAIN, "variants"): ["teacher"]}, "studies.plain: variants should name a quantized one"),
    # statistics of batch norms
    ({(*TEACHER, "reestimation_batches"): 5, (*TEACHER, "steps"): 50}, "recipes.short: teacher.reestimation_batches should be left out: it is for qat"),
    ({(*QAT, "reestimation_batches"): 0}, "recipes.short.qat.reestimation_batches: Input should be greater than 0"),
    ({(*QAT, "reestimation_batches"): 5, (*QAT, "steps"): 50, (*QAT, "evaluations"): 4},
     "recipes.short.qat: reestimation_batches compares the last 5 evaluations, and there are 4: raise evaluations"),
    # names that stand for something else
    *(({("studies", name): {**changed({})["studies"]["plain"]}}, f"studies: '{name}' is a reserved name")
      for name in ("reference", "all", "data", "teacher", "qat", "cga", "probe", "noise", "toy", "toy_figure", "tables", "figures", "learning_rates", "claims", "everything", "track")),
    *(({("models", name): MODEL}, f"models: '{name}' is a reserved name") for name in ("data", "report", "mlflow.json")),
    ({("variants", "teacher"): {"weight": "lsq"}}, "variants: 'teacher' is a reserved name"),
    # what is not the user's to say
    *(({("models", "vit", "arguments"): {name: 1}}, f"models.vit.arguments: {name} should be left out")
      for name in ("img_size", "in_chans", "num_classes", "pretrained", "checkpoint_path")),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_a_contradiction_is_one_line_that_names_the_place(tmp_path: Path, changes: dict[Place, Any], said: str) -> None:
    assert said in refusal(tmp_path / "params.yaml", changed(changes))


def test_no_study_can_have_the_name_of_a_rule() -> None:
    text = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    rules = set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)", text, re.MULTILINE))
    assert {"data", "qat", "cga", "track", "all"} <= rules <= RULES


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain/vit/w3a3/statsq/seed0", "unknown bits of study 'plain': 'w3a3'; did you mean 'w2a2'?"),
        ("plain/vit/w3a3/statsq-cga/seed0", "unknown bits of study 'plain': 'w3a3'"),
        ("plain/vit/w2a2/statsq/seed2147483648", "is too large; it should be less than 2147483648"),
        ("plain/vit/fp/statsq/seed0", "unknown variant of study 'plain' at fp: 'statsq'; known: teacher"),
        ("plain/vit/w2a2/teacher/seed0", "unknown variant of study 'plain' at w2a2: 'teacher'"),
        ("rates/vit/w2a2/statsq/seed0", "did you mean 'statsq-lr0.0"),
        ("rates/vit/w2a2/statsq-lr1/seed0", "did you mean 'statsq-lr0.01'?"),
        ("rates/vit/fp/teacher-lr0.5/seed0", "did you mean 'teacher-lr0.0"),
    ],
)
def test_a_run_that_the_study_does_not_have_is_one_line(name: str, said: str) -> None:
    settings = params.Params.model_validate(changed({}))
    with pytest.raises(UserError) as error:
        resolve(settings, Run.named(name))
    assert said in str(error.value)


@pytest.mark.parametrize("seed", ["007", "00", "-1", "1.0", "1e3", "", "٣", "0x1", " 1", "1" * 40, "0\n"])
def test_a_run_has_one_name(seed: str) -> None:
    assert Run.parse(f"plain/vit/w2a2/statsq/seed{seed}") is None
    with pytest.raises(UserError, match="names no run; write study/model/bits/variant/seedN, N without leading zeros"):
        Run.named(f"plain/vit/w2a2/statsq/seed{seed}")
