"""What other files, checkpoints and people rely on, as the code has it now; ``pins.json`` is what it must be.

    python -m tests.pins.found

writes ``pins.json`` anew. What stands there once stays: names and orders of saved state decide whether an older file can
be read, canonical settings whether a finished run is trained again. Add entries; change one only where a commit says why.
"""

import hashlib
import json
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors import safe_open

from ofq.cli.main import main
from ofq.cli.run import commands as all_commands
from ofq.config import params
from ofq.config.grid import Grid, all_runs
from ofq.config.resolve import resolve
from ofq.config.settings import ModelSettings
from ofq.models.backbone import build
from ofq.quant import QuantConfig, quantize_model
from ofq.report.artefacts import files_of
from ofq.runs import checkpoint
from ofq.training.optim import make_optimizer
from ofq.workflow.targets import named
from tests.conftest import ROOT, SMALL

PINS = Path(__file__).parent / "pins.json"

# One run of each kind, whose canonical settings stand in full; of all others a digest.
IN_FULL = [
    "digits/vit_micro/fp/teacher/seed0",
    "digits/vit_micro/w2a2/lsq/seed0",
    "digits/vit_micro/w4a4/lsq-midrise-identity/seed1",
    "digits/vit_micro/w3a3/statsq-qkr/seed2",
    "digits/vit_micro/w2a2/statsq-qkr-cga/seed0",
    "digits/vit_micro/w2a2/statsq-frozen/seed0",
    "digits/vit_micro/w2a2/lsq-freezing/seed4",
    "digits/vit_micro_distilled/w2a2/statsq-qkr-released/seed0",
    "digits/vit_micro_distilled/w2a2/statsq-qkr-released-cga/seed0",
    "digits-lr/vit_micro/fp/teacher-lr0.03/seed0",
    "digits-lr/vit_micro/w2a2/statsq-lr0.004/seed3",
    "fashion/vit_small28/w2a2/statsq-qkr-cga-free-qk/seed0",
]
QUANTIZED: dict[str, dict[str, Any]] = {
    "lsq": {"weight": "lsq"},
    "statsq": {"weight": "statsq"},
    "statsq-qkr": {"weight": "statsq", "qkr": True},
    "lsq-qkr": {"weight": "lsq-midrise", "qkr": True, "learn_step": False},
    "dead-biases": {"weight": "statsq", "dead_biases": True},
    "qkr-dead-biases": {"weight": "statsq", "qkr": True, "dead_biases": True},
}


def canonical() -> dict[str, Any]:
    """Settings of every run of ``params.yaml`` as Snakemake compares them: in full, and as digests."""
    settings = params.load(ROOT / "params.yaml")
    runs = sorted({run for study in settings.studies for run in all_runs(settings, study)})
    runs = sorted({*runs, *(run.teacher for run in runs)})
    texts = {str(run): resolve(settings, run).canonical() for run in runs}
    digests = {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()}
    return {"in_full": {name: texts[name] for name in IN_FULL}, "digests": digests}


def state(model: ModelSettings, quantized: dict[str, Any]) -> dict[str, Any]:
    """Names of a quantized model's entries in order, and of the optimizer's parameters, which it keeps by number."""
    settings = params.load(ROOT / "params.yaml")
    network = build(model, image_size=(8, 8), channels=1, classes=10, seed=0)
    quantize_model(network, QuantConfig(**quantized))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = make_optimizer(network, settings.recipes["digits"].qat).param_groups
    return {
        "entries": list(network.state_dict()),
        "parameters": [name for name, _ in network.named_parameters()],
        "optimizer": [[names[id(parameter)] for parameter in group["params"]] for group in groups],
    }


def states() -> dict[str, Any]:
    """Of every kind of quantization, on a model with one head and on one with two."""
    models = params.load(ROOT / "params.yaml").models
    short = {name: models[name].model_copy(update={"arguments": models[name].arguments | {"depth": 1}}) for name in ("vit_micro", "vit_micro_distilled")}  # fmt: skip
    return {f"{model} {name}": state(short[model], config) for model in short for name, config in QUANTIZED.items()}


def commands() -> list[str]:
    """Names of the subcommands."""
    return sorted(all_commands())


def targets() -> dict[str, Any]:
    """What Snakemake can be asked for: names, and the files of each report of digits."""
    settings = params.load(ROOT / "params.yaml")
    groups = [None, *settings.studies["digits"].groups]
    reports = {group or "main": sorted(files_of(Grid(settings, "digits", group))) for group in groups}
    return {"names": sorted(named(settings)), "reports": reports}


def files() -> dict[str, Any]:
    """Names in every file of a small finished study."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["recipes"]["digits"] = SMALL
    variants = ["statsq", "statsq-cga", "lsq-freezing"]
    content["studies"] = {
        "digits": content["studies"]["digits"] | {"bits": ["w2a2"], "seeds": [0], "variants": variants}
    }
    for key in ("groups", "learning_rates"):
        del content["studies"]["digits"][key]
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        Path("params.yaml").write_text(yaml.safe_dump(content))
        base = "digits/vit_micro"
        steps = [
            ["data", "digits"],
            ["teacher", f"{base}/fp/teacher/seed0"],
            *(["qat", f"{base}/w2a2/{name}/seed0"] for name in ("statsq", "lsq-freezing")),
            ["cga", f"{base}/w2a2/statsq-cga/seed0"],
            ["probe", f"{base}/w2a2/statsq/seed0", "--steps", "5"],
            ["noise", f"{base}/w2a2/statsq/seed0"],
        ]
        for step in steps:
            assert main(step) == 0, step
        found = {str(path): _names(path) for path in sorted(Path("results").rglob("*")) if path.is_file()}
    return {name.removeprefix("results/digits/"): names for name, names in found.items()}


def _names(path: Path) -> Any:
    match path.suffix:
        case ".safetensors":
            with safe_open(path, "pt") as file:
                return sorted(file.keys())
        case ".pt":
            return _shape(checkpoint.load(path))
        case ".parquet":
            frame = pd.read_parquet(path)
            return {name: str(kind) for name, kind in frame.dtypes.items()}
        case ".jsonl":
            events = [json.loads(line) for line in path.read_text().splitlines()]
            return {event["event"]: _shape(event) for event in reversed(events)}
    return _shape(json.loads(path.read_text()))


def _shape(value: Any) -> Any:
    """Names and types of a nested value, without its numbers; of a list the first entry."""
    if isinstance(value, dict):
        # Digests by path, versions, and the optimizer's state by number are many of a kind.
        return {str(key): _shape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shape(value[0])] if value else []
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


def everything() -> dict[str, Any]:
    """All pins."""
    return {
        "canonical": canonical(),
        "states": states(),
        "commands": commands(),
        "targets": targets(),
        "files": files(),
    }


if __name__ == "__main__":
    PINS.write_text(json.dumps(everything(), indent=1) + "\n")
