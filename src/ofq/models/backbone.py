"""Build a study's backbone through timm."""

from typing import Any, Protocol

import timm
import torch
from torch import nn

from ofq.config.resolve import RunConfig
from ofq.config.settings import ModelSettings
from ofq.errors import UserError, shortened, unknown
from ofq.models.attributes import set_attributes


class Shape(Protocol):
    """What a model must know of a study's images, as its manifest and its batches tell."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def channels(self) -> int:
        """Colour channels of the images."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""


def build_model(config: RunConfig, images: Shape) -> nn.Module:
    """Build a run's model in full precision, for the study's images; :func:`build` says what is refused."""
    return build(
        config.model, image_size=images.image_size, channels=images.channels, classes=images.classes, seed=config.seed
    )


def build(model: ModelSettings, *, image_size: tuple[int, int], channels: int, classes: int, seed: int) -> nn.Module:
    """Build a full-precision timm model, randomly initialised from the seed.

    It is built for the size of the images, or, as most convolutional networks, for images of any size.

    Args:
        model: timm's name and the constructor's arguments that differ from its defaults.
        image_size: height and width of the images in pixels.
        channels: colour channels of the images.
        classes: number of classes.
        seed: seed of the initial weights.

    Raises:
        UserError: timm does not know the name, the constructor refuses an argument, or an attribute cannot be set.
    """
    # An "hf-hub:" name would be downloaded. A suffix after a dot chooses weights, and none are loaded.
    if not timm.is_model(model.timm):
        raise unknown("timm model", model.timm, timm.list_models())
    arguments: dict[str, Any] = {"in_chans": channels, "num_classes": classes} | model.arguments
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            try:
                made: nn.Module = timm.create_model(model.timm, img_size=image_size, **arguments)
            except TypeError as error:
                if "'img_size'" not in str(error):
                    raise
                torch.manual_seed(seed)
                made = timm.create_model(model.timm, **arguments)
        # The constructors check little: a wrong argument can raise any exception in them.
        except Exception as error:
            reason = f"{type(error).__name__}: {shortened(str(error), 200)}"
            raise UserError(
                f"timm cannot build {model.timm} with {shortened(str(model.arguments), 200)} ({reason}); "
                "mend its arguments under models in params.yaml"
            ) from None
    set_attributes(made, model.timm, model.set)
    return made


def train_both_heads(model: nn.Module) -> None:
    """Make a distilled model return the logits (class, distillation) as a pair in training mode; leave others alone.

    In evaluation mode it returns their mean.
    """
    if callable(distilled := getattr(model, "set_distilled_training", None)):
        distilled(True)


def draw_attention(model: nn.Module, seed: int, *, keep_qkv: bool) -> None:
    """Redraw the projections of every attention from a linear layer's own distribution, as the released code does.

    Of attention in windows the biases of relative positions are redrawn too, from timm's distribution.

    Args:
        model: a full-precision model.
        seed: seed of the random numbers.
        keep_qkv: keep the query, key and value projections and redraw only ``proj``, as under QKR.
    """
    from timm.layers import Attention, trunc_normal_
    from timm.models.swin_transformer import WindowAttention

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, Attention | WindowAttention):
                for layer in (module.proj,) if keep_qkv else (module.qkv, module.proj):
                    layer.reset_parameters()
            if isinstance(module, WindowAttention):
                trunc_normal_(module.relative_position_bias_table, std=0.02)
