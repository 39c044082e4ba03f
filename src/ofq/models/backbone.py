"""Build a study's backbone through timm."""

from typing import Any

import timm
import torch
from torch import nn

from ofq.config.settings import ModelSettings
from ofq.errors import UserError, shortened, unknown


def build(model: ModelSettings, *, image_size: tuple[int, int], channels: int, classes: int, seed: int) -> nn.Module:
    """A full-precision timm model, randomly initialised from the seed.

    Args:
        model: timm's name and the constructor's arguments that differ from its defaults.
        image_size: height and width of the images in pixels.
        channels: colour channels of the images.
        classes: number of classes.
        seed: of the initial weights.

    Raises:
        UserError: timm does not know the name, or the constructor refuses an argument.
    """
    # An "hf-hub:" name would be fetched; what follows a dot chooses weights, and none are loaded.
    if not timm.is_model(model.timm):
        raise unknown("timm model", model.timm, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            arguments: dict[str, Any] = {"img_size": image_size, "in_chans": channels, "num_classes": classes}
            return timm.create_model(model.timm, **(arguments | model.arguments))
        # The constructors check little: a wrong argument fails in them with whatever comes of it.
        except Exception as error:
            reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
            raise UserError(
                f"timm cannot build {model.timm} with {shortened(str(model.arguments), 200)} ({reason}); "
                "mend its arguments under models in params.yaml"
            ) from None


def train_both_heads(model: nn.Module) -> None:
    """Let a distilled model give the pair (class, distillation) of logits in training mode; others stay as they are.

    In evaluation mode it gives their mean.
    """
    if callable(distilled := getattr(model, "set_distilled_training", None)):
        distilled(True)


def draw_attention(model: nn.Module, seed: int, *, keep_qkv: bool) -> None:
    """Draw the projections of every attention anew, as the released code does, from a linear layer's own distribution.

    Args:
        model: in full precision.
        seed: of the numbers.
        keep_qkv: leave the query, key and value projections and draw ``proj`` alone, as under QKR.
    """
    from timm.layers import Attention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, Attention):
                for layer in (module.proj,) if keep_qkv else (module.qkv, module.proj):
                    layer.reset_parameters()
