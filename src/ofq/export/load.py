"""Load what was finished or exported: a run's folder, a packed file, a hub folder, an ONNX model."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ofq.config.quant_config import QuantConfig
from ofq.config.resolve import QatConfig, RunConfig, TeacherConfig
from ofq.config.settings import RemedySettings
from ofq.data.manifest import Manifest, read_manifest
from ofq.errors import UserError, not_installed, shortened
from ofq.export.deploy import SettledSign, activation_quantizers, coded_modules, deployed, entry_of
from ofq.export.header import About, Blocks, Header, Images
from ofq.export.packed import MEND, Packed, codes_of, read_packed, rounding
from ofq.models.backbone import build, build_model
from ofq.models.weights import load_weights
from ofq.quant.convert import quantize_model
from ofq.quant.hook import Hook
from ofq.quant.quantizers.learned import LearnedStepQuantizer
from ofq.remedies.load import remedy_class
from ofq.runs.paths import Run, RunFiles
from ofq.runs.provenance import file_digest
from ofq.runs.published import read_info, read_metrics
from ofq.training.student import quantize_as

HUB_WEIGHTS = "model.safetensors"


class Loaded(NamedTuple):
    """A model in evaluation mode, and what is known of it."""

    model: nn.Module
    about: About


def load(path: str | Path) -> nn.Module:
    """Load a model in evaluation mode.

    Args:
        path: the folder of a finished run, which gives the model as it was trained, with its latent weights; or a
            packed file, a hub folder or an ONNX model, which give it deployed.

    Raises:
        UserError: there is nothing of the kind, or it is damaged; in one line.
    """
    return open_model(path).model


def open_model(path: str | Path) -> Loaded:
    """Load a model as :func:`load` does, with what is known of it."""
    path = Path(path)
    if path.is_dir():
        if (path / "run.json").is_file():
            return _of_run(path)
        path = path / HUB_WEIGHTS
    if not path.is_file():
        raise UserError(f"{path} does not exist; name the folder of a finished run, or an exported file")
    if path.name == HUB_WEIGHTS and path.with_name("run.json").is_file():
        raise UserError(f"{path} is the file of a run; name its folder, {path.parent}")
    if path.suffix == ".onnx":
        with needing_onnx():
            from ofq.export.onnx.run import OnnxModel
        model = OnnxModel(path)
        return Loaded(model, model.about)
    packed = read_packed(path)
    return Loaded(built(packed, path), packed.header)


@contextmanager
def needing_onnx() -> Iterator[None]:
    """Make it an error of one line that onnx or onnxruntime is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise not_installed(error) or error from None


def built(packed: Packed, path: Path) -> nn.Module:
    """Build the deployed model of a packed file.

    It is first built without numbers, and compared with the file: what a header says takes no memory before.

    Raises:
        UserError: the file does not fit the model that it names.
    """
    header = packed.header
    found = {name: tuple(tensor.shape) for name, tensor in packed.tensors.items()}
    if (blocks := _blocks(header)) > len(found):
        raise UserError(f"{path} names a model of {blocks} blocks and has {len(found)} tensors; {MEND}")
    with torch.device("meta"):
        plan = _skeleton(packed, path)
    expected = {name: tuple(tensor.shape) for name, tensor in plan.state_dict().items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} does not fit {header.model.timm}: {shortened(name)} has the shape {found.get(name)} in the "
                f"file and {expected.get(name)} in the model; {MEND}"
            )
    model = _skeleton(packed, path)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in packed.tensors.items()})
    try:
        with torch.no_grad():
            model(torch.zeros(1, header.images.channels, *header.images.size))
    except (ValueError, RuntimeError) as error:  # of steps there may be any number
        raise _misfit(path, header, error) from None
    return model


def _of_run(path: Path) -> Loaded:
    config, manifest = _config(path), manifest_of(path)
    if isinstance(config, QatConfig) and config.remedy and _chooses_codes(config.remedy):
        raise UserError(
            f"{path} cannot be loaded: its remedy {config.remedy.name} chose the codes by its own round_with, whose "
            "state is in no file; load it in a script of yours"
        )
    model, teacher = build_model(config, manifest), isinstance(config, TeacherConfig)
    if not isinstance(config, TeacherConfig):
        quantize_as(model, config.quantization, config.model.timm)
    load_weights(model, RunFiles(path, teacher).model)
    return Loaded(model.eval(), _about(path, config, manifest))


def _about(path: Path, config: RunConfig, manifest: Manifest) -> About:
    """Return what is known of the finished run in a folder."""
    info, metrics = read_info(path / "run.json", "digests", "run"), read_metrics(path / "metrics.json", "top1")
    asked = {} if isinstance(config, TeacherConfig) else config.quantization.model_dump(mode="json")
    return About(
        model=config.model,
        classes=manifest.classes,
        class_names=manifest.folders.class_names if manifest.folders else None,
        images=Images(
            size=manifest.image_size,
            channels=manifest.channels,
            mean=manifest.mean,
            std=manifest.std,
            crop=manifest.folders.crop if manifest.folders else None,
        ),
        quantization=Blocks(**{name: asked[name] for name in Blocks.model_fields}) if asked else None,
        run=info["run"],
        data=manifest.data,
        licence=manifest.terms,
        top1=metrics["top1"],
        digests={"code": info["digests"]["code"], "weights": file_digest(path / "model.safetensors")},
    )


def _chooses_codes(remedy: RemedySettings) -> bool:
    """Whether a remedy's class rounds in its own way, so that weights and steps do not say which codes they have."""
    return remedy_class(remedy).round_with is not Hook.round_with


def _config(path: Path) -> RunConfig:
    """Return the settings of a finished run, from its folder."""
    content = read_info(path / "run.json", "config")["config"]
    try:
        found: RunConfig = TypeAdapter(RunConfig).validate_json(json.dumps(content))
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"{path / 'run.json'} holds settings of another version ({'.'.join(map(str, first['loc']))}: "
            f"{shortened(first['msg'], 120)}); run snakemake again"
        ) from None


def manifest_of(path: Path) -> Manifest:
    """Return the manifest of the study of a run's folder, wherever the results are."""
    whole = path.resolve()
    run = Run.parse("/".join(whole.parts[-5:]))
    if run is None:
        raise UserError(f"{path} is no folder of a run: results/study/model/bits/variant/seedN is")
    return read_manifest(run.study, whole.parents[4])


def _skeleton(packed: Packed, path: Path) -> nn.Module:
    """Build the deployed model that a header describes, with any numbers."""
    header = packed.header
    size, channels = header.images.size, header.images.channels
    model = build(header.model, image_size=size, channels=channels, classes=header.classes, seed=0)
    # A quantizer of weights whose steps are no parameters: codes and steps are the file's.
    asked = header.quantization.model_dump() | {"weight": "statsq"}
    with warnings.catch_warnings(action="ignore"):
        quantization = QuantConfig(**asked)
    try:
        deployed(_with_steps(quantize_model(model, quantization), packed))
        for name, module in coded_modules(model):
            stored, scale = module.weight_quantizer, packed.tensors.get(f"{name}.weight_quantizer.scale")
            coded = header.codes.get(f"{name}.{entry_of(module)}")
            if coded is None or scale is None:
                raise ValueError(f"{name} has no codes or no steps")
            stored.offset, stored.scale = coded.offset, stored.scale.new_empty(scale.size)
        quantizers = activation_quantizers(model)
        for name, quantizer in quantizers.items():
            if isinstance(quantizer, SettledSign) and name in header.activations:
                quantizer.signed = header.activations[name].signed
        if header.codes != codes_of(model):
            raise ValueError("its codes are not those of such a model")
        if header.activations != {name: rounding(each) for name, each in quantizers.items()}:
            raise ValueError("its activations are not rounded as those of such a model")
    except (ValueError, RuntimeError) as error:
        raise _misfit(path, header, error) from None
    return model


def _with_steps(model: nn.Module, packed: Packed) -> nn.Module:
    """Give every learned step of a skeleton as many numbers as the file has for it."""
    for name, module in model.named_modules():
        if isinstance(module, LearnedStepQuantizer):
            found: Any = packed.tensors.get(f"{name}.scale")
            module.scale.materialize((1 if found is None else found.size,))  # type: ignore[attr-defined]
            nn.init.ones_(module.scale)
    return model


def _blocks(header: Header) -> int:
    """Return how many blocks a header's model is said to have."""
    arguments = header.model.arguments
    told = [arguments.get("depth", 0), arguments.get("depths", 0)]
    return sum(sum(each) if isinstance(each, list) else int(each) for each in told if not isinstance(each, str))


def _misfit(path: Path, header: Header, error: Exception) -> UserError:
    return UserError(f"{path} does not fit {header.model.timm} ({shortened(str(error), 200)}); {MEND}")
