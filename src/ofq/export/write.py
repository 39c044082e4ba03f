"""Write a finished run in one of the formats."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ofq.errors import UserError
from ofq.export.card import card, results
from ofq.export.deploy import deployed
from ofq.export.header import About, Images
from ofq.export.load import HUB_WEIGHTS, Loaded, manifest_of, needing_onnx, open_model
from ofq.export.packed import write_packed
from ofq.runs.files import write_json, write_text

Written = tuple[Path, int]
"""What was written, and its size in bytes."""


def deployed_run(folder: Path) -> Loaded:
    """Load a finished student and deploy it.

    Raises:
        UserError: it is not finished, or cannot be deployed.
    """
    loaded = open_model(folder)
    try:
        deployed(loaded.model)
    except ValueError as error:
        raise UserError(f"{folder} cannot be exported: {error}") from None
    return loaded


def packed(folder: Path, output: Path) -> Written:
    """Write the packed file of the run in a folder."""
    path = output / "packed.safetensors"
    model, about = deployed_run(folder)
    write_packed(path, model, about)
    return path, path.stat().st_size


def onnx(folder: Path, output: Path) -> Written:
    """Write the run in a folder as ONNX."""
    with needing_onnx():
        from ofq.export.onnx.write import write_onnx
    path = output / "model.onnx"
    model, about = deployed_run(folder)
    try:
        write_onnx(path, model, about)
    except ValueError as error:
        raise UserError(f"{folder} cannot be written as ONNX: {error}; --format packed can") from None
    return path, path.stat().st_size


def hub(folder: Path, output: Path) -> Written:
    """Write the run in a folder as a folder in the layout of the Hugging Face hub: nothing is uploaded."""
    model, about = deployed_run(folder)
    manifest, root = manifest_of(folder), output / "hub"
    weights = root / HUB_WEIGHTS
    header = write_packed(weights, model, about)
    write_json(root / "config.json", configuration(header))
    write_json(root / "preprocessor_config.json", preprocessing(header.images))
    write_text(root / ".eval_results" / f"{about.data}.yaml", results(folder, about, manifest))
    write_text(root / "README.md", card(folder, header, manifest, weights.stat().st_size))
    return root, sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def configuration(about: About) -> dict[str, Any]:
    """Return what ``config.json`` holds, with timm's names."""
    blocks = about.quantization
    return {
        "architecture": about.model.timm,
        "model_args": about.model.arguments,
        "num_classes": about.classes,
        "label_names": about.class_names,
        "quantization_config": {"quant_method": "ofq", **(blocks.model_dump() if blocks else {})},
    }


def preprocessing(images: Images) -> dict[str, Any]:
    """Return what ``preprocessor_config.json`` holds, with the names of the library transformers."""
    height, width = images.size
    return {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "crop_pct": images.crop,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": images.mean,
        "image_std": images.std,
        "do_convert_rgb": images.channels == 3,
    }


FORMATS: Mapping[str, Callable[[Path, Path], Written]] = {"packed": packed, "onnx": onnx, "hub": hub}
"""What writes a format, from a run's folder and the folder to write to."""
