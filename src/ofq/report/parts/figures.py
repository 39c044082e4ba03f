"""The figures of a study."""

from pathlib import Path

import numpy as np
import pandas as pd

from ofq.config.params import Params
from ofq.report import collect
from ofq.report.panels import crowded, legend, line, panels, places, sideways, variants, wrapped
from ofq.report.parts.plots_data import curves, over_training
from ofq.report.style import look, save
from ofq.runs.files import write_text
from ofq.runs.paths import Run

GROUPS = ["q", "k", "qk", "v", "proj", "fc1", "fc2"]


def write_figures(params: Params, study: str, directory: Path) -> None:
    """Draw accuracy, oscillation over training, latent weights and oscillation by layer group, model by model.

    A study of several models gets one row of panels for each.

    Args:
        params: narrowed to the grid.
        study: name.
        directory: of the report.

    Raises:
        UserError: a run is missing.
    """
    runs = collect.student_runs(params, study)
    metrics = collect.metrics(runs)
    _accuracy(params, study, directory, metrics, collect.teachers(params, study))
    oscillation = collect.records(runs, "oscillation")
    _over_training(params, study, directory, oscillation)
    _layer_groups(params, study, directory, oscillation)
    _latent_weights(params, study, directory, runs)


def _accuracy(params: Params, study: str, directory: Path, metrics: pd.DataFrame, teachers: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    names = variants(params, study)
    many = crowded(names)
    columns = 1 if many else len(spec.models)
    figure, axes = panels(columns, len(spec.models) // columns, height=4.4 if many else 3.6, sharey=False)
    data = collect.spread(metrics, ["top1"])
    for ax, model in zip(axes.flat, spec.models, strict=True):
        full = teachers[teachers["model"] == model]["top1"]
        ax.axhline(full.mean(), color="#777777", linestyle="--", linewidth=1, label="full precision")
        for name, shift in zip(names, sideways(len(names)), strict=True):
            rows = data[(data["model"] == model) & (data["variant"] == name)].set_index("bits").reindex(spec.bits)
            style = looks[name] | {"linestyle": "none", "markersize": 6, "capsize": 3}
            x = np.arange(len(spec.bits)) + shift
            ax.errorbar(x, rows["top1_mean"], yerr=rows["top1_sd"].fillna(0), label=name, **style)
        places(ax, [bits.upper() for bits in spec.bits])
        ax.set_xlabel("bits of weights (W) and activations (A)")
        ax.set_ylabel(f"top-1 on {spec.data.evaluate} images, %")
        ax.set_title(model)
    figure.suptitle(f"{study}: accuracy, mean ± sd over {collect.seeds(params, study)}", fontsize=10)
    legend(figure, axes)
    save(figure, directory / "figures", "accuracy", [*metrics["run"], *teachers["run"]])


def _over_training(params: Params, study: str, directory: Path, record: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    names = variants(params, study)
    grid = [(model, bits) for model in spec.models for bits in spec.bits]
    columns = 1 if crowded(names) else len(spec.bits)
    figure, axes = panels(columns, len(grid) // columns, height=3.0)
    data = over_training(params, study, record)
    write_text(directory / "figures" / "oscillation.csv", curves(data).to_csv(index=False))
    for ax, (model, bits) in zip(axes.flat, grid, strict=True):
        for name in names:
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            line(ax, part["step"], part["share_mean"], part["share_sd"], looks[name], label=name)
        ax.set_title(f"{model}, {bits.upper()}")
    for ax in axes[:, 0]:
        ax.set_ylabel("weights with reversal\nfrequency > 0.005, %")
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    figure.suptitle(f"{study}: oscillation over training, mean ± sd over {collect.seeds(params, study)}", fontsize=10)
    legend(figure, axes)
    save(figure, directory / "figures", "oscillation", record["run"])


def _layer_groups(params: Params, study: str, directory: Path, record: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    names = variants(params, study)
    many = crowded(names)
    figure, axes = panels(1, len(spec.models) * len(spec.bits), height=2.6 if many else 2.0)
    last = record[record["step"] == record.groupby("run")["step"].transform("max")]
    shares = collect.group_means(last, [*collect.KEYS, "run", "group"], ["share"])
    data = collect.spread(shares, ["share"], by=[*collect.KEYS, "group"])
    groups = [group for group in GROUPS if group in set(data["group"])]
    grid = [(model, bits) for model in spec.models for bits in spec.bits]
    for ax, (model, bits) in zip(axes[:, 0], grid, strict=True):
        for name, shift in zip(names, sideways(len(names)), strict=True):
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            part = part.set_index("group").reindex(groups)
            style = looks[name] | {"linestyle": "none", "markersize": 4 if many else 5, "capsize": 0 if many else 2}
            x = np.arange(len(groups)) + shift
            ax.errorbar(x, part["share_mean"], yerr=part["share_sd"].fillna(0), label=name, **style)
        places(ax, groups)
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1])  # markers at 0 are seen whole
        ax.set_ylabel("oscillating, %")
        ax.set_title(f"{model}, {bits.upper()}")
    axes[-1, 0].set_xlabel("layer group (qk: product of query and key weights, under QKR)")
    figure.suptitle(
        f"{study}: weights with reversal frequency > 0.005 at the end, mean ± sd over {collect.seeds(params, study)}",
        fontsize=10,
    )
    legend(figure, axes)
    save(figure, directory / "figures", "layer_groups", record["run"])


def _latent_weights(params: Params, study: str, directory: Path, runs: list[Run]) -> None:
    """Density of the final latent weights in code steps, at the study's lowest bits, all seeds together."""
    spec = params.studies[study]
    looks = look(list(params.variants))
    bits = spec.bits[0]
    record = collect.records([run for run in runs if run.bits == bits], "weights")
    grid = [(model, name) for model in spec.models for name in variants(params, study)]
    figure, axes = wrapped(len(grid), height=1.8)
    for ax, (model, name) in zip(axes, grid, strict=True):
        part = record[(record["model"] == model) & (record["variant"] == name)]
        counts = part.groupby("bin_left")["weights"].sum()
        width = float(np.diff(np.sort(counts.index)).min())
        ax.bar(
            counts.index, 100 * counts / counts.sum(), width=width, align="edge", color=looks[name]["color"], alpha=0.6
        )
        low, high = int(np.floor(counts.index.min())), int(np.ceil(counts.index.max()))
        for threshold in np.arange(low, high) + 0.5:
            ax.axvline(threshold, color="black", linestyle=":", linewidth=1)
        ax.set_title(name if len(spec.models) == 1 else f"{model}, {name}")
    figure.supylabel("weights, %", fontsize=10)
    figure.supxlabel("latent weight in code steps", fontsize=10)
    figure.suptitle(
        f"{study}, {bits.upper()}: latent weights at the end of the run, {collect.seeds(params, study)} together\n"
        "dotted: rounding thresholds; the outermost bars hold the clamped weights",
        fontsize=10,
    )
    save(figure, directory / "figures", "latent_weights", record["run"])
