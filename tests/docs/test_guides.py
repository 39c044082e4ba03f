"""The guides, followed to the letter in a small project: their code blocks are what is executed."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from ofq.config import params
from ofq.config.grid import Grid
from ofq.report.parts.learning_rates import write_learning_rates
from ofq.runs.files import write_json
from ofq.runs.paths import report_dir
from tests.conftest import ROOT, Project
from tests.docs.pages import DOCS, blocks, explained


def put(params: dict[str, Any], block: dict[str, Any]) -> None:
    """Write a block into the parameters; ``...`` in a list stands for what is there."""
    for key, value in block.items():
        if isinstance(value, dict) and key in params:
            put(params[key], value)
        elif isinstance(value, list) and "..." in value:
            params[key] = [*params[key], *value[1:]]
        else:
            params[key] = value


def follow(project: Project, page: str) -> None:
    for block in blocks(page, "yaml"):
        put(project.params, yaml.safe_load(block))
    project.write_params()


def run(project: Project, command: str) -> None:
    done = project.run(*shlex.split(command))
    assert done.returncode == 0, done.stdout + done.stderr


Env = dict[str, str]


@pytest.fixture(scope="module")
def warm(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """What leads jobs to a warm process, as Snakemake's are led: each is a fork of one that has torch and timm."""
    with finished.served(tmp_path_factory.mktemp("s") / "socket") as env:
        yield env


def said_of_a_mistake(project: Project, env: Env, file: str, old: str | None, new: str | None, of_run: str) -> str:
    """What a run says, with exit code 2, of a file in which ``old`` is ``new``, or of its lack; the file is put back."""
    path = project.root / file
    whole = path.read_text()
    if old is None or new is None:
        path.unlink()
    else:
        assert old in whole
        path.write_text(whole.replace(old, new, 1))
    done = project.run("python", "-m", "ofq", "qat", of_run, env=env)
    path.write_text(whole)
    assert done.returncode == 2
    return done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A study of one run, complete."""
    project = Project(tmp_path_factory.mktemp("guides"))
    (project.root / "docs").mkdir()
    project.params["studies"]["digits"] |= {"variants": ["lsq"], "seeds": [0]}
    project.write_params()
    run(project, "snakemake results/digits/report/tables/main.csv results/digits/report/figures/accuracy.png")
    return project


@pytest.fixture(scope="module")
def with_variant(finished: Project) -> Project:
    follow(finished, "add-a-variant.md")
    return finished


@pytest.fixture(scope="module")
def with_remedy(with_variant: Project) -> Project:
    code, _ = blocks("add-a-remedy.md", "python")
    (with_variant.root / "calm.py").write_text(code)
    follow(with_variant, "add-a-remedy.md")
    return with_variant


@pytest.fixture(scope="module")
def with_quantizer(with_remedy: Project) -> Project:
    (code,) = blocks("add-a-quantizer.md", "python")
    (with_remedy.root / "widest.py").write_text(code)
    follow(with_remedy, "add-a-quantizer.md")
    return with_remedy


@pytest.fixture(scope="module")
def with_data_set(with_remedy: Project) -> Project:
    (reader,) = blocks("add-a-data-set.md", "python")
    (with_remedy.root / "shapes.py").write_text(reader)
    follow(with_remedy, "add-a-data-set.md")
    return with_remedy


@pytest.fixture
def shapes(with_data_set: Project) -> Path:
    """The file that the guide's reader reads: squares, bars and noise of 8x8 pixels."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 3
    images = rng.integers(0, 60, (160, 8, 8), dtype=np.uint8)
    images[labels == 0, 2:6, 2:6] = 250
    images[labels == 1, :, 3:5] = 250
    path = with_data_set.root / "data/shapes/shapes.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, train_images=images[:120], train_labels=labels[:120], test_images=images[120:], test_labels=labels[120:]
    )
    return path


def test_a_new_variant_is_one_line_and_repeats_no_run(with_variant: Project) -> None:
    assert with_variant.plan() == {"qat": 1, "tables": 1, "figures": 1, "toy": 1, "toy_figure": 1, "track": 1}
    for command in blocks("add-a-variant.md", "sh"):
        run(with_variant, command)
    made = with_variant.root / "results/digits/vit_micro/w2a2/lsq-qkr/seed0/run.json"
    assert json.loads(made.read_text())["config"]["quantization"] == {
        "weight": "lsq",
        "weight_bits": 2,
        "input_bits": 2,
        "qkr": True,
        "dead_biases": False,
    }


def test_another_model_is_tried_before_it_is_trained(with_variant: Project) -> None:
    page = (DOCS / "add-a-variant.md").read_text()
    for command in ("snakemake results/mine/data/manifest.json", "python -m ofq model mine swin_micro statsq-qkr"):
        assert f"    {command} " in page
        run(with_variant, command)
    assert with_variant.plan("mine").items() >= {"teacher": 1, "qat": 1, "tables": 1}.items()


def test_a_new_remedy_is_one_class_and_one_line(with_remedy: Project) -> None:
    for command in blocks("add-a-remedy.md", "sh"):
        run(with_remedy, command)
    target = "results/digits/vit_micro/w2a2/lsq-calm/seed0/metrics.json"
    folder = (with_remedy.root / target).parent
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert max(event.get("calm/slowed", 0) for event in events) > 0
    assert json.loads((folder / "run.json").read_text())["config"]["remedy"] == {
        "name": "calm:Calm",
        "arguments": {"band": 0.1},
    }
    assert (folder / "metrics.json").read_bytes() != (folder.parents[1] / "lsq/seed0/metrics.json").read_bytes()
    code = with_remedy.root / "calm.py"
    assert with_remedy.plan(target) == {}
    code.write_text("# a comment\n" + code.read_text())
    assert with_remedy.plan(target) == {}
    code.write_text(code.read_text().replace("<= self.band", "< self.band"))
    other = target.replace("lsq-calm", "lsq")
    assert with_remedy.plan(target, other) == {"qat": 1}, "an edit reruns the runs that use it and no other"


def _loss(returned: str) -> tuple[str, str]:
    metrics = "    def metrics(self)"
    return metrics, f"    def loss(self) -> object:\n        return {returned}\n\n{metrics}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Calm", "class Calmer", "variants.lsq-calm.remedy.name: calm.py defines no class 'Calm'; it has Calmer"),
        ("class Calm", "class Calm:(", "calm.py cannot be read"),
        ("import torch\n", "import torsch\n", "calm.py cannot be imported (ModuleNotFoundError: No module named"),
        ("band: float = 0.05", "width: float = 0.05", "got an unexpected keyword argument 'band'; mend its arguments"),
        ("<= 0.5:", "<= 0.05:", "remedy calm:Calm: band must be 0 to 0.5 code steps, not 0.1; mend its arguments"),
        (
            *_loss("torch.zeros(2)"),
            "loss() of Calm returned a constant of shape (2,); it should be None or a scalar tensor",
        ),
        (
            *_loss("0.5"),
            "loss() of Calm returned a float; it should be None or a scalar tensor that depends on a weight",
        ),
        (
            "before_update(self, lr: float)",
            "before_update(self)",
            "calm.py: before_update(self) of Calm should be before_update(self, lr)",
        ),
        ("(Remedy)", "", "the class should derive from ofq.remedies.Remedy"),
        (None, None, "no module 'calm' here; it should be the file calm.py beside params.yaml"),
    ],
)
def test_a_mistake_in_a_remedy_is_one_line(
    with_remedy: Project, warm: Env, old: str | None, new: str, message: str
) -> None:
    said = said_of_a_mistake(with_remedy, warm, "calm.py", old, new, "digits/vit_micro/w2a2/lsq-calm/seed0")
    assert said.count("\n") == 1 and message in said


def test_a_new_quantizer_is_one_class_and_one_line(with_quantizer: Project) -> None:
    (code,) = blocks("add-a-quantizer.md", "python")
    assert len(code.splitlines()) <= 30
    (command,) = blocks("add-a-quantizer.md", "sh")
    run(with_quantizer, command)
    target = command.split()[1]
    info = json.loads((with_quantizer.root / target).with_name("run.json").read_text())
    assert info["config"]["quantization"]["weight"] == "widest:Widest"
    record = pd.read_parquet((with_quantizer.root / target).with_name("weights.parquet"))
    inside = (record["bin_left"] >= -2.55) & (record["bin_left"] < 1.55)  # no weight is beyond an outermost level
    assert inside.all() and (record["bin_left"] < 0).any() and (record["bin_left"] > 0).any()
    path, other = with_quantizer.root / "widest.py", target.replace("widest", "lsq")
    path.write_text(path.read_text().replace("the largest weight of the row", "its largest weight"))
    assert with_quantizer.plan(target, other) == {}, "a docstring reruns nothing"
    path.write_text(path.read_text().replace("- 0.5)", "- 0.25)"))
    assert with_quantizer.plan(target, other) == {"qat": 1}, "an edit reruns the runs that use it and no other"
    path.write_text(code)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Widest", "class Wider", "variants.widest.weight: widest.py defines no class 'Widest'; it has Wider"),
        ("import torch\n", "import torsch\n", "weight quantizer widest:Widest: "),
        ("def step(self, w", "def step(self, w, bits", "step(self, w, bits) of Widest should be step(self, w)"),
        (
            "def step(",
            "def positions(self): ...\n\n    def step(",
            "a method positions, which nothing calls; did you mean position?",
        ),
        ("(Quantizer)", "(torch.nn.Module)", "the class should derive from ofq.quant.Quantizer"),
        ("def step(", "def steps(", "mend Widest(bits), or name another"),
        (None, None, "no module 'widest' here; it should be the file widest.py beside params.yaml"),
    ],
)
def test_a_mistake_in_a_quantizer_is_one_line(
    with_quantizer: Project, warm: Env, old: str | None, new: str, message: str
) -> None:
    said = said_of_a_mistake(with_quantizer, warm, "widest.py", old, new, "digits/vit_micro/w2a2/widest/seed0")
    assert said.count("\n") == 1 and message in said


def test_a_new_data_set_is_one_class_and_a_study(with_data_set: Project, shapes: Path) -> None:
    study, verify = blocks("add-a-data-set.md", "sh")
    run(with_data_set, study)
    manifest = json.loads((with_data_set.root / "results/shapes/data/manifest.json").read_text())
    assert manifest["data"] == "shapes:Shapes" and manifest["terms"] and manifest["files"]["train"]["images"] == 120
    run(with_data_set, verify)
    table = pd.read_csv(with_data_set.root / "results/shapes/report/tables/main.csv")
    assert list(table["variant"]) == ["lsq", "statsq"]
    target = "results/shapes/data/manifest.json"
    other = "results/digits/vit_micro/w2a2/lsq/seed0/metrics.json"
    assert with_data_set.plan(target, other) == {}
    code = with_data_set.root / "shapes.py"
    whole = code.read_text()
    code.write_text(whole.replace("CC0", "CC BY"))
    assert with_data_set.plan(target, other) == {"data": 1}, "an edit prepares the studies that use it and no other"
    code.write_text(whole)


def test_a_reader_may_be_put_into_the_package(with_data_set: Project, shapes: Path) -> None:
    (reader,) = blocks("add-a-data-set.md", "python")
    marked = reader.replace("\n\nclass", '\n\n@register("shapes")\nclass', 1)
    marked = marked.replace("import UserError\n", "import UserError\nfrom ofq.runs.registry import register\n")
    path = with_data_set.root / "src/ofq/data/readers/shapes.py"
    path.write_text(marked)
    with_data_set.params["studies"]["shapes"]["data"]["name"] = "shapes"
    with_data_set.write_params()
    try:
        run(with_data_set, "python -m ofq data shapes")
        done = with_data_set.ofq("schema", "--markdown")
        assert (
            "| `name` | `cifar10`, `cifar100`, `digits`, `fashion-mnist`, `imagefolder`, `imagenet`, `shapes` or text"
            in done.stdout
        )
        target = "results/digits/data/manifest.json"
        assert with_data_set.plan(target) == {}, "it reruns nothing"
    finally:
        path.unlink()
        with_data_set.params["studies"]["shapes"]["data"]["name"] = "shapes:Shapes"
        with_data_set.write_params()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Shapes", "class Shape", "studies.shapes.data.name: shapes.py defines no class 'Shapes'; it has Shape"),
        ("import numpy", "import numpie", "data set shapes:Shapes: shapes.py cannot be imported (ModuleNotFoundError"),
        ("(Reader)", "", "data set shapes:Shapes: the class should derive from ofq.data.reader.Reader"),
        ("def read(", "def reed(", "data set shapes:Shapes: Can't instantiate abstract class Shapes"),
        ("Source(train, test, ", "dict(", "read() of data set shapes:Shapes returned a dict; it should be a Source"),
    ],
)
def test_a_mistake_in_a_reader_is_one_line(
    with_data_set: Project, shapes: Path, old: str, new: str, message: str
) -> None:
    path = with_data_set.root / "shapes.py"
    whole = path.read_text()
    assert old in whole
    path.write_text(whole.replace(old, new))
    done = with_data_set.ofq("data", "shapes")
    path.write_text(whole)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


class Evil:
    """An object whose pickle, when it is read, makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.made,)


def test_a_reader_answers_a_missing_or_damaged_file_in_one_line(with_data_set: Project, shapes: Path) -> None:
    whole, ran = shapes.read_bytes(), shapes.with_name("ran")
    shapes.unlink()
    answers = [(with_data_set.ofq("data", "shapes"), "not found; put it there")]
    for content in (b"no array", whole[:-30], whole[:200]):
        shapes.write_bytes(content)
        answers.append((with_data_set.ofq("data", "shapes"), "cannot be read"))
    np.savez(shapes, train_images=np.array([Evil(ran)], dtype=object))
    answers.append((with_data_set.ofq("data", "shapes"), "Object arrays cannot be loaded"))
    assert not ran.exists()
    for done, message in answers:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "report/tables/main.csv",
        "report/tables/ablation.csv",
        "report/tables/oscillation.csv",
        "report/tables/agreement.csv",
        "vit_micro/w2a2/lsq/seed0/oscillation.parquet",
        "vit_micro/w2a2/lsq/seed0/weights.parquet",
        "vit_micro/w2a2/lsq/seed0/metrics.json",
    ],
)
def test_the_page_of_names_explains_every_column(finished: Project, path: str) -> None:
    file = finished.root / "results/digits" / path
    if file.suffix == ".json":
        there = list(json.loads(file.read_text()))
    else:
        there = list(pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file))
    assert explained(file.name) == there


def test_the_page_of_names_explains_the_columns_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = params.load(ROOT / "params.yaml")
    for each in Grid(parameters, "digits-lr").runs:
        write_json(each.files.metrics, {"top1": 90.0, "loss": 0.3, "seed": each.seed, "steps": 1})
    write_learning_rates(Grid(parameters, "digits-lr"))
    table = report_dir("digits-lr") / "tables/learning_rate.csv"
    assert explained(table.name) == list(pd.read_csv(table))


def test_the_page_of_names_lists_the_files_of_a_run(finished: Project) -> None:
    section = (DOCS / "names.md").read_text().split("## Files of a run\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\S+)` \|.*\| (yes)? ?\| (yes)? ?\|$", section, re.MULTILINE)
    runs = finished.root / "results/digits/vit_micro"
    for place, run in enumerate(("fp/teacher/seed0", "w2a2/lsq/seed0"), start=1):
        assert {row[0] for row in rows if row[place]} == {path.name for path in (runs / run).iterdir()}
