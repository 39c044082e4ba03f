"""The figures of a study."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ofq.files import write_text
from ofq.params import Params
from ofq.paths import Run, report_dir
from ofq.report import collect
from ofq.report.plots_data import curves, over_training
from ofq.report.style import WIDTH, look, save

GROUPS = ["q", "k", "qk", "v", "proj", "fc1", "fc2"]


def write_figures(params: Params, study: str, group: str | None = None) -> None:
    """Draw accuracy, oscillation over training, latent weights and oscillation by layer group, model by model.

    A study of several models gets one row of panels for each.

    Args:
        params: of the project.
        study: name.
        group: of the study; None: its main grid.

    Raises:
        UserError: no such group, or a run is missing.
    """
    params, report = params.view(study, group), report_dir(study, group)
    runs = collect.student_runs(params, study)
    metrics = collect.metrics(runs)
    _accuracy(params, study, report, metrics, collect.teachers(params, study))
    oscillation = collect.records(runs, "oscillation")
    _over_training(params, study, report, oscillation)
    _layer_groups(params, study, report, oscillation)
    _latent_weights(params, study, report, runs)


def _accuracy(params: Params, study: str, report: Path, metrics: pd.DataFrame, teachers: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    figure, axes = _panels(len(spec.models), 1, height=3.6)
    data = collect.spread(metrics, ["top1"])
    for ax, model in zip(axes[0], spec.models, strict=True):
        full = teachers[teachers["model"] == model]["top1"]
        ax.axhline(full.mean(), color="#777777", linestyle="--", linewidth=1, label="full precision")
        names = _variants(params, study)
        for i, name in enumerate(names):
            rows = data[(data["model"] == model) & (data["variant"] == name)].set_index("bits").reindex(spec.bits)
            x = np.arange(len(spec.bits)) + 0.09 * (i - (len(names) - 1) / 2)
            style = looks[name] | {"linestyle": "none", "markersize": 6, "capsize": 3}
            ax.errorbar(x, rows["top1_mean"], yerr=rows["top1_sd"].fillna(0), label=name, **style)
        ax.set_xticks(range(len(spec.bits)), [bits.upper() for bits in spec.bits])
        ax.set_xlabel("bits of weights (W) and activations (A)")
        ax.set_ylabel(f"top-1 on {spec.data.evaluate} images, %")
        ax.set_title(f"{study}, {model}: mean ± sd over {_seeds(params, study)}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")
    save(figure, report / "figures", "accuracy", [*metrics["run"], *teachers["run"]])


def _over_training(params: Params, study: str, report: Path, record: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    figure, axes = _panels(len(spec.bits), len(spec.models), height=3.0)
    data = over_training(params, study, record)
    write_text(report / "figures" / "oscillation.csv", curves(data).to_csv(index=False))
    for row, model in zip(axes, spec.models, strict=True):
        for ax, bits in zip(row, spec.bits, strict=True):
            for name in _variants(params, study):
                part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
                steps, mean, sd = part["step"], part["share_mean"], part["share_sd"].fillna(0)
                ax.plot(steps, mean, label=name, markersize=3, linewidth=1.2, **looks[name])
                ax.fill_between(steps, mean - sd, mean + sd, color=looks[name]["color"], alpha=0.2, linewidth=0)
            ax.set_title(f"{model}, {bits.upper()}")
            ax.set_xlabel("optimizer step")
        row[0].set_ylabel("weights with reversal\nfrequency > 0.005, %")
    figure.suptitle(f"{study}: oscillation over training, mean ± sd over {_seeds(params, study)}", fontsize=10)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, report / "figures", "oscillation", record["run"])


def _layer_groups(params: Params, study: str, report: Path, record: pd.DataFrame) -> None:
    spec = params.studies[study]
    looks = look(list(params.variants))
    figure, axes = _panels(1, len(spec.models) * len(spec.bits), height=2.0)
    last = record[record["step"] == record.groupby("run")["step"].transform("max")]
    shares = collect.group_means(last, [*collect.KEYS, "run", "group"], ["share"])
    data = collect.spread(shares, ["share"], by=[*collect.KEYS, "group"])
    groups = [group for group in GROUPS if group in set(data["group"])]
    panels = [(model, bits) for model in spec.models for bits in spec.bits]
    for ax, (model, bits) in zip(axes[:, 0], panels, strict=True):
        names = _variants(params, study)
        for i, name in enumerate(names):
            part = data[(data["model"] == model) & (data["bits"] == bits) & (data["variant"] == name)]
            part = part.set_index("group").reindex(groups)
            x = np.arange(len(groups)) + 0.1 * (i - (len(names) - 1) / 2)
            style = looks[name] | {"linestyle": "none", "markersize": 5, "capsize": 2}
            ax.errorbar(x, part["share_mean"], yerr=part["share_sd"].fillna(0), label=name, **style)
        ax.set_xticks(range(len(groups)), groups)
        ax.set_ylim(bottom=0)
        ax.set_ylabel("oscillating, %")
        ax.set_title(f"{model}, {bits.upper()}")
    axes[-1, 0].set_xlabel("layer group (qk: product of query and key weights, under QKR)")
    figure.suptitle(
        f"{study}: weights with reversal frequency > 0.005 at the end, mean ± sd over {_seeds(params, study)}",
        fontsize=10,
    )
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, report / "figures", "layer_groups", record["run"])


def _latent_weights(params: Params, study: str, report: Path, runs: list[Run]) -> None:
    """Density of the final latent weights in code steps, at the study's lowest bits, all seeds together."""
    spec = params.studies[study]
    looks = look(list(params.variants))
    bits = spec.bits[0]
    record = collect.records([run for run in runs if run.bits == bits], "weights")
    names = _variants(params, study)
    columns = min(3, len(names))
    figure, axes = _panels(columns, -(-len(names) // columns) * len(spec.models), height=2.2, sharey=True)
    panels = [(model, name) for model in spec.models for name in names]
    for ax, (model, name) in zip(axes.flat, panels, strict=False):
        part = record[(record["model"] == model) & (record["variant"] == name)]
        counts = part.groupby("bin_left")["weights"].sum()
        width = float(np.diff(np.sort(counts.index)).min())
        ax.bar(counts.index, 100 * counts / counts.sum(), width=width, align="edge", color=looks[name]["color"])
        low, high = int(np.floor(counts.index.min())), int(np.ceil(counts.index.max()))
        for threshold in np.arange(low, high) + 0.5:
            ax.axvline(threshold, color="black", linestyle=":", linewidth=1)
        ax.set_title(name if len(spec.models) == 1 else f"{model}, {name}")
    for ax in axes[:, 0]:
        ax.set_ylabel("weights, %")
    for ax in axes[-1]:
        ax.set_xlabel("latent weight in code steps")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_visible(False)
    figure.suptitle(
        f"{study}, {bits.upper()}: latent weights at the end of the run, {_seeds(params, study)} together\n"
        "dotted: rounding thresholds; the outermost bars hold the clamped weights",
        fontsize=10,
    )
    save(figure, report / "figures", "latent_weights", record["run"])


def _panels(columns: int, rows: int, *, height: float, sharey: bool | str = "row") -> tuple[Figure, np.ndarray]:
    """A grid of axes, ``height`` inches a row, always as a two-dimensional array."""
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, height * rows + 0.6),
        squeeze=False,
        sharey=sharey,  # type: ignore[arg-type]
    )
    return figure, axes


def _variants(params: Params, study: str) -> list[str]:
    listed = params.studies[study].variants
    return [name for name in params.variants if name in listed]


def _seeds(params: Params, study: str) -> str:
    seeds = params.studies[study].seeds
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
