"""Small models of timm, and the ways to quantize them."""

from typing import Any

import torch
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

KINDS: list[dict[str, Any]] = [
    {"weight": "statsq"},
    {"weight": "lsq"},
    {"weight": "lsq-midrise"},
    {"weight": "statsq", "qkr": True},
    {"weight": "lsq", "qkr": True},
]


def name_of(switches: dict[str, Any]) -> str:
    return switches["weight"] + ("-qkr" if switches.get("qkr") else "")


def small_model(**arguments: Any) -> VisionTransformer:
    defaults: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 5}
    defaults |= {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(**(defaults | arguments))


def small_swin(**arguments: Any) -> SwinTransformer:
    """Four windows of an 8x8 map in the first stage, shifted in its second block; one window in the second stage."""
    defaults: dict[str, Any] = {"img_size": 8, "patch_size": 1, "in_chans": 1, "num_classes": 5, "window_size": 4}
    defaults |= {"embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4), "mlp_ratio": 2.0, "drop_path_rate": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SwinTransformer(**(defaults | arguments))


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
