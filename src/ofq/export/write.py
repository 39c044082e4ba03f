"""Write a finished run in one of the formats."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ofq.errors import UserError
from ofq.export.card import card, results
from ofq.export.deploy import deployed
from ofq.export.header import About, Images
from ofq.export.load import HUB_WEIGHTS, manifest_of, needing_onnx, open_model
from ofq.export.packed import read_packed, write_packed
from ofq.export.sizes import Sizes, layers_of
from ofq.export.use import compared, data_for
from ofq.runs.files import write_json, write_text
from ofq.runs.paths import Run
from ofq.runs.published import read_metrics


class Deployed(NamedTuple):
    """A finished student with integer codes instead of latent weights, and the folder that it is from."""

    folder: Path
    model: nn.Module
    about: About


def deployed_run(folder: Path) -> Deployed:
    """Load a finished student and deploy it.

    Raises:
        UserError: it is not finished, or cannot be deployed.
    """
    model, about = open_model(folder)
    try:
        return Deployed(folder, deployed(model), about)
    except ValueError as error:
        raise UserError(f"{folder} cannot be exported: {error}") from None


def packed(run: Deployed, output: Path) -> list[Path]:
    """Write a run's packed file."""
    path = output / "packed.safetensors"
    write_packed(path, run.model, run.about)
    return [path]


def onnx(run: Deployed, output: Path) -> list[Path]:
    """Write a run as ONNX."""
    with needing_onnx():
        from ofq.export.onnx.write import write_onnx
    path = output / "model.onnx"
    try:
        write_onnx(path, run.model, run.about)
    except ValueError as error:
        raise UserError(f"{run.folder} cannot be written as ONNX: {error}; --format packed can") from None
    return [path]


def hub(run: Deployed, output: Path) -> list[Path]:
    """Write a run as a folder in the layout of the Hugging Face hub: nothing is uploaded."""
    manifest, root = manifest_of(run.folder), output / "hub"
    weights = root / HUB_WEIGHTS
    header = write_packed(weights, run.model, run.about)
    settings = {"config.json": configuration(header), "preprocessor_config.json": preprocessing(header.images)}
    texts = {
        f".eval_results/{header.data}.yaml": results(run.folder, run.about, manifest),
        "README.md": card(run.folder, header, manifest, weights.stat().st_size),
    }
    for name, content in settings.items():
        write_json(root / name, content)
    for name, text in texts.items():
        write_text(root / name, text)
    return sorted([weights, *(root / name for name in (*settings, *texts))])


def measured(run: Deployed, output: Path) -> list[Path]:
    """Write a run packed and as ONNX, evaluate both on its study's images, and write what all take."""
    paths = {"packed": packed(run, output)[0], "onnx": onnx(run, output)[0]}
    models = {kind: open_model(path).model for kind, path in paths.items()}
    named = Run.named(run.about.run)
    top1_of, apart, images = compared(models["packed"], models["onnx"], data_for(run.about, named.study))
    files = {"float": named.teacher.files.model, "checkpoint": named.files.model, **paths}
    top1 = {kind: read_metrics(files[kind].parent / "metrics.json", "top1")["top1"] for kind in ("float", "checkpoint")}
    found = Sizes(
        run=str(named),
        files={kind: path.stat().st_size for kind, path in files.items()},
        top1=top1 | dict(zip(models, top1_of, strict=True)),
        images=images,
        apart=apart,
        layers=layers_of(read_packed(paths["packed"]).header, files),
    )
    path = output / "sizes.json"
    write_json(path, found.model_dump())
    return [*paths.values(), path]


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


FORMATS: Mapping[str, Callable[[Deployed, Path], list[Path]]] = {
    "packed": packed,
    "onnx": onnx,
    "hub": hub,
    "all": measured,
}
"""What writes a run in a format into a folder, and returns the files."""
