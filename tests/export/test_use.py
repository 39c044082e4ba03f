"""Finished runs are loaded, exported and used: the numbers are those of the run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import ofq
from ofq.cli.main import main
from ofq.config.params import Params
from ofq.data import batches
from ofq.errors import UserError
from ofq.export.load import open_model
from ofq.quant.weights import block_weights
from ofq.runs.paths import Run
from tests.training.trained import STATSQ, TEACHER

VARIANTS = ["statsq", "statsq-qkr", "lsq"]


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    return capsys.readouterr().err


def test_ofq_is_imported_without_torch() -> None:
    script = (
        "import ofq, sys; assert 'torch' not in sys.modules; assert callable(ofq.load); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no public name 'laod'; there are load"):
        ofq.laod  # noqa: B018


def test_the_folder_of_a_run_gives_the_model_as_it_was_trained(here: Params) -> None:
    model = ofq.load(f"results/{STATSQ}")
    assert not model.training and len(block_weights(model)) == 12
    assert block_weights(model)[0].latent().unique().numel() > 100, "latent weights"
    assert ofq.load(TEACHER.files.root).head.weight.dtype == torch.float32
    for run in (STATSQ, TEACHER):
        with safe_open(run.files.model, "pt") as file:
            assert file.metadata() == {"format": "pt"}, "other loaders refuse a file without"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_exported_and_evaluated_as_its_metrics_say(
    variant: str, here: Params, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = STATSQ.sibling(variant)
    metrics = json.loads(run.files.metrics.read_text())
    expected = f"top1: {metrics['top1']}\nloss: {metrics['loss']}\n"
    assert shown(capsys, "evaluate", str(run.files.root), "--study", "digits") == expected
    said = shown(capsys, "export", str(run), "--format", "packed", "--output", str(tmp_path))
    path = tmp_path / "packed.safetensors"
    assert said == f"{path}: {path.stat().st_size:,} bytes\n"
    assert path.stat().st_size < run.files.model.stat().st_size / 3
    assert shown(capsys, "evaluate", str(path)) == expected
    about = open_model(path).about
    assert about.run == str(run) and about.top1 == metrics["top1"] and about.quantization is not None
    assert about.quantization.qkr == ("qkr" in variant) and "CC BY 4.0" in about.licence


def test_images_of_files_are_classified(here: Params, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = batches.load("digits")
    pixels = data.eval_images[:3].numpy()  # type: ignore[attr-defined]
    names = []
    for number, image in enumerate(pixels):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image[0]).save(names[-1])
    model = ofq.load(STATSQ.files.root)
    with torch.no_grad():
        expected = model(next(iter(data.evaluation())).images[:3]).softmax(-1)
    lines = shown(capsys, "predict", str(STATSQ.files.root), *names).splitlines()
    for line, name, probabilities in zip(lines, names, expected, strict=True):
        best = [f"{index} {probabilities[index]:.4f}" for index in probabilities.topk(3).indices.tolist()]
        assert line == f"{name}: {', '.join(best)}"
    Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(tmp_path / "large.jpg")
    assert len(shown(capsys, "predict", str(STATSQ.files.root), str(tmp_path / "large.jpg")).splitlines()) == 1


def test_a_teacher_is_evaluated_and_not_exported(here: Params, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads(TEACHER.files.metrics.read_text())
    expected = f"top1: {metrics['top1']}\nloss: {metrics['loss']}\n"
    assert shown(capsys, "evaluate", str(TEACHER.files.root)) == expected
    assert "it has no codes; name a student's" in refused(capsys, "export", str(TEACHER))


def test_what_cannot_be_used_is_one_line(
    here: Params, capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path
) -> None:
    run = str(STATSQ.files.root)
    assert (
        "the model takes images of 8x8 pixels, 1 channels and 5 classes, and those of digits have 8x8 pixels, 1 channels "
        "and 10 classes; name its study" in refused(capsys, "evaluate", str(file), "--study", "digits")
    )
    (tmp_path / "x.png").write_text("no image")
    assert "x.png is no image; name image files" in refused(capsys, "predict", run, str(tmp_path / "x.png"))
    assert "y.png does not exist; name image files" in refused(capsys, "predict", run, str(tmp_path / "y.png"))
    assert "cannot read " in refused(capsys, "predict", run, str(tmp_path))
    assert f"name its folder, {run}" in refused(capsys, "predict", f"{run}/model.safetensors", "x.png")
    with pytest.raises(UserError, match="is no folder of a run"):
        (tmp_path / "run.json").write_text(STATSQ.files.info.read_text())
        ofq.load(tmp_path)
    content = json.loads(STATSQ.files.info.read_text())
    odd = Run("digits", "vit_micro", "w2a2", "statsq", 9)
    odd.files.root.mkdir(parents=True)
    odd.files.info.write_text(json.dumps(content | {"config": content["config"] | {"colour": 1}}))
    with pytest.raises(UserError, match=r"holds settings of another version \(qat: Value error, unknown key 'colour'"):
        ofq.load(odd.files.root)


def test_codes_that_a_remedy_chose_are_in_no_file(here: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("chooser.py").write_text(
        "from ofq.remedies import Remedy\n\n\nclass Chooser(Remedy):\n"
        "    def __init__(self, student, steps):\n        pass\n\n"
        "    def round_with(self, quantizer, u, step):\n        return u.floor()\n"
    )
    run = STATSQ.sibling("statsq-chosen")
    run.files.root.mkdir(parents=True)
    content = json.loads(STATSQ.files.info.read_text())
    for name, refused_run in (("dampening", False), ("chooser:Chooser", True)):
        content["config"]["remedy"] = {"name": name, "arguments": {}}
        run.files.info.write_text(json.dumps(content))
        with pytest.raises(UserError) as error:
            ofq.load(run.files.root)
        assert ("cannot be loaded: its remedy chooser:Chooser chose the codes" in str(error.value)) == refused_run
