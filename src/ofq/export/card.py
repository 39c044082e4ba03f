"""The model card of a run, from its own files."""

import math
import statistics
from pathlib import Path
from typing import Any

import yaml

from ofq.data.manifest import Manifest
from ofq.export.header import About, Header
from ofq.runs.paths import Run
from ofq.runs.published import Info, read_info, read_metrics

_CARD = """\
# {model}, {bits}, {variant}: {data}

{timm}, whose weights have {weight_bits} and whose activations {input_bits} bits (first and last layer: {edge_bits}),
trained by ofq, a reproduction of *Oscillation-free Quantization for Low-bit Vision Transformers* (arXiv:2302.02210).
The file holds integer codes, steps, biases, norms and positions; no latent weights.

    import ofq
    model = ofq.load("THIS FOLDER")
    logits = model(images)  # {channels} x {height} x {width}, normalised as preprocessor_config.json says

## What it is

| | |
| --- | --- |
| run | `{run}`, weights by `{weight}`{qkr} |
| data | {data}: {train:,} training images, {evaluation:,} of the {evaluate} split; {terms} |
| recipe | {recipe} |
| top-1 accuracy, {evaluate} split | {top1:.2f} %; {spread} |
| oscillation | {oscillation} |
| size | {packed:,} bytes, {bits_a_weight:.2f} bits a weight, all counted; float32 checkpoint: {checkpoint:,} |

## For what

To study quantization to few bits on {data}, and to compare ways of it. It classifies images that look like those of
{data}, into {classes} classes; nothing else was tried. It is the model after the last step, not the best of several.

## Limits

* {standard_error}
* Steps of activations belong to positions: images have {height}x{width} pixels, no others.
* The integers save memory on the disk. On a CPU with int8 instructions layers of up to 6 bits multiply
  int8 codes; that it is faster elsewhere is not claimed.
* Trained once with each seed; what differs between two variants by less than the spread is not known to differ.

## Cite

Liu, Liu and Cheng: Oscillation-free Quantization for Low-bit Vision Transformers, ICML 2023, arXiv:2302.02210; this
reproduction by its CITATION.cff; the images as their authors ask: {terms}.

## Licence

The code is under the MIT licence. What may be done with weights depends also on the images: {terms}.
"""


def card(folder: Path, header: Header, manifest: Manifest, packed: int) -> str:
    """Return the text of README.md with its metadata.

    Args:
        folder: of the run.
        header: of its packed file.
        manifest: of its data.
        packed: size of the packed file in bytes.
    """
    run, info, blocks = Run.named(header.run), read_info(folder / "run.json", "config"), header.quantization
    metrics = read_metrics(folder / "metrics.json", "top1", "osc_share", "reversals")
    evaluation = manifest.files.eval.images
    error = 100 * (metrics["top1"] / 100 * (1 - metrics["top1"] / 100) / evaluation) ** 0.5
    text = _CARD.format(
        model=run.model,
        bits=run.bits.upper(),
        variant=run.variant,
        data=header.data,
        timm=_architecture(header),
        **blocks.model_dump(include={"weight_bits", "input_bits", "edge_bits", "weight"}),
        qkr=", query and key composed (QKR)" if blocks.qkr else "",
        channels=header.images.channels,
        height=header.images.size[0],
        width=header.images.size[1],
        run=run,
        train=manifest.files.train.images,
        evaluation=evaluation,
        evaluate=manifest.evaluate,
        terms=manifest.terms,
        recipe=_recipe(info),
        top1=metrics["top1"],
        spread=_spread(folder),
        oscillation=_oscillation(metrics),
        packed=packed,
        bits_a_weight=8 * packed / sum(math.prod(coded.shape) for coded in header.codes.values()),
        checkpoint=(folder / "model.safetensors").stat().st_size,
        classes=header.classes,
        standard_error=f"With {evaluation:,} images the standard error of one accuracy is {error:.2f} points.",
    )
    return f"---\n{yaml.safe_dump(_metadata(header), sort_keys=False)}---\n\n{text}"


def results(folder: Path, about: About, manifest: Manifest) -> str:
    """Return the text of a file below ``.eval_results``, as the hub's pages of evaluation results read it."""
    info, evaluated = read_info(folder / "run.json"), manifest.files.eval.images
    entry: dict[str, Any] = {"dataset": {"id": about.data, "task_id": "image-classification"}, "value": about.top1}
    if "finished" in info:
        entry["date"] = info["finished"]
    entry["notes"] = f"top-1 accuracy in percent on the {evaluated} images of the {manifest.evaluate} split"
    return yaml.safe_dump([entry], sort_keys=False)


def _metadata(about: About) -> dict[str, Any]:
    return {
        "license": "other",
        "license_name": "code-mit-images-their-own-terms",
        "library_name": "ofq",
        "pipeline_tag": "image-classification",
        "tags": ["quantization", "vision-transformer", "low-bit", "oscillation", "arxiv:2302.02210"],
        "datasets": [about.data],
        "metrics": ["accuracy"],
    }


def _architecture(header: Header) -> str:
    """Return timm's name of a model, with the arguments and attributes that make it another one."""
    told = ", ".join(f"{name} {value}" for name, value in sorted((header.model.arguments | header.model.set).items()))
    return f"timm's {header.model.timm}{f' with {told}' if told else ''}"


def _recipe(info: Info) -> str:
    """Return how a run was trained, in words."""
    config = info["config"]
    train = config["train"]
    length = f"{train['epochs']} epochs" if "epochs" in train else f"{train['steps']:,} steps"
    optimizer = "SGD" if train.get("optimizer") == "sgd" else "AdamW"
    told = [
        f"{length} of {train['batch_size']} images",
        f"{optimizer} at {train['lr']:g} to {train['min_lr']:g}, weight decay {train['weight_decay']:g}",
        "distilled from its full-precision teacher"
        if config.get("distillation", True)
        else "from the weights of its full-precision teacher, without distillation",
    ]
    if config["phase"] == "cga":
        told.append(f"annealed after `{config['parent']}`")
    if remedy := config.get("remedy"):
        told.append(f"with the remedy {remedy['name']}")
    return ", ".join(told)


def _spread(folder: Path) -> str:
    """Return accuracy over the seeds that are finished here, in words."""
    paths = sorted(folder.parent.glob("seed*/metrics.json"))
    found = [read_metrics(path, "top1")["top1"] for path in paths]
    if len(found) < 2:
        return "of one seed, so that nothing is known of its spread"
    return f"over {len(found)} seeds {statistics.mean(found):.2f} ± {statistics.stdev(found):.2f} %"


def _oscillation(metrics: dict[str, float]) -> str:
    """Return how much the weights oscillated, in words."""
    return (
        f"at the end {metrics['osc_share']:.2f} % of the low-bit weights oscillated; over the run a weight reversed "
        f"{metrics['reversals']:.2f} times in the mean"
    )
