"""Small models of timm, and the ways to quantize them."""

from functools import partial
from typing import Any

import torch
from timm.models import SwinTransformer, VisionTransformer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, ResNet
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


def small_cnn(kind: str) -> nn.Module:
    """Eight channels, inverted residuals with ReLU6 or h-swish and squeeze-and-excitation, or residual blocks."""
    shape: dict[str, Any] = {"in_chans": 1, "num_classes": 5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "resnet":
            return ResNet(BasicBlock, [1, 1, 1, 1], channels=(8, 8, 16, 16), zero_init_last=False, **shape)
        if kind == "mobilenetv2":
            blocks = decode_arch_def([["ds_r1_k3_s1_c8"], ["ir_r2_k3_s2_e2_c8"]])
            return EfficientNet(blocks, stem_size=8, num_features=16, act_layer=nn.ReLU6, **shape)
        blocks = decode_arch_def([["ds_r1_k3_s1_c8_se0.25_nre"], ["ir_r2_k5_s2_e2_c8_se0.25"], ["cn_r1_k1_s1_c16"]])
        gates = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU)
        return MobileNetV3(
            blocks, stem_size=8, num_features=16, act_layer=nn.Hardswish, se_layer=gates, pad_type="same", **shape
        )
