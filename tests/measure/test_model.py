"""What ``python -m ofq model`` counts, against the same counted by hand, and what it prints and refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ofq.cli.main import main
from ofq.config import params
from ofq.data.prepare import prepare
from ofq.measure.model import EDGE, FULL, LOW, parts_of
from ofq.quant import QuantConfig, quantize_model
from ofq.quant.quantizers.base import Quantizer
from tests.conftest import ROOT
from tests.quant.small import small_cnn, small_model, small_swin


@pytest.mark.parametrize("qkr", [False, True])
def test_numbers_and_products_of_a_swin_are_counted_module_by_module(qkr: bool) -> None:
    model: Any = quantize_model(small_swin(), QuantConfig(qkr=qkr, weight_bits=3))
    parts = parts_of(model, torch.rand(1, 1, 8, 8), "statsq").set_index("module")
    tokens, window, channels, heads = 64, 16, 8, 2
    block = "layers.0.blocks.1."
    context = tokens * window * channels
    if qkr:
        products = heads * channels * channels
        expected = {
            "attn": (products, tokens * products + tokens * window * heads * channels + context),
            "attn.v": (channels**2, tokens * channels**2),
        }
    else:
        expected = {
            "attn": (0, tokens * window * channels + context),
            "attn.qkv": (3 * channels**2, tokens * 3 * channels**2),
        }
    expected |= {"attn.proj": (channels**2, tokens * channels**2)}
    expected |= {f"mlp.{name}": (2 * channels**2, tokens * 2 * channels**2) for name in ("fc1", "fc2")}
    for name, counts in expected.items():
        assert tuple(parts.loc[block + name, ["weights", "multiply-adds"]]) == counts, name
    reduction = parts.loc["layers.1.downsample.reduction"]
    assert (reduction["weights"], reduction["multiply-adds"]) == (4 * 8 * 16, 16 * 4 * 8 * 16)
    assert (reduction["weight"], reduction["activations"], reduction["bits of"]) == ("statsq 3", "lsq 2", LOW)
    assert tuple(parts.loc["head.fc"]) == ("lsq 8", "lsq 8", EDGE, 5 * 16, 5 * 16)
    assert tuple(parts.loc["patch_embed.proj", ["bits of", "weights", "multiply-adds"]]) == (EDGE, 8, 64 * 8)
    assert "input lsq 2" in parts.loc[f"{block}attn", "activations"] if qkr else "qk lsq 2" in parts.loc[f"{block}attn", "activations"]  # fmt: skip


@pytest.mark.parametrize("make", [small_model, small_swin])
@pytest.mark.parametrize("qkr", [False, True])
def test_nothing_is_counted_twice_or_left_out(make: Any, qkr: bool) -> None:
    plain: Any = make()
    numbers = sum(each.numel() for each in plain.parameters())
    model: Any = quantize_model(plain, QuantConfig(qkr=qkr))
    parts = parts_of(model, torch.rand(1, 1, 8, 8), "statsq")
    attentions = [each for each in model.modules() if hasattr(each, "latent_weight") and hasattr(each, "k")]
    for each in attentions:  # products in place of q and k, whose biases are dropped
        numbers += each.latent_weight().numel() - 2 * each.q.weight.numel() - 2 * len(each.q.weight)
    assert len(attentions) == (0 if not qkr else 3 if make is small_swin else 2)
    assert parts["weights"].sum() == numbers
    full = parts[parts["bits of"] == FULL].iloc[0]
    assert full["multiply-adds"] == 0 and full["weights"] > 0
    owners = [
        name for name, each in model.named_modules() if any(isinstance(child, Quantizer) for child in each.children())
    ]
    assert list(parts["module"]) == [*owners, ""]


@pytest.mark.parametrize(("weight", "edge"), [("nagel", "nagel 8"), ("statsq", "lsq 8")])
def test_layers_of_a_convolutional_network_are_counted(weight: str, edge: str) -> None:
    plain: Any = small_cnn("mobilenetv3")
    numbers = sum(each.numel() for each in plain.parameters())
    model: Any = quantize_model(plain, QuantConfig(weight=weight, weight_bits=3, input_bits=4))
    parts = parts_of(model, torch.rand(1, 1, 16, 16), weight).set_index("module")
    columns = ["weight", "activations", "bits of", "weights", "multiply-adds"]
    rows = {
        name: tuple(parts.loc[name, columns]) for name in ("conv_stem", "blocks.0.0.conv_dw", "conv_head", "classifier")
    }
    assert rows == {
        "conv_stem": (edge, "", EDGE, 8 * 9, 64 * 8 * 9),
        "blocks.0.0.conv_dw": (f"{weight} 3", "lsq 4", LOW, 8 * 9, 64 * 8 * 9),
        "conv_head": (f"{weight} 3", "lsq 4", LOW, 16 * 16, 16 * 16),
        "classifier": (edge, "lsq 8", EDGE, 5 * 16, 5 * 16),
    }
    assert parts["weights"].sum() == numbers


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    arguments = {"patch_size": 1, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4]}
    content["models"]["swin8"] = {"timm": "swin_tiny_patch4_window7_224", "arguments": arguments}
    content["models"]["wide_patch"] = {"timm": "vit_tiny_patch16_224"}
    content["studies"]["digits"]["models"] = ["vit_micro", "swin8", "wide_patch"]
    Path("params.yaml").write_text(yaml.safe_dump(content))


def test_a_table_of_modules_and_the_shares_are_printed(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "digits", "swin8"]) == 2
    assert "results/digits/data/manifest.json does not exist; make it with: snakemake" in capsys.readouterr().err
    prepare("digits", params.load().studies["digits"].data)
    capsys.readouterr()
    assert main(["model", "digits", "swin8", "statsq-qkr-cga", "--bits", "w3a3"]) == 0
    title, _, heading, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "swin8, swin_tiny_patch4_window7_224: statsq-qkr-cga at w3a3, one image of 8x8 pixels"
    assert heading.split() == ["module", "weight", "activations", "weights", "multiply-adds"]
    assert rows[0].split() == ["patch_embed.proj", "lsq", "8", "lsq", "8", "8", "512"]
    assert [row.split(":")[0] for row in rows[-3:]] == [LOW, EDGE, FULL]
    assert "0.00 % of" in rows[-1] and rows[-1].endswith("multiply-adds")
    assert main(["model", "digits", "vit_micro"]) == 0
    assert "vit_tiny_patch16_224: lsq at w2a2" in capsys.readouterr().out
    assert main(["model", "digits", "wide_patch"]) == 2
    said = "ofq: error: patch_size 16 of vit_tiny_patch16_224 does not divide the images of 8x8 pixels; choose one"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digitz", "vit_micro"], "unknown study 'digitz'; did you mean 'digits'?"),
        (["digits", "swin9"], "unknown model of study 'digits': 'swin9'; did you mean 'swin8'?"),
        (["digits", "swin8", "statqs"], "unknown variant of study 'digits' at w2a2: 'statqs'; did you mean 'statsq'?"),
        (["digits", "swin8", "--bits", "w7a7"], "unknown bits of study 'digits': 'w7a7'"),
        (["digits", "swin8", "teacher", "--bits", "fp"], "teacher at fp is in full precision: name bits and a variant"),
        (["digits"], "the following arguments are required: MODEL"),
    ],
)
def test_a_wrong_name_is_one_line(
    here: None, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["model", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
