"""A small Swin transformer through every step of the pipeline, stopped and resumed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ofq.config import params
from ofq.config.resolve import QatConfig, resolve
from ofq.measure.noise import run_noise
from ofq.measure.probe import outputs, run_probe
from ofq.runs.files import read_json
from ofq.runs.paths import Run
from tests.reliability.conftest import run_of, train
from tests.reliability.test_resume import check_killed

MODEL = "swin_small8"
SWIN = {
    "timm": "swin_tiny_patch4_window7_224",
    "arguments": {"patch_size": 1, "window_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4]},
}
QUANTIZERS = ["lsq", "lsq-midrise", "statsq", "rms", "lsq-qkr"]
OTHERS = ["statsq-qkr", "statsq-qkr-released"]
ANNEALED = ["statsq-cga", "statsq-qkr-cga", "statsq-qkr-released-cga"]


def run(variant: str) -> Run:
    return run_of(variant, MODEL)


@pytest.fixture(scope="module")
def swin(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data, with runs of a Swin transformer of every kind; its drop path draws random numbers."""
    root = tmp_path_factory.mktemp("swin")
    content: dict[str, Any] = yaml.safe_load((small_data / "params.yaml").read_text())
    content["models"][MODEL] = SWIN
    content["variants"] |= {"lsq-qkr": {"weight": "lsq", "qkr": True}}
    variants = [*QUANTIZERS, *OTHERS, *ANNEALED]
    content["studies"]["digits"] |= {"models": [MODEL], "variants": variants}
    for phase in content["recipes"]["digits"].values():
        phase["steps"] = 6
    content["recipes"]["digits"]["qat"]["constant_steps"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    (root / "results/digits").mkdir(parents=True)
    (root / "results/digits/data").symlink_to(small_data / "results/digits/data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variant in ("teacher", *variants):
            train(run(variant))
    return root


@pytest.fixture
def here(swin: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(swin)
    return swin


def test_its_record_has_every_group_of_layers_of_every_block(here: Path) -> None:
    for variant, first in (("statsq", ["q", "k", "v"]), ("lsq-qkr", ["qk", "v"])):
        record = pd.read_parquet(run(variant).files.oscillation)
        groups = [*first, "proj", "fc1", "fc2"]
        assert list(dict.fromkeys(record["group"])) == [*groups, "reduction"]
        last = record[record["step"] == record["step"].max()]
        assert list(zip(last["block"], last["group"], strict=True)) == [
            *((block, group) for block in (0, 1) for group in groups),
            *((2, group) for group in ("reduction", *groups)),
        ]


@pytest.mark.parametrize("variant", ANNEALED)
def test_annealing_holds_the_weights_that_it_should(here: Path, variant: str) -> None:
    after = load_file(run(variant).files.model)
    before = load_file(run(variant.rpartition("-")[0]).files.model)
    qkr, released = "qkr" in variant, "released" in variant
    trace = pd.read_parquet(run(variant).files.annealing)
    governed = [f"layers.0.blocks.0.attn.{'v' if qkr else 'qkv'}", "layers.1.downsample.reduction"]
    assert set(governed) < set(trace["layer"])
    for layer in set(trace["layer"]):
        moved = (after[f"{layer}.weight"] != before[f"{layer}.weight"]).float().mean()
        assert moved < 0.3, layer
    if qkr:
        sides = [f"layers.1.blocks.0.attn.{side}.weight" for side in "qk"]
        assert [torch.equal(after[name], before[name]) for name in sides] == [not released] * 2
    assert not torch.equal(after["head.fc.weight"], before["head.fc.weight"])
    assert ("layers.1.downsample.reduction.bias" in after) == released


@pytest.mark.parametrize("variant", ["teacher", "statsq", "lsq-qkr", "statsq-qkr-cga"])
def test_stopped_and_resumed_it_ends_as_it_would_have(
    here: Path, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check_killed(run(variant), 4, save_every=3)
    assert "resumed after step 3" in capsys.readouterr().err


def test_it_is_measured_again_and_with_noise(here: Path) -> None:
    """Query and key turn round head by head, and blocks have different numbers of heads."""
    for variant in ("statsq", "statsq-qkr"):
        config = resolve(params.load(), run(variant))
        run_probe(run(variant), config, steps=4)
        summary, record = outputs(run(variant), 4)
        places = [(row["block"], row["head"]) for row in read_json(summary)["coupling"]]
        assert places == [*((block, head) for block in (0, 1) for head in range(2)), *((2, head) for head in range(4))]
        assert "reduction" in set(pd.read_parquet(record)["group"])
        run_noise(run(variant), config, trials=1)
        noise = pd.read_parquet(run(variant).files.noise)
        assert (noise[noise["where"] != "none"]["injected"] > 0).all() and noise["loss"].nunique() > 1


def test_settings_of_the_released_code_are_those_of_its_family(here: Path) -> None:
    loaded = params.load()
    released, described = (resolve(loaded, run(name)) for name in ("statsq-qkr-released", "statsq-qkr"))
    assert isinstance(released, QatConfig) and isinstance(described, QatConfig)
    assert released.quantization.map_steps == "column" and released.quantization.merging_bias
    assert not {"map_steps", "merging_bias"} & described.quantization.model_fields_set
    assert "map_steps" not in described.canonical()
    for plain in ("statsq-qkr-released", "statsq-qkr"):
        config = resolve(
            loaded.model_copy(update={"models": loaded.models | {MODEL: loaded.models["vit_micro"]}}), run(plain)
        )
        assert "map_steps" not in config.canonical() and "merging_bias" not in config.canonical()
