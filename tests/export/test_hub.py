"""A hub folder: loads, and its card says what the run's files say."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

import ofq
from ofq.config.params import Params
from ofq.data import batches
from ofq.export.write import deployed_run, hub
from tests.training.trained import STATSQ


@pytest.mark.parametrize("variant", ["statsq-qkr", "lsq"])
def test_a_hub_folder_is_loaded_and_tells_of_its_run(variant: str, here: Params, tmp_path: Path) -> None:
    folder = STATSQ.sibling(variant).files.root
    root, written = tmp_path / "hub", hub(deployed_run(folder), tmp_path)
    assert {str(path.relative_to(root)) for path in written} == {".eval_results/digits.yaml", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"}  # fmt: skip
    images = next(iter(batches.load("digits").evaluation())).images
    with torch.no_grad():
        assert torch.equal(ofq.load(root)(images), deployed_run(folder).model(images))
    metrics, manifest = (json.loads(path.read_text()) for path in (folder / "metrics.json", Path("results/digits/data/manifest.json")))  # fmt: skip
    card = ModelCard((root / "README.md").read_text())
    assert card.data.license == "other" and card.data.library_name == "ofq" and card.data.datasets == ["digits"]
    told = " ".join(card.text.split())
    for words in (
        f"`digits/vit_micro/w2a2/{variant}/seed0`",
        f"{metrics['top1']:.2f} %; of one seed, so that nothing is known of its spread",
        f"{metrics['osc_share']:.2f} % of the low-bit weights oscillated",
        "13,200 training images, 597 of the test split",
        manifest["terms"],
        "24 steps of 64 images",
        "timm's vit_tiny_patch16_224 with class_token False, depth 2, embed_dim 32",
        f"{(root / 'model.safetensors').stat().st_size:,} bytes",
        'model = ofq.load("THIS FOLDER")',
        "arXiv:2302.02210",
    ):
        assert words in told, words
    assert ("composed (QKR)" in told) == ("qkr" in variant)
    (entry,) = parse_eval_result_entries(yaml.safe_load((root / ".eval_results/digits.yaml").read_text()))
    assert (entry.dataset_id, entry.value) == ("digits", metrics["top1"]) and "597 images" in str(entry.notes)
    config = json.loads((root / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224" and config["num_classes"] == 10
    assert config["quantization_config"]["weight_bits"] == 2 and config["model_args"]["embed_dim"] == 32
    shown = json.loads((root / "preprocessor_config.json").read_text())
    assert shown["image_mean"] == manifest["mean"] and shown["size"] == {"height": 8, "width": 8}


def test_seeds_that_are_finished_are_in_the_card(here: Params, tmp_path: Path) -> None:
    folder = STATSQ.files.root
    other = folder.with_name("seed1")
    other.mkdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(metrics | {"top1": metrics["top1"] - 2}))
    try:
        hub(deployed_run(folder), tmp_path)
    finally:
        shutil.rmtree(other)
    assert f"over 2 seeds {metrics['top1'] - 1:.2f} ± 1.41 %" in (tmp_path / "hub/README.md").read_text()
