"""Give a quantized model its learned steps."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ofq.quant.quantizers.learned import LearnedStepQuantizer


def calibrate(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]) -> None:
    """Set every learned step from some batches, once and on purpose.

        scale = kappa*mean|x|/sqrt(largest code)        kappa, and the mid-rise grid: see :class:`LSQQuantizer`

    Each batch takes one forward pass, in evaluation mode and without gradients. In it every quantizer first sets its
    step from the mean over the batches so far, then quantizes; with one batch this is exactly the rule of the
    semantics. The modules' training and evaluation modes are restored. If anything fails, no step is set.

    Args:
        model: a quantized model, or one quantizer.
        batches: images (B, channels, height, width), or (images, label) pairs of which the images are used.

    Raises:
        ValueError: there are no batches, or the model has no learned step.
        RuntimeError: the model is calibrated already, or the forward pass does not reach a quantizer.

    Source: tests/golden/README.md section 3, initialisation.
    """
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, LearnedStepQuantizer)}
    if not quantizers:
        raise ValueError("calibrate() found no learned step; call quantize_model first")
    if any(quantizer.calibrated for quantizer in quantizers.values()):
        raise RuntimeError("the model is calibrated already: its learned steps would be lost")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    done = False
    try:
        for quantizer in quantizers.values():
            quantizer.begin_calibration()
        with torch.no_grad():
            for batch in batches:
                model(batch if isinstance(batch, Tensor) else batch[0])
        missed = [name for name, quantizer in quantizers.items() if not quantizer.calibrated]
        if len(missed) == len(quantizers):
            raise ValueError("calibrate() got no batches")
        if missed:
            raise RuntimeError(f"calibrate(): the forward pass does not reach the quantizer {missed[0]}")
        done = True
    finally:
        for quantizer in quantizers.values():
            quantizer.end_calibration(keep=done)
        for module, mode in modes:
            module.training = mode
