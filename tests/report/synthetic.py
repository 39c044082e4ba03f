"""Published files of runs, made up: just enough for the report to read, with numbers that are easy to follow."""

from typing import Any

import numpy as np
import pandas as pd
import yaml

from ofq.config.grid import Grid
from ofq.config.params import Params
from ofq.oscillation.thresholds import DISTANCE_BINS, HALF_STEP, POSITION_BIN
from ofq.runs.files import write_json
from ofq.runs.paths import Run, data_dir
from tests.conftest import ROOT

LAYERS = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def parameters(study: dict[str, Any], more: dict[str, Any] | None = None) -> Params:
    """The project's parameters with another grid for the study digits, and with further variants."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["studies"]["digits"] |= study
    content["variants"] |= more or {}
    return Params.model_validate(content)


def write_run(params: Params, run: Run, rng: np.random.Generator, *, top1: float, share: float, steps: int) -> None:
    """Metrics, oscillation and weights of a quantized run; of an annealed one what was free at each step too."""
    variant = params.variant(run.variant)
    write_json(
        run.files.metrics,
        {"top1": top1, "loss": 10 / top1, "osc_share": share, "reversals": share / 2, "top1_best": top1}
        | {"seed": run.seed, "steps": steps},
    )
    source = params.variant(variant.parent) if variant.parent else variant
    groups = (["qk"] if source.qkr else ["q", "k"]) + ["v", "proj", "fc1", "fc2"]
    rows, weights, annealing = [], [], []
    for block in (0, 1):
        for group in groups:
            layer = f"blocks.{block}.{LAYERS.get(group, 'attn.qk')}"
            for step in range(steps // 12, steps + 1, steps // 12):
                noisy = share * (1 + 0.1 * rng.standard_normal())
                rows.append(
                    {"step": step, "layer": layer, "group": group, "block": block, "weights": 1024}
                    | {"share": abs(noisy), "share_high": abs(noisy) / 3, "reversals": abs(noisy) / 2}
                    | {"step_width": source.factor * 2.0**-run.widths.weights * (1 + 0.1 * step / steps)}
                )
            position = rng.normal(-0.5, 1.0, 1024).clip(-2.0, 1.0)
            bins, counts = np.unique(np.floor(position / POSITION_BIN).astype(int), return_counts=True)
            weights += [
                {"layer": layer, "group": group, "bin_left": round(index * POSITION_BIN, 6), "weights": int(count)}
                for index, count in zip(bins, counts, strict=True)
            ]
            if variant.cga is not None and group in ("v", "proj", "fc1", "fc2"):
                band = 2048 * (variant.cga.boundary_range or 0)
                free = {"confident": None, "nothing": 1024, "everything": 0}[variant.cga.frozen]
                scale = 0.1 + np.cumsum(rng.standard_normal(steps)) * 1e-6 * np.sqrt(band)
                annealing += [
                    {"step": step, "layer": layer, "weights": 1024, "scale": float(scale[step - 1])}
                    | {"free": int(band * np.exp(-step / 60)) if free is None else free}
                    for step in range(1, steps + 1)
                ]
    frames = {"oscillation": rows, "weights": weights} | ({"annealing": annealing} if annealing else {})
    for name, records in frames.items():
        pd.DataFrame(records).to_parquet(run.files.root / f"{name}.parquet", index=False)


def write_noise_of(run: Run, *, top1: float, trials: int = 3, ranges: tuple[float, ...] = (0.005, 0.01)) -> None:
    """Top-1 one point lower for weights changed at random; near thresholds the first trial has a lower training loss."""
    rows: list[dict[str, Any]] = [
        {"where": "none", "range": 0.0, "trial": 0, "injected": 0.0, "top1": top1, "loss": 0.2, "train_loss": 0.1}
    ]
    for width in ranges:
        for where, change in (("boundary", 0.0), ("random", -1.0)):
            for trial in range(trials):
                train = 0.09 if where == "boundary" and trial == 0 else 0.11
                rows.append(
                    {"where": where, "range": width, "trial": trial, "injected": 100 * width}
                    | {"top1": top1 + change + trial, "loss": 0.25, "train_loss": train}
                )
    pd.DataFrame(rows).to_parquet(run.files.root / "noise.parquet", index=False)


def write_probe_of(run: Run, *, codes: str, turns: float = 0.5, lift: float = 1.5) -> None:
    """The gradient turns in a share of the steps at the threshold, ever less away from it; two heads alike."""
    left = np.arange(DISTANCE_BINS) * HALF_STEP / DISTANCE_BINS
    steps = np.full(DISTANCE_BINS, 10_000)
    head = {"steps": 300, "q": 2.0, "k": 4.0, "chance": 8.0, "same": 8.0 * lift, "other": 8.0}
    write_json(
        run.files.root / "probe.json",
        {
            "run": str(run),
            "steps": 300,
            "boundary": {
                "left": left.round(6).tolist(),
                "weight_steps": steps.tolist(),
                "gradient_turns": (steps * turns * np.exp(-left)).astype(int).tolist(),
                "reversals": (steps * 0.1 * np.exp(-40 * left)).astype(int).tolist(),
            },
            "band": {"range": 0.005, "weights": 12_288, "start": 120, "end": 110, "both": 15},
            "coupling": [{"block": 0, "head": number} | head for number in (0, 1)],
            "coupling_codes": codes,
        },
    )


def write_all(params: Params, study: str = "digits") -> None:
    """The count of images and every run of the study: accuracy by variant and seed; of annealed ones the band, of the others probe and noise."""
    rng = np.random.default_rng(0)
    write_json(data_dir(study) / "manifest.json", {"files": {"eval": {"images": 400}}})
    runs = Grid(params, study).runs
    names = list(params.variants)
    for seed in params.studies[study].seeds:
        for model in params.studies[study].models:
            write_json(
                Run(study, model, "fp", "teacher", seed).files.metrics,
                {"top1": 98.0 + 0.1 * seed, "loss": 0.06, "seed": seed},
            )
    for run in runs:
        variant = params.variant(run.variant)
        source = params.variant(variant.parent) if variant.parent else variant
        bits, place = run.widths.weights, names.index(run.variant)
        annealed = variant.parent is not None
        top1 = 93.0 + bits + 0.2 * (place % 7) + 0.5 * rng.standard_normal()
        write_run(
            params,
            run,
            rng,
            top1=top1,
            share=0.02 if annealed else 2.0 + bits + 0.5 * (place % 9),
            steps=300 if annealed else 1200,
        )
        if not annealed:
            write_noise_of(run, top1=top1)
            write_probe_of(run, codes="shadow" if source.qkr else "own", turns=0.3 + 0.02 * (place % 9))
