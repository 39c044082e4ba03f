"""Give a quantized model its learned steps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ofq.quant.quantizers.learned import LearnedStepQuantizer, UnsetStep


def calibrate(model: nn.Module, batches: Tensor | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]) -> None:
    """Set every learned step from some batches, once and on purpose.

        scale = kappa*mean|x|/sqrt(largest code)        kappa, and the mid-rise grid: see :class:`LSQQuantizer`

    Each batch takes one forward pass, in evaluation mode and without gradients. In it every quantizer first sets its
    step from the mean over the batches so far, then quantizes; with one batch this is exactly the rule of the
    semantics. A batch without images is passed over. The modules' training and evaluation modes are restored. If
    anything fails, no step is set, and the model is as it was. Batch norms normalise with their running statistics,
    those with which the teacher was evaluated, and keep them: a step fits what evaluation sees, whatever the batch.

    Args:
        model: a quantized model, or one quantizer.
        batches: images (B, channels, height, width), or (images, label) pairs of which the images are used; a tensor
            alone is one batch.

    Raises:
        ValueError: there are no batches, one is no tensor of images or none that the model takes, or the model has no
            learned step; or a batch, a weight or a step is not finite (named in the message).
        RuntimeError: the model is calibrated already, or the forward pass does not reach a quantizer.

    Source: tests/golden/README.md section 3, initialisation.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, LearnedStepQuantizer)}
    if not quantizers:
        raise ValueError("calibrate() found no learned step; call quantize_model first")
    if any(quantizer.calibrated for quantizer in quantizers.values()):
        raise RuntimeError("the model is calibrated already: its learned steps would be lost")
    if not isinstance(batches, Iterable):
        raise ValueError(f"calibrate() takes batches of images, not a {type(batches).__name__}")
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, UnsetStep) and not parameter.isfinite().all():
            raise ValueError(f"calibrate(): {name} of the model holds values that are not finite")
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval()
    done = False
    for quantizer in quantizers.values():
        quantizer.begin_calibration()
    try:
        with torch.no_grad():
            for number, batch in enumerate([batches] if isinstance(batches, Tensor) else batches):
                _pass(model, batch, number)
        missed = [name for name, quantizer in quantizers.items() if not quantizer.calibrated]
        if len(missed) == len(quantizers):
            raise ValueError("calibrate() got no batches with images in them")
        if missed:
            raise RuntimeError(f"calibrate(): the forward pass does not reach the quantizer {missed[0]}")
        for name, quantizer in quantizers.items():
            if not quantizer.scale.isfinite().all():
                raise ValueError(f"calibrate(): the input of {name} is not finite, although the batches are")
        done = True
    finally:
        for quantizer in quantizers.values():
            quantizer.end_calibration(keep=done)
        for module, mode in modes:
            module.training = mode
        if not done:
            for buffer, before in buffers:
                buffer.copy_(before)


def _pass(model: nn.Module, batch: Tensor | tuple[Tensor, ...] | list[Tensor], number: int) -> None:
    """Take the forward pass of a batch, if it has images; ``number`` names it in errors."""
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(images, Tensor):
        raise ValueError(
            f"calibrate(): batch {number} gives a {type(images).__name__}; a tensor of images, or a pair (images, "
            "labels), expected"
        )
    if not images.numel():
        return
    if not images.isfinite().all():
        raise ValueError(f"calibrate(): batch {number} holds values that are not finite")
    try:
        model(images)
    except Exception as error:  # models check little: another shape, dtype or device can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"calibrate(): the model does not take batch {number}, {images.dtype} {tuple(images.shape)} on "
            f"{images.device} ({type(error).__name__}: {reason})"
        ) from error
