"""params.yaml: what resolves to what, and one line for every mistake."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from ofq.config import params
from ofq.config.grid import Grid, all_runs, check_run
from ofq.config.quant_config import QuantConfig
from ofq.config.resolve import QatConfig, RunConfig, keeping, resolve
from ofq.config.timm_models import timm_models
from ofq.errors import UserError
from ofq.runs.paths import Run

ROOT = Path(__file__).resolve().parents[2]
PARAMS = params.load(ROOT / "params.yaml")


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_digits_is_the_whole_paper() -> None:
    runs = Grid(PARAMS, "digits").runs
    assert len(runs) == 3 * 6 * 3
    assert {run.variant for run in runs} == {"lsq", "lsq-midrise"} | {
        f"statsq{more}" for more in ("", "-qkr", "-cga", "-qkr-cga")
    }


def test_groups_stand_beside_the_main_grid_and_share_its_runs() -> None:
    main, controls = set(Grid(PARAMS, "digits").runs), Grid(PARAMS, "digits", "controls").runs
    assert main < set(controls) and {run.seed for run in controls} == {0, 1, 2, 3, 4}
    assert set(controls) < set(all_runs(PARAMS, "digits"))
    assert len(all_runs(PARAMS, "digits")) == len(set(all_runs(PARAMS, "digits")))
    swept = Grid(PARAMS, "digits", "boundary-range")
    assert {run.bits for run in swept.runs} == {"w2a2"}
    with pytest.raises(UserError, match="unknown group of study 'digits': 'control'; did you mean 'controls'"):
        Grid(PARAMS, "digits", "control")


def test_every_run_of_a_group_can_be_resolved_and_named() -> None:
    for study in PARAMS.studies:
        for run in all_runs(PARAMS, study):
            assert resolve(PARAMS, run).seed == run.seed
            assert Run.parse(str(run.files.metrics)) == run


def test_hardware_is_part_of_a_run_where_it_is_not_the_processor_and_how_many_share_a_card_never(
    tmp_path: Path,
) -> None:
    run = Run("digits", "vit_micro", "w2a2", "statsq", 0)
    plain = resolve(PARAMS, run)
    assert "hardware" not in plain.shown() and keeping(PARAMS, "digits").runs_per_gpu == 1

    def on(hardware: str) -> params.Params:
        return params.load(
            edited(tmp_path, "    data: {name: digits}\n", f"    data: {{name: digits}}\n    hardware: {hardware}\n")
        )

    assert resolve(on("{device: cpu}"), run).canonical() == plain.canonical()
    cards = on("{device: cuda, precision: bf16, compile: true, runs_per_gpu: 8}")
    settings = resolve(cards, run)
    assert settings.shown()["hardware"] == {"device": "cuda", "precision": "bf16", "compile": True}
    assert keeping(cards, "digits").runs_per_gpu == 8
    divided = on("{devices: 4, images_at_once: 8}")
    assert resolve(divided, run).canonical() == plain.canonical()
    assert (keeping(divided, "digits").devices, keeping(divided, "digits").images_at_once) == (4, 8)
    again = TypeAdapter(RunConfig).validate_json(settings.canonical())
    assert again == settings


def test_fidelity_is_one_switch_each_and_two_presets(tmp_path: Path) -> None:
    def resolved(variant: str) -> RunConfig:
        return resolve(PARAMS, Run("digits", "vit_micro_distilled", "w2a2", variant, 0))

    plain, released, random = map(resolved, ("statsq-qkr", "statsq-qkr-released", "statsq-qkr-random"))
    assert random == plain.model_copy(update={"attention_init": "random"})
    assert released.attention_init == "random" and released.teacher_mode == "train" and not released.teacher_once
    assert released.quantization and released.quantization.dead_biases
    still, free = resolved("statsq-qkr-cga").cga, resolved("statsq-qkr-released-cga").cga
    assert still and still.freeze_qk and free and free.freeze_qk is False
    spelled = params.load(edited(tmp_path, "fidelity: {dead_biases: true}", "fidelity: as_described"))
    run = Run("digits", "vit_micro_distilled", "w2a2", "statsq-qkr-dead-biases", 0)
    assert resolve(spelled, run) == plain


def test_weights_alone_are_quantized_where_the_bits_say_so(tmp_path: Path) -> None:
    known = params.load(edited(tmp_path, "bits: [w2a2, w3a3, w4a4]", "bits: [w2a2, w3a32]"))
    config = resolve(known, Run("digits", "vit_micro", "w3a32", "statsq", 0))
    assert isinstance(config, QatConfig)
    assert (config.quantization.weight_bits, config.quantization.input_bits) == (3, 32)
    with pytest.raises(UserError, match="unknown bits of study 'digits': 'w32a3'"):
        check_run(known, Run("digits", "vit_micro", "w32a3", "statsq", 0))


def test_a_variants_own_learning_rate_lowers_what_its_annealing_runs_at(tmp_path: Path) -> None:
    changed = params.load(edited(tmp_path, "statsq: {weight: statsq}", "statsq: {weight: statsq, lr: 8.0e-3}"))
    run = Run("digits", "vit_micro", "w2a2", "statsq", 0)
    own, annealed = resolve(changed, run).train, resolve(changed, run.sibling("statsq-cga")).train
    assert (own.lr, own.min_lr) == (8e-3, pytest.approx(4e-4)) and annealed.lr == own.min_lr


def test_a_run_without_a_remedy_says_nothing_of_one() -> None:
    plain, other = (resolve(PARAMS, Run("digits", "vit_micro", "w2a2", n, 0)) for n in ("lsq", "lsq-freezing"))
    assert "remedy" not in plain.canonical() and plain.modules == ("ofq.quant.quantizers.lsq", "ofq.quant.families.vit")
    assert other.model_copy(update={"remedy": None}) == plain
    assert other.modules == (*plain.modules, "ofq.remedies.freezing")


def test_a_run_is_named_by_its_path() -> None:
    run = Run("digits", "vit_micro", "w2a2", "statsq-qkr", 3)
    assert Run.parse(str(run.files.metrics)) == run
    assert Run.parse(str(run)) == run
    assert Run.parse("results/digits/report/tables/main.csv") is None


def test_annealing_continues_its_parent_at_the_lowest_rate() -> None:
    config = resolve(PARAMS, Run("digits", "vit_micro", "w3a3", "statsq-qkr-cga", 0))
    parent = resolve(PARAMS, Run("digits", "vit_micro", "w3a3", "statsq-qkr", 0))
    assert config.phase == "cga" and config.parent == "statsq-qkr"
    assert config.train.lr == config.train.min_lr == parent.train.min_lr
    assert config.quantization == parent.quantization


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("digits/vit_micro/fp/teacher/seed0", {"quantization", "teacher_once", "calibration_batches", "cga", "parent"}),
        ("digits/vit_micro/w2a2/lsq/seed0", {"cga", "parent"}),
        ("digits/vit_micro/w2a2/statsq-cga/seed0", {"calibration_batches", "attention_init", "remedy"}),
    ],
)
def test_each_kind_of_run_has_its_own_settings_alone(name: str, foreign: set[str]) -> None:
    config = resolve(PARAMS, Run.named(name))
    assert not foreign & set(type(config).model_fields)
    settings = config.model_dump(mode="json")
    assert TypeAdapter(RunConfig).validate_python(settings) == config
    with pytest.raises(ValidationError):
        TypeAdapter(RunConfig).validate_python(settings | {sorted(foreign)[0]: 1})


def test_a_switch_that_is_added_later_changes_no_run_that_does_not_set_it() -> None:
    class Later(QuantConfig):
        rounding: str = "nearest"

    config = resolve(PARAMS, Run("digits", "vit_micro", "w2a2", "lsq", 0))
    assert isinstance(config, QatConfig)
    asked = config.quantization.model_dump(exclude_unset=True)
    assert set(asked) == {"weight", "weight_bits", "input_bits", "qkr", "dead_biases"}
    assert config.model_copy(update={"quantization": Later(**asked)}).canonical() == config.canonical()
    other = config.model_copy(update={"quantization": Later(**asked, rounding="stochastic")})
    assert '"rounding": "stochastic"' in other.canonical()
    assert TypeAdapter(RunConfig).validate_json(config.canonical()).canonical() == config.canonical()


def test_settings_stand_in_run_json_and_event_logs_in_the_order_of_earlier_versions() -> None:
    config = resolve(PARAMS, Run("digits", "vit_micro", "w2a2", "lsq-fixed", 0)).model_dump(exclude_none=True)
    assert list(config) == (
        ["phase", "data", "model", "seed", "train", "calibration_batches", "teacher_once", "quantization", "threads"]
    )
    assert list(config["quantization"]) == ["weight", "weight_bits", "input_bits", "qkr", "dead_biases", "learn_step"]
    annealed = resolve(PARAMS, Run("digits", "vit_micro", "w2a2", "statsq-cga", 0)).model_dump(exclude_none=True)
    assert list(annealed) == [
        "phase",
        "data",
        "model",
        "seed",
        "train",
        "teacher_once",
        "quantization",
        "cga",
        "parent",
        "threads",
    ]


def test_a_sweep_makes_one_variant_for_each_rate_and_keeps_the_ratio_of_the_schedule() -> None:
    base = resolve(PARAMS, Run("digits", "vit_micro", "w2a2", "statsq", 0)).train
    swept = resolve(PARAMS, Run("digits-lr", "vit_micro", "w2a2", "statsq-lr0.004", 0)).train
    assert swept.lr == 0.004
    assert swept.lr / swept.min_lr == pytest.approx(base.lr / base.min_lr)


def test_how_often_a_run_is_evaluated_stands_in_its_settings_only_where_it_was_said(tmp_path: Path) -> None:
    run = Run("digits", "vit_micro", "w2a2", "statsq-cga", 0)
    for given, shown in {"": {}, ", evaluations: 12": {}, ", evaluations: 4": {"evaluations": 4}}.items():
        config = resolve(params.load(edited(tmp_path, "steps: 1200,", f"steps: 1200{given},")), run)
        expected = json.loads(resolve(PARAMS, run).canonical())
        assert json.loads(config.canonical()) == expected | {"train": expected["train"] | shown}
        again = TypeAdapter(RunConfig).validate_json(config.model_dump_json(exclude_none=True))
        assert again == config and again.train.evaluations == shown.get("evaluations", 12)


def test_what_images_are_called_stands_in_a_runs_settings_only_where_it_was_said(tmp_path: Path) -> None:
    run = Run("digits", "vit_micro", "w2a2", "statsq", 0)
    renamed = params.load(edited(tmp_path, "data: {name: digits}", "data: {name: digits, called: Scans}"))
    expected = json.loads(resolve(PARAMS, run).canonical())
    assert json.loads(resolve(renamed, run).canonical())["data"] == expected["data"] | {"called": "Scans"}
    assert "called" not in PARAMS.studies["digits"].data.model_dump()


def test_an_augmentation_stands_in_a_runs_settings_where_there_is_one_and_goes_on_while_it_is_annealed(
    tmp_path: Path,
) -> None:
    for given, shown in {
        ", augment: {}": {},
        ", augment: {flip: true}": {"crop": 0, "flip": True, "cutout": 0},
    }.items():
        path = edited(tmp_path, "constant_steps: 200}", f"constant_steps: 200{given}}}\n    teacher_once: false")
        loaded = params.load(path)
        for variant in ("statsq", "statsq-cga"):
            config = resolve(loaded, Run("digits", "vit_micro", "w2a2", variant, 0))
            assert json.loads(config.canonical())["train"].get("augment", {}) == shown
            again = TypeAdapter(RunConfig).validate_json(config.model_dump_json(exclude_none=True))
            assert again == config and again.canonical() == config.canonical()
        assert "augment" not in resolve(loaded, Run("digits", "vit_micro", "fp", "teacher", 0)).canonical()


def test_only_what_changes_a_number_is_part_of_a_run(tmp_path: Path) -> None:
    changed = params.load(edited(tmp_path, "paper_model: deit_small", "paper_model: deit_tiny"))
    run = Run("digits", "vit_micro", "w2a2", "statsq", 0)
    assert resolve(changed, run) == resolve(PARAMS, run)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 64, steps: 3000", "batch_sise: 64, steps: 3000", "recipes.digits.teacher: unknown key 'batch_sise'; did you mean 'batch_size'?"),
        ("studies:", "studis:", "unknown key 'studis'; did you mean 'studies'?"),
        ("qkr: true}", "qkz: true}", "variants.statsq-qkr: unknown key 'qkz'; did you mean 'qkr'?"),
        ("study: digits #", "study: digitz #", "unknown study 'digitz'; did you mean 'digits'?"),
        ("recipe: digits", "recipe: digit", "studies.digits.recipe: unknown recipe 'digit'; did you mean 'digits'?"),
        ("models: [vit_micro]", "models: [vit_mikro]", "studies.digits.models: unknown model 'vit_mikro'; did you mean 'vit_micro'?"),
        ("parent: statsq,", "parent: statq,", "variants.statsq-cga.parent: unknown variant 'statq'; did you mean 'statsq'?"),
        ("steps: 300}", "steps: many}", "recipes.digits.cga.steps: "),
        ("steps: 300}", "steps: 0}", "recipes.digits.cga.steps: "),
        ("boundary_range: 0.005", "boundary_range: 0.7", "boundary_range: Input should be less than 0.5"),
        ("weight: lsq}", "weight: lsqq}", "variants.lsq.weight: unknown weight quantizer 'lsqq'; did you mean 'lsq'?"),
        ("w2a2", "w9a2", "studies.digits.bits.0"),
        ("w2a2", "w0a2", "studies.digits.bits.0"),
        ("seeds: [0, 1, 2]", "seeds: []", "studies.digits.seeds"),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", "named twice: 0"),
        ("seeds: [0, 1, 2]", "seeds: [-1]", "studies.digits.seeds.0"),
        ("lr: 1.0e-2", "lr: -1", "recipes.digits.teacher.lr"),
        ("lr: 1.0e-2", "lr: .nan", "recipes.digits.teacher.lr"),
        ("min_lr: 1.0e-5", "min_lr: 0.5", "min_lr 0.5 is above lr"),
        ("warmup: 0.1", "warmup: 1.0", "recipes.digits.teacher.warmup"),
        ("constant_steps: 200", "constant_steps: 1200", "leave no step for the cosine"),
        ("{weight: statsq}", "{}", "weight is missing"),
        ("{weight: statsq}", "{weight: statsq, cga: {boundary_range: 0.1}}", "cga needs a parent"),
        ("{parent: statsq, cga: {boundary_range: 0.005}}", "{parent: statsq}", "parent without cga"),
        ("parent: statsq-qkr,", "parent: statsq-cga,", "itself annealed"),
        ("lsq: {weight: lsq}", "lsq: {weight: lsq}\n  lsq: {weight: lsq}", "key 'lsq' given twice"),
        ("  digits-lr: #", "  reference: #", "reserved"),
        ("study: digits #", "study: [digits #", "cannot be read"),
        ("      sweep: #", "      everything: #", "studies.digits.groups.everything: 'everything' is a reserved name"),
        ("      sweep: #", "      fashion: #", "studies.digits.groups.fashion: 'fashion' is a reserved name, or a study's"),
        ("          - lsq-fixed", "          - lsq-fixd", "unknown variant of the grid 'lsq-fixed'; did you mean 'lsq-fixd'"),
        ("models: [vit_micro_distilled]", "models: [vit_micro_destilled]", "studies.digits.groups.fidelity.models: unknown model"),
        ("measure: [noise, probe]", "measure: [nois]", "studies.digits.groups.components.measure.0"),
        ("learning_rates: digits-lr", "learning_rates: digits", "studies.digits.learning_rates: unknown study with sweep_lr 'digits'"),
        ("{frozen: nothing}", "{frozen: nothing, boundary_range: 0.1}", "mean nothing where nothing is frozen"),
        ("{boundary_range: 0.003}", "{freeze_qk: true}", "boundary_range is missing"),
        ("{teacher_mode: train}", "{teacher_mode: training}", "fidelity"),
        ("fidelity: as_released", "fidelity: as_relased", "fidelity"),
        ("name: digits}", "name: digitz}", "studies.digits.data.name: unknown data set 'digitz'; did you mean 'digits'?; a class of your own"),
        ("name: digits}", "name: 'shapes:Shapes'}", "studies.digits.data.name: no module 'shapes' here; it should be the file shapes.py beside"),
        ("{weight: statsq}", "{weight: statsq, learn_step: false}", "is a switch of lsq, lsq-midrise and nagel"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        params.load(edited(tmp_path, old, new))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_float_without_a_point_is_a_number(tmp_path: Path) -> None:
    loaded = params.load(edited(tmp_path, "lr: 1.6e-2, min_lr: 8.0e-4", "lr: 5e-4, min_lr: 1e-5"))
    assert loaded.recipes["digits"].qat.lr == 5e-4


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run("digit", "vit_micro", "w2a2", "statsq", 0), "unknown study 'digit'; did you mean 'digits'?"),
        (Run("digits", "vit_micr", "w2a2", "statsq", 0), "did you mean 'vit_micro'?"),
        (Run("digits", "vit_micro", "w2a3", "statsq", 0), "unknown bits of study 'digits': 'w2a3'; did you mean 'w"),
        (Run("digits", "vit_micro", "w2a2", "statsq-qrk", 0), "did you mean 'statsq-qkr'?"),
        (Run("digits", "vit_micro", "fp", "statsq", 0), "unknown variant"),
    ],
)
def test_a_wrong_coordinate_gets_the_nearest_right_one(run: Run, message: str) -> None:
    with pytest.raises(UserError, match="unknown") as error:
        check_run(PARAMS, run)
    assert message in str(error.value)


def test_the_schema_for_editors_is_the_one_of_the_types() -> None:
    assert (ROOT / "params.schema.json").read_text() == params.json_schema(), (
        "renew it with: python -m ofq schema > params.schema.json"
    )


def test_the_schema_accepts_the_parameters() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load((ROOT / "params.yaml").read_text()), json.loads(params.json_schema()))


@pytest.mark.parametrize(("name", "fits"), [("digits", True), ("own.shapes:Shapes", True), ("digitz", False)])
def test_the_schema_knows_the_data_sets_and_classes_of_ones_own(name: str, fits: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["studies"]["digits"]["data"]["name"] = name
    assert jsonschema.Draft202012Validator(json.loads(params.json_schema())).is_valid(content) == fits


def test_the_nearest_key_is_named_whatever_a_study_is_called() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["studies"]["models"] = content["studies"]["digits"] | {"sedes": [0]}
    with pytest.raises(ValueError, match="unknown key 'sedes'; did you mean 'seeds'"):
        params.Params.model_validate(content)


def test_the_names_of_timms_models_are_those_of_its_registry() -> None:
    import timm

    assert timm_models() == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "'augreg_in21k_ft_in1k' names weights, as teacher.pretrained"),
        ("deit_tiny_distilled_patch16_224.fb_in1k", "write deit_tiny_distilled_patch16_224"),
        ("vit_tiny_patch16_224_in21k", "models.vit_micro.timm: unknown timm model 'vit_tiny_patch16_224_in21k'"),
        ("vit_tini_patch16_224", "did you mean 'vit_tiny_patch16_224'?"),
        ("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "models.vit_micro.timm: unknown timm model"),
        ("??", " and 1331 more"),
    ],
)
def test_a_model_that_timm_does_not_have_or_has_trained_is_told_when_the_file_is_read(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(UserError) as error:
        params.load(edited(tmp_path, "timm: vit_tiny_patch16_224", f"timm: '{name}'"))
    assert said in str(error.value) and len(str(error.value)) < 2000
