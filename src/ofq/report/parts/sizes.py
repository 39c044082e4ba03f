"""The tables ``sizes`` and ``sizes_by_layer``: what exported runs take in each file, everything counted."""

from typing import Any

import pandas as pd

from ofq.config.grid import Grid
from ofq.export.sizes import Sizes, read_sizes
from ofq.report import collect
from ofq.report.render import write_table
from ofq.runs.paths import Run

_KINDS = {"float": "float", "checkpoint": "checkpoint", "packed": "packed", "onnx": "ONNX"}


def write_sizes(grid: Grid) -> None:
    """Write ``tables/sizes.*``, one row a run, and ``tables/sizes_by_layer.*``, one row for each layer of a run.

    Args:
        grid: the grid whose report is written; of its first seed.

    Raises:
        UserError: the sizes of a run are missing or damaged.
    """
    found = [(run, read_sizes(run.files.sizes)) for run in grid.exported]
    data = pd.DataFrame([_row(run, sizes) for run, sizes in found])
    shown: dict[str, Any] = {**data[collect.KEYS], "weights": data["weights"].map("{:,}".format)}
    shown |= {f"{name}, bytes": data[f"{kind}_bytes"].map("{:,}".format) for kind, name in _KINDS.items()}
    shown |= {f"{name}, bits a weight": data[f"{kind}_bits"].map("{:.2f}".format) for kind, name in _KINDS.items()}
    shown |= {f"{name}, top-1 %": data[f"{kind}_top1"].map("{:.2f}".format) for kind, name in _KINDS.items()}
    shown["images apart"] = data["apart"]
    caption = (
        f"Study {grid.study}, seed {grid.seeds[0]}: what a model takes in each file, and its accuracy from it. Float: "
        "its full-precision teacher; checkpoint: the run's own file, whose weights are latent, float32; packed and "
        "ONNX: integer codes. Bits a weight: the whole file, headers, steps, biases, norms and positions included, "
        "divided by the number of codes; under QKR that is the composed query-key weight's. Images apart: of the "
        f"evaluation images those whose ONNX logits differ by 1e-4 or more. {_by_parts(found)}"
    )
    write_table(grid.directory / "tables", "sizes", data, shown, list(data["runs"]), caption)
    _write_layers(grid, found)


def _row(run: Run, sizes: Sizes) -> dict[str, Any]:
    row: dict[str, Any] = _named(run) | {"weights": sizes.weights, "images": sizes.images, "apart": sizes.apart}
    for kind in _KINDS:
        size = sizes.files[kind]
        row |= {f"{kind}_bytes": size, f"{kind}_bits": 8 * size / sizes.weights, f"{kind}_top1": sizes.top1[kind]}
    return row


def _write_layers(grid: Grid, found: list[tuple[Run, Sizes]]) -> None:
    rows = [
        _named(run)
        | {"layer": layer.name, "weights": layer.weights, "code_bits": layer.bits}
        | {f"{kind}_bytes": layer.bytes[kind] for kind in _KINDS}
        for run, sizes in found
        for layer in sizes.layers
    ]
    data = pd.DataFrame(rows)
    first = data[data["variant"] == grid.quantized[0]]
    shown = {
        **first[["model", "bits", "layer"]],
        "weights": first["weights"].map("{:,}".format),
        "bits of a code": first["code_bits"].map(lambda bits: str(bits or "–")),
        **{f"{name}, bytes": first[f"{kind}_bytes"].map("{:,}".format) for kind, name in _KINDS.items()},
    }
    caption = (
        f"Study {grid.study}, seed {grid.seeds[0]}, {grid.quantized[0]}: what each layer takes in each file, its codes "
        "with steps, biases and the quantizer of its input. The CSV has all variants."
    )
    write_table(grid.directory / "tables", "sizes_by_layer", data, shown, list(first["runs"]), caption)


def _named(run: Run) -> dict[str, Any]:
    place: dict[str, Any] = collect.coordinates(run)
    return {**{key: place[key] for key in collect.KEYS}, "runs": place["run"]}


def _by_parts(found: list[tuple[Run, Sizes]]) -> str:
    """Say of the first run how much of its packed file is codes."""
    run, sizes = found[0]
    codes = sum(-(-layer.weights * layer.bits // 8) for layer in sizes.layers)
    return f"Of the packed file of {run.label} {100 * codes / sizes.files['packed']:.0f} % are codes."
