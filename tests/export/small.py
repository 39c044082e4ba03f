"""A small quantized model that has been through nothing, and what an exported file says of it."""

from typing import Any

import torch
from torch import Tensor, nn

from ofq.config.quant_config import QuantConfig
from ofq.config.settings import ModelSettings
from ofq.export.header import About, Blocks, Images
from ofq.models.backbone import build
from ofq.quant import calibrate, quantize_model

VIT: dict[str, Any] = {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
SWIN: dict[str, Any] = {"patch_size": 1, "window_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4]}
MODELS = {"vit_tiny_patch16_224": VIT, "deit_tiny_distilled_patch16_224": VIT, "swin_tiny_patch4_window7_224": SWIN}
SIZE, CLASSES = (8, 8), 5


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, *SIZE, generator=torch.Generator().manual_seed(seed)) * 0.5


def prepared(name: str = "vit_tiny_patch16_224", **switches: Any) -> tuple[nn.Module, About]:
    """A calibrated model in evaluation mode whose biases are not zero, and its description."""
    settings = ModelSettings(timm=name, arguments=MODELS[name])
    config = QuantConfig(**switches)
    model = build(settings, image_size=SIZE, channels=1, classes=CLASSES, seed=0)
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():  # so large that an image changes the logits
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    quantize_model(model, config)
    calibrate(model, pictures(16))
    with torch.no_grad():
        for entry, parameter in model.named_parameters():
            if entry.endswith(("before", "after", "bias")):
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.1)
    model.eval()(pictures(16))
    asked = config.model_dump()
    about = About(
        model=settings,
        classes=CLASSES,
        images=Images(size=SIZE, channels=1, mean=[0.5], std=[0.25]),
        quantization=Blocks(**{name: asked[name] for name in Blocks.model_fields}),
        run="digits/vit_micro/w2a2/statsq/seed0",
        data="digits",
        licence="CC BY 4.0",
        top1=97.5,
    )
    return model, about
