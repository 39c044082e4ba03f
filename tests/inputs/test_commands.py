"""Names and files given to the steps and to Snakemake: what does not exist or cannot be is one line, exit code 2."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ofq.cli.run import commands
from ofq.config import params
from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.workflow.targets import RULES, check_target
from tests.inputs.conftest import RUN, Refusal
from tests.inputs.settings import BASE

OF_A_STUDY = [
    "data",
    "tables",
    "figures",
    "comparison",
    "annealing",
    "boundary-range",
    "noise-table",
    "step-width",
    "probes",
    "claims",
    "learning-rates",
    "cost",
    "runs",
    "reference",
    "track",
]
OF_A_RUN = ["teacher", "qat", "cga", "probe", "noise"]
ODD = ["", " ", "plane", "a b", "../plain", "..", ".", "/", "/etc", "PLAIN", "plain/", "pläin", "a\nb", "\x1b[31m", "\udcff", "*", "{study}", "a" * 300, "a" * 100_000]  # fmt: skip
RUNS = [
    *ODD,
    "plain/vit/w2a2/statsq",
    "plain/vit/w2a2/statsq/seed",
    "plain/vit/w2a2/statsq/seed007",
    "plain/vit/w2a2/statsq/seed-1",
    "plain/vit/w2a2/statsq/seed2147483648",
    "plain/vit/w2a2/statsq/seed99999999999999999999999999",
    "plain/vit/w2a2/statsq/seed" + "1" * 5000,
    "plain/vit/w2a2/statsq/seed٣",
    "plain/vit/w2a2/statsq/0",
    "plain//w2a2/statsq/seed0",
    "plain/../w2a2/statsq/seed0",
    "plain/vit/w9a9/statsq/seed0",
    "plain/vit/w2a2/stats q/seed0",
    "plain/vit/w2a2/" + "a" * 300 + "/seed0",
    "plain/vat/w2a2/statsq/seed0",
    "results/plane/vit/w2a2/statsq/seed0/metrics.json",
]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing was made."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("step", OF_A_STUDY)
def test_a_study_that_does_not_exist_is_one_line(bare: Path, refusal: Refusal, step: str) -> None:
    for name in ODD:
        assert "unknown study" in refusal(step, "--", name)
    assert [path.name for path in bare.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("step", OF_A_RUN)
@pytest.mark.parametrize("name", RUNS, ids=lambda name: ascii(name)[:60])
def test_a_run_that_does_not_exist_is_one_line(bare: Path, refusal: Refusal, step: str, name: str) -> None:
    said = refusal(step, "--", name)
    assert len(said) < 500 and (
        "names no run; write study/model/bits/variant/seedN" in said or "unknown" in said or "too large" in said
    )
    assert [path.name for path in bare.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which command? see: python -m ofq --help"),
        (["qats"], "unknown command 'qats'; did you mean 'qat'?; see: python -m ofq --help"),
        ([""], "unknown command ''; known: "),
        (["qat"], "the following arguments are required: RUN"),
        (["qat", RUN, RUN], "unrecognized arguments"),
        (["runs", "plain", "swep"], "unknown group of study 'plain': 'swep'"),
        (["adopt"], "the following arguments are required: FOLDER"),
        (["adopt", "params.yaml"], "params.yaml is no folder; name the results of another project"),
        (["adopt", "."], "there are no runs in .; name the results of another project"),
        (["adopt", ".", "plane"], "unknown study 'plane'; did you mean 'plain'?"),
        (["data"], "which study? name one"),
        (["data", "--verify"], "no study has prepared data here"),
        (["data", "plain", "--force"], "unrecognized arguments: --force"),
        (["probe", "plain/vit/w2a2/statsq/seed0", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["probe", "plain/vit/w2a2/statsq/seed0", "--steps"], "argument --steps: expected one argument"),
        (["probe", "plain/vit/w2a2/statsq/seed0", "--steps", "0"], "a window needs at least 1 step, not 0"),
        (["probe", "plain/vit/w2a2/statsq/seed0", "--steps", "-1"], "a window needs at least 1 step, not -1"),
        (["probe", "plain/vit/w2a2/statsq/seed0", "--steps", "1" * 30], "a window has at most 1000000000 steps"),
        (["probe", "plain/vit/fp/teacher/seed0"], "is a full-precision run"),
        (["noise", "plain/vit/fp/teacher/seed0"], "is a full-precision run"),
        (["noise", "plain/vit/w2a2/statsq/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["toy-figure"], "make it with: snakemake results/toy/trace.csv"),
        (["teacher", "plain/vit/w2a2/statsq/seed0"], "is a qat run; use: python -m ofq qat"),
        (["qat", "plain/vit/w2a2/statsq-cga/seed0"], "is a cga run; use: python -m ofq cga"),
        (["cga", "plain/vit/fp/teacher/seed0"], "is a teacher run; use: python -m ofq teacher"),
        (["teacher", "plain/vit/fp/teacher/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["qat", "plain/vit/w2a2/statsq/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["cga", "plain/vit/w2a2/statsq-cga/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["tables", "plain"], "make it with: snakemake results/plain/vit/"),
        (["figures", "plain"], "make it with: snakemake results/plain/vit/"),
        (["learning-rates", "rates"], "make it with: snakemake results/rates/vit/"),
        (["learning-rates", "plain"], "plain has no learning-rates: this part is made for studies with `sweep_lr`"),
        (["tables", "rates"], "rates has no tables: this part is made for grids without `sweep_lr`"),
        (["report", "comparison", "plain"], "plain has no comparison: this part is made for grids with `compare`"),
        (["reference", "plain"], "is not complete; run: snakemake plain"),
        (["why", "results/plain/report/tables/main.csv"], "make it with: snakemake"),
        (["why", "results/plain/report/tables/mian.csv"], "does not exist, and nothing makes it: unknown file of study 'plain'"),
        (["why", "results/plain/report/figures/x.png"], "does not exist, and nothing makes it: unknown file of study 'plain'"),
        (["why", "results/plane/report/tables/main.csv"], "nothing makes it: unknown study 'plane'; did you mean 'plain'?"),
        (["why", "nothing.svg"], "nothing.svg does not exist, and nothing makes it: "),
        (["why", "params.yaml"], "is no table or figure that names its runs"),
        (["why", "."], "is no table or figure that names its runs"),
        (["why", ""], "is no table or figure that names its runs"),
        (["why", "params.yaml/x.csv"], "cannot be read"),
        (["why", "results/plain/report/figures/accuracy.png"], "make it with: snakemake"),
        (["why", "a" * 300 + ".png"], "cannot be read"),
        (["warm", "no/such/folder/socket"], "cannot listen on no/such/folder/socket"),
        (["warm", "a" * 300], "cannot listen on"),
        (["stages", "plain"], "unrecognized arguments: plain"),
        (["schema", "--html"], "unrecognized arguments: --html"),
    ],
    ids=lambda value: ascii(value)[:60],
)  # fmt: skip
def test_a_wrong_call_is_one_line(bare: Path, refusal: Refusal, argv: list[str], said: str) -> None:
    assert said in refusal(*argv)


@pytest.mark.parametrize("step", sorted(set(commands()) - {"schema", "warm", "why", "clean", "track", "toy-figure"}))
def test_each_step_tells_of_settings_that_are_wrong(bare: Path, refusal: Refusal, step: str) -> None:
    (bare / "params.yaml").write_text("study: [")
    name = (
        ["tables", "plain"]
        if step == "report"
        else ["plain"]
        if step in OF_A_STUDY
        else ["plain/vit/w2a2/statsq/seed0"]
        if step in OF_A_RUN
        else ["elsewhere"]
        if step == "adopt"
        else []
    )
    assert refusal(step, *name).startswith("params.yaml: cannot be read: ")


@pytest.mark.parametrize("target", [
    *(name for name in ODD if name not in (".", "..", "/etc")),
    *sorted(RULES - {"all"}),
    "plain/vit/w2a2/statsq/seed0",
    "plain/vit/w2a2/statsq/seed007/metrics.json",
    "results/plane/report/tables/main.csv",
    "results/plain/report/tables/mian.csv",
    "results/plain/report/tables/",
    "results/plain/report/tables/learning_rate.csv",
    "results/plain/report/tables/main.csv/x",
    "results/plain/data/manifest.yaml",
    "results/plain/vit/w2a2/statsq/seed0",
    "results/plain/vit/w2a2/statsq/seed0/",
    "results/plain/vit/w2a2/statsq/seed0/metric.json",
    "results/plain/vit/w2a2/statsq/seed0/metrics.json/x",
    "results/plain/vit/w2a2/statsq/seed007/metrics.json",
    "results/plain/vit/w2a2/statsq/seed2147483648/metrics.json",
    "results/plain/vit/w2a2/statsq/seed99999999999999999999999999/metrics.json",
    "results/plain/vit/w2a2/statsq/seed-1/metrics.json",
    "results/plain/vit/w2a2/statsq/seed/metrics.json",
    "results/plain/vit/w2a2/stats q/seed0/metrics.json",
    "results/plain/vit/fp/teacher/seed0/trainer.pt",
    "results/plain/vit/w9a9/statsq/seed0/metrics.json",
    "results/plain/../plane/data/manifest.json",
    "./results/plane/data/manifest.json",
    "results//plane/data/manifest.json",
    "results/reference/plain/record.json",
    "results/toy/trace.png",
    "results/toy/vit/w2a2/statsq/seed0/metrics.json",
    "results/plain/vit/fp/teacher/seed0/noise.parquet",
    "../elsewhere/metrics.json",
    "/no/such/file",
    "logs/plain/data.log",
    "results/" + "a" * 300 + "/data/manifest.json",
    "a/" * 3000,
], ids=lambda name: ascii(name)[:60])  # fmt: skip
def test_a_target_that_nothing_makes_is_one_line(bare: Path, target: str) -> None:
    with pytest.raises(UserError) as error:
        check_target(params.load(), target)
    assert str(error.value).isprintable() and len(str(error.value)) < 700


def test_a_target_that_is_made_is_let_through(bare: Path) -> None:
    settings = params.load()
    for name in ("plain", "rates", "all", "params.yaml"):
        check_target(settings, name)
    for run in Grid(settings, "plain").runs:
        for path in (*run.files.published, *run.teacher.files.published):
            check_target(settings, str(path))
            check_target(settings, f"./{path}")
        for name in ("probe.json", "probe.parquet", "noise.parquet"):
            check_target(settings, str(run.files.root / name))
    for name in ("data/manifest.json", "report/tables/main.html", "report/figures/oscillation.csv", "mlflow.json"):
        check_target(settings, f"results/plain/{name}")
    check_target(settings, "results/rates/report/figures/learning_rate.png")
    for name in ("trace.csv", "toy.png", "toy.svg"):
        check_target(settings, f"results/toy/{name}")


FITS = {"patch_size": 2, "embed_dim": 32, "depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"}
MODELS: list[tuple[str, dict[str, Any], str]] = [
    ("vit_tini_patch16_224", {}, "unknown timm model 'vit_tini_patch16_224'; did you mean 'vit_tiny_patch16_224'?"),
    ("hf-hub:timm/vit_tiny_patch16_224", {}, "unknown timm model"),
    ("../model", {}, "unknown timm model"),
    ("vit_tiny_patch16_224.augreg_in21k", FITS, "'augreg_in21k' names pretrained weights, and teachers are trained from scratch; write vit_tiny_patch16_224"),
    ("vit_tiny_patch16_224_in21k", FITS, "unknown timm model 'vit_tiny_patch16_224_in21k'; did you mean "),
    ("vit_tiny_patch16_224", FITS | {"pretrained": True}, "pretrained should be left out: training decides it"),
    ("vit_tiny_patch16_224", FITS | {"cache_dir": "x"}, "cache_dir should be left out: training decides it"),
    ("vit_tiny_patch16_224", FITS | {"no_such": 1}, "unexpected keyword argument 'no_such'"),
    ("vit_tiny_patch16_224", FITS | {"model_name": "x"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"": 1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"num_heads": 0}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"num_heads": 5}, "dim should be divisible by num_heads"),
    ("vit_tiny_patch16_224", FITS | {"depth": -1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"depth": "two"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"depth": 1.5}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"embed_dim": "wide"}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"embed_dim": 10**12}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"mlp_ratio": -1}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"drop_rate": 7}, "dropout probability has to be between 0 and 1"),
    ("vit_tiny_patch16_224", FITS | {"global_pool": "some"}, "pooling"),
    ("vit_tiny_patch16_224", FITS | {"patch_size": 0}, "timm cannot build"),
    ("vit_tiny_patch16_224", FITS | {"patch_size": 3}, "patch_size 3 of vit_tiny_patch16_224 does not divide the images of 8x8 pixels"),
    ("vit_tiny_patch16_224", {}, "patch_size 16 of vit_tiny_patch16_224 does not divide the images of 8x8 pixels"),
    ("vit_tiny_patch16_224", FITS | {"depth": 0}, "has no attention that it can replace"),
    ("vit_tiny_patch16_224", FITS | {"qk_norm": True}, "cannot be quantized: attention with qk_norm is not supported"),
    ("vit_tiny_patch16_224", FITS | {"dynamic_img_size": True}, "cannot be quantized: dynamic_img_size is not supported"),
    ("vit_tiny_patch16_224", FITS | {"global_pool": "map"}, "cannot be quantized: attention pooling"),
    ("vit_tiny_patch16_224", FITS | {"patch_drop_rate": 0.5}, "cannot be quantized: patch_drop_rate is not supported"),
    ("resnet18", {}, "resnet18 is not supported: vision transformers are, such as vit_tiny_patch16_224; choose one"),
    ("swin_tiny_patch4_window7_224", {}, "swin_tiny_patch4_window7_224 cannot be quantized: "),
    ("beit_base_patch16_224", {"patch_size": 2}, "Beit has no attention that it can replace"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "said"), MODELS, ids=lambda value: ascii(value)[:60])
def test_a_model_that_cannot_become_every_student_is_told_before_its_teacher_is_trained(
    copy: Path, refusal: Refusal, name: str, arguments: dict[str, Any], said: str
) -> None:
    _edit(copy, lambda settings: settings["models"].update(vit_micro={"timm": name, "arguments": arguments}))
    assert said in refusal("teacher", "digits/vit_micro/fp/teacher/seed0")
    assert not any((copy / "runs").rglob("checkpoint-*"))


def test_students_of_a_group_are_checked_before_their_teacher_is_trained(copy: Path, refusal: Refusal) -> None:
    def with_a_group(settings: dict[str, Any]) -> None:
        settings["models"]["other"] = {"timm": "vit_tiny_patch16_224", "arguments": FITS | {"qk_norm": True}}
        settings["studies"]["digits"]["groups"] = {"more": {"models": ["other"], "variants": ["statsq"]}}

    _edit(copy, with_a_group)
    said = refusal("teacher", "digits/other/fp/teacher/seed0")
    assert "cannot be quantized: attention with qk_norm is not supported" in said
    assert not any((copy / "runs").rglob("checkpoint-*"))


@pytest.mark.parametrize("step", ["teacher", "qat"])
def test_qkr_on_a_model_without_attention_is_one_line(
    copy: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def without_attention(settings: dict[str, Any]) -> None:
        settings["models"]["vit_micro"] = {"timm": "vit_tiny_patch16_224", "arguments": FITS | {"depth": 0}}
        settings["variants"]["statsq"]["qkr"] = True

    _edit(copy, without_attention)
    monkeypatch.setattr("ofq.training.student.load_weights", lambda model, path: None)  # the teacher has attention
    said = refusal(step, "digits/vit_micro/fp/teacher/seed0" if step == "teacher" else RUN)
    assert said.startswith("vit_tiny_patch16_224 cannot be quantized: ") and "no attention that it can replace" in said


@pytest.mark.parametrize("phase", ["teacher", "qat"])
def test_a_batch_larger_than_the_data_is_told_before_anything_is_trained(
    copy: Path, refusal: Refusal, phase: str
) -> None:
    _edit(copy, lambda settings: settings["recipes"]["digits"][phase].update(batch_size=13_201))
    said = refusal("teacher", "digits/vit_micro/fp/teacher/seed0")
    assert said.startswith(f"batch_size 13201 of {phase} is larger than the 13200 training images of digits; lower it")
    assert not any((copy / "runs").rglob("checkpoint-*"))


def test_too_little_memory_is_one_line(bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        MemoryError(),
        MemoryError("Unable to allocate 4.00 TiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def fail(path: Path, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("ofq.workflow.targets.load", fail)
        assert refusal("tables", "plain").startswith("out of memory; ")


class InductorError(RuntimeError):
    """As torch's, by its module."""


InductorError.__module__ = "torch._inductor.exc"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
            "the card is out of memory; lower hardware.runs_per_gpu, or batch_size, in params.yaml; what was saved is kept",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the card is out of memory; "),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "the card is out of memory; ",
        ),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported"),
            "the card failed (CUDA error: uncorrectable ECC error encountered); what was saved is kept, and the same",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "the card failed (cuDNN error: CUDNN_STATUS_EXECUTION_FAILED); ",
        ),
        (
            RuntimeError("CUDA driver error: invalid argument"),
            "the card failed (CUDA driver error: invalid argument); ",
        ),
        (
            RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use"),
            "cumsum_cuda_kernel does not have a deterministic implementation on this device; use another operation",
        ),
        (
            InductorError("InvalidCxxCompiler: No working C++ compiler found\nmore"),
            "the model could not be compiled (InductorError: InvalidCxxCompiler: No working C++ compiler found); torch",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_of_the_hardware_is_one_line(
    bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("ofq.workflow.targets.load", fail)
    assert refusal("tables", "plain").startswith(said)


def test_an_error_of_ours_is_not_hidden(bare: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("ofq.workflow.targets.load", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        refusal("tables", "plain")


def _edit(root: Path, change: Any) -> None:
    settings = yaml.safe_load((root / "params.yaml").read_text())
    change(settings)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
