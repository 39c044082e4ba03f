"""Names and files given to the steps and to Snakemake: what does not exist or cannot be is one line, exit code 2."""

from pathlib import Path

import pytest

from ofq.cli.run import commands
from ofq.config import params
from ofq.config.grid import Grid
from ofq.errors import UserError
from ofq.workflow.targets import RULES, check_target
from tests.inputs.conftest import RUN, Refusal

OF_A_STUDY = [
    "data",
    "plan",
    "tables",
    "figures",
    "comparison",
    "annealing",
    "boundary-range",
    "divergence",
    "reestimation",
    "noise-table",
    "step-width",
    "sizes",
    "ro-crate",
    "probes",
    "claims",
    "learning-rates",
    "cost",
    "runs",
    "status",
    "reference",
    "track",
]
OF_A_RUN = ["teacher", "qat", "cga", "probe", "noise", "export"]
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
        (["export", "plain/vit/fp/teacher/seed0"], "is a full-precision run: it has no codes"),
        (["export", "plain/vit/w2a2/statsq/seed0"], "make it with: snakemake results/plain/vit/w2a2/statsq/seed0/metrics"),
        (["export", "plain/vit/w2a2/statsq/seed0", "--format", "pickle"], "argument --format: invalid choice: 'pickle'"),
        (["evaluate", "params.yaml"], "params.yaml is cut short or damaged"),
        (["evaluate", "params.yaml", "--study", "plane"], "unknown study 'plane'; did you mean 'plain'?"),
        (["predict", "nothing", "a.png"], "nothing does not exist; name the folder of a finished run, "),
        (["predict", "params.yaml"], "the following arguments are required: IMAGE"),
        (["toy-figure"], "make it with: snakemake results/toy/trace.csv"),
        (["teacher", "plain/vit/w2a2/statsq/seed0"], "is a qat run; use: python -m ofq qat"),
        (["qat", "plain/vit/w2a2/statsq-cga/seed0"], "is a cga run; use: python -m ofq cga"),
        (["cga", "plain/vit/fp/teacher/seed0"], "is a teacher run; use: python -m ofq teacher"),
        (["teacher", "plain/vit/fp/teacher/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["qat", "plain/vit/w2a2/statsq/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["cga", "plain/vit/w2a2/statsq-cga/seed0"], "make it with: snakemake results/plain/data/manifest.json"),
        (["model", "plain", "vit"], "make it with: snakemake results/plain/data/manifest.json"),
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


@pytest.mark.parametrize(
    "step", sorted(set(commands()) - {"schema", "warm", "why", "clean", "track", "toy-figure", "predict"})
)
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
        if step in ("adopt", "evaluate")
        else ["plain", "vit"]
        if step == "model"
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
    "results/plain/vit/fp/teacher/seed0/export/sizes.json",
    "results/plain/vit/w2a2/statsq/seed0/export/model.pt",
    "rates-exports",
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
        for name in ("probe.json", "probe.parquet", "noise.parquet", "export/sizes.json", "export/model.onnx"):
            check_target(settings, str(run.files.root / name))
    check_target(settings, "plain-exports")
    for name in (
        "data/manifest.json",
        "report/tables/main.html",
        "report/tables/sizes.md",
        "report/figures/oscillation.csv",
        "mlflow.json",
    ):
        check_target(settings, f"results/plain/{name}")
    check_target(settings, "results/rates/report/figures/learning_rate.png")
    for name in ("trace.csv", "toy.png", "toy.svg"):
        check_target(settings, f"results/toy/{name}")
