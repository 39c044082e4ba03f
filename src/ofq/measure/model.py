"""What of a model is quantized and to how many bits, and how much of its weights and of its work that is."""

from collections import Counter

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ofq.config.resolve import StudentConfig
from ofq.data.manifest import read_manifest
from ofq.models.backbone import build_model
from ofq.quant.calibration import calibrate
from ofq.quant.modules.attention import Attention
from ofq.quant.modules.qkr import QKRAttention
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.quant.weights import block_weights
from ofq.runs.paths import Run
from ofq.training.preflight import check_fit
from ofq.training.student import quantize_as

LOW, EDGE, FULL = "low-bit", "first and last layer", "full precision"
_COUNTS = ["weights", "multiply-adds"]


def describe(run: Run, config: StudentConfig) -> str:
    """Return a table of the modules of a run's model that have quantizers, and shares of weights and multiply-adds.

    The model is built for the study's images and quantized. It is not trained: it starts from random numbers.

    Raises:
        UserError: the study's data are not prepared, or the model cannot be built or quantized or does not take them.
    """
    manifest = read_manifest(run.study)
    size = manifest.image_size
    with torch.device("meta"):
        check_fit(build_model(config, manifest), config.model.timm, manifest)
    student = quantize_as(build_model(config, manifest), config.quantization, config.model.timm)
    parts = parts_of(student, torch.rand(1, manifest.channels, *size), config.quantization.weight)
    shown = parts[parts["bits of"] != FULL].drop(columns="bits of")
    counts = parts.groupby("bits of")[_COUNTS].sum()
    shares = 100 * counts / counts.sum()
    totals = [
        f"{kind + ':':<22}" + ", ".join(f"{shares.loc[kind, of]:6.2f} % of {counts[of].sum():,} {of}" for of in _COUNTS)
        for kind in (LOW, EDGE, FULL)
    ]
    title = f"{run.model}, {config.model.timm}: {run.variant} at {run.bits}, one image of {size[0]}x{size[1]} pixels"
    table = shown.to_markdown(index=False, tablefmt="simple", intfmt=",", colalign=("left",) * 3 + ("right",) * 2)
    return "\n".join([title, "", table, "", *totals])


def parts_of(student: nn.Module, image: Tensor, weight: str) -> pd.DataFrame:
    """Calibrate a quantized model on an image (1, channels, height, width), and list its modules with their quantizers.

    Columns are ``module``, the quantizers of its ``weight`` and of its ``activations`` with their bits, ``bits of``
    (``LOW``, ``EDGE`` or ``FULL``), the numbers in its ``weights`` and its ``multiply-adds``, without those of modules
    in it. The last row has all that is in full precision: norms, biases, positions. Under query-key reparameterization
    the weights of an attention are its products W_q^T W_k, which take the place of W_q and W_k; to multiply these
    costs nothing, for it does not depend on the image.

    Args:
        student: quantized, not calibrated.
        image: of the size that it takes.
        weight: name of the weight quantizer of the blocks.
    """
    with FlopCounterMode(display=False) as counter:  # while a model is calibrated no fused function hides a product
        calibrate(student, image)
    # A multiply-add is two operations. The counter's names begin with that of the model's class.
    work = Counter({name: sum(each.values()) // 2 for name, each in counter.get_flop_counts().items()})
    low = Counter[nn.Module]()
    for block_weight in block_weights(student):
        low[block_weight.layer] += block_weight.latent().numel()
    total, left, rows = work["Global"], 0, []
    for path, module in student.named_modules():
        own = work[f"{type(student).__name__}.{path}"]
        own -= sum(work[f"{type(student).__name__}.{path}.{child}"] for child, _ in module.named_children())
        if isinstance(module, QKRAttention):
            constant = _products_of_weights(module)
            own, total = own - constant, total - constant
            left -= module.q.weight.numel() + module.k.weight.numel()
        told = {name: f"lsq {each.bits}" for name, each in module.named_children() if isinstance(each, Quantizer)}
        numbers = {name: each.numel() for name, each in module.named_parameters(recurse=False)}
        if not told:
            left += 0 if isinstance(module, Quantizer) else sum(numbers.values())
            continue
        kind = LOW if module in low or isinstance(module, Attention) else EDGE
        weights = low[module] if kind == LOW else numbers["weight"]
        rounds = told.pop("weight_quantizer", "")
        if kind == LOW or not isinstance(getattr(module, "weight_quantizer", None), LSQQuantizer):
            rounds = rounds.replace("lsq", weight)
        left += sum(count for name, count in numbers.items() if name != "weight")
        rows.append([path, rounds, _activations(told), kind, weights, own])
    rows.append(["", "", "", FULL, left, total - sum(row[-1] for row in rows)])
    return pd.DataFrame(rows, columns=["module", "weight", "activations", "bits of", *_COUNTS])


def _products_of_weights(attention: QKRAttention) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention.latent_weight()
    return counter.get_total_flops() // 2


def _activations(told: dict[str, str]) -> str:
    """Return quantizers of activations in words; where there are several, with what they round."""
    named = {name.removesuffix("_quantizer"): text for name, text in told.items()}
    return ", ".join(text if len(named) == 1 else f"{name} {text}" for name, text in named.items())
