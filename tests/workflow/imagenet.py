"""The paper's study as ``params.yaml`` has it, two steps a run, on generated images of its size and on the processor."""

from typing import Any

import timm
import yaml
from safetensors.torch import save_file

from ofq.runs.paths import Run
from tests.conftest import ROOT, Project
from tests.data.photos import odd_folders, plain_folders

CLASSES = 20
RECIPES = ("deit", "deit-mixed", "swin", "swin-mixed")


def run_of(model: str, variant: str, bits: str = "w2a2") -> Run:
    return Run("imagenet", model, bits, variant, 42)


def write_imagenet(project: Project, bits: str = "w2a2", *, whole: bool = False) -> None:
    """Make it the study of a project: a class of all odd kinds of image, weights of teachers as files.

    The smallest model has every variant, the others have theirs in a group ``larger``: all if it is to be whole.
    """
    odd_folders(project.root / "photos")
    plain_folders(project.root / "photos", classes=tuple(f"class {i}" for i in range(CLASSES - 3)), train=1)
    for second in (project.root / "photos/val").glob("*/1.*"):
        second.unlink()
    text = (ROOT / "params.yaml").read_text()
    project.params = project.params | {key: value for key, value in _loaded(text).items() if key != "studies"}
    study = _loaded(text)["studies"]["imagenet"]
    study["data"] = {"name": "imagefolder", "root": "photos", "image_size": 224, "stream": True, "workers": 1}
    larger = {"models": ["deit_small", "swin_tiny"], "variants": ["statsq-qkr", "statsq-qkr-cga"]}
    if whole:
        larger["variants"] = study["variants"]
    study |= {"hardware": {}, "threads": 1, "bits": [bits], "models": ["deit_tiny"], "groups": {"larger": larger}}
    study["recipe_for"] = {"swin_tiny/w2a2": "swin"} if bits == "w2a2" else {f"deit_tiny/{bits}": "deit-mixed"}
    project.params |= {"study": "imagenet", "studies": {"imagenet": study}}
    weights = project.root / "weights"
    weights.mkdir()
    for model in ("deit_tiny", *larger["models"]):
        named = project.params["models"][model]
        made = timm.create_model(named["timm"], num_classes=CLASSES, **named.get("arguments", {}))
        save_file(made.state_dict(), weights / f"{model}.safetensors")
    for name in RECIPES:
        recipe = project.params["recipes"][name]
        recipe["teacher"] = {"pretrained": "weights/{model}.safetensors"}
        recipe["qat"] = {key: value for key, value in recipe["qat"].items() if "epochs" not in key}
        recipe["qat"] |= {"batch_size": 4, "steps": 2}
        recipe["cga"] = {"steps": 2}
    project.write_params()


def _loaded(text: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(text)
    return content
