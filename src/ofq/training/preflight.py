"""Check that a study can be trained to its end, before anything is trained."""

from collections.abc import Sequence

import torch
from torch import nn

from ofq.config.recipes import check_images
from ofq.config.resolve import QatConfig, RunConfig, TeacherConfig
from ofq.data import batches
from ofq.data.augment import check
from ofq.errors import UserError
from ofq.models.backbone import Shape, build_model
from ofq.remedies.load import make_remedy, remedy_class
from ofq.training.student import check_norms, quantize_as


def check_study(study: str, configs: Sequence[RunConfig]) -> None:
    """Check that one model can be trained on a study's data and become every student that its runs ask for.

    The model is built without memory for its weights (on torch's ``meta`` device), so this takes an instant.

    Args:
        study: name of a study whose data has been prepared.
        configs: runs of one model.

    Raises:
        UserError: timm cannot build the model, it does not fit the images, it cannot be quantized as asked, its batch
            norms do not allow what is asked, a remedy cannot be made, a batch is larger than the data, an augmentation
            can blank an image or is not for images of this kind, or the teacher's output is stored for streamed ones.
    """
    data = batches.load(study)
    model = configs[0].model
    for config in configs:
        if config.train and config.train.batch_size > data.count:
            raise UserError(
                f"batch_size {config.train.batch_size} of {config.phase} is larger than the {data.count} "
                f"training images of {study}; lower it in params.yaml"
            )
        check_images(config.augment, streamed=data.streamed, stored=getattr(config, "teacher_once", False))
        check(config.augment, data.image_size)
    with torch.device("meta"):
        whole = build_model(configs[0], data)
        check_fit(whole, model.timm, data)
        students = [config for config in configs if not isinstance(config, TeacherConfig)]
        bits = {"weight_bits": 2, "input_bits": 2}  # whether a model can be converted does not depend on them
        for quantization in dict.fromkeys(student.quantization.model_copy(update=bits) for student in students):
            quantize_as(build_model(configs[0], data), quantization, model.timm)
        for config in students:
            check_norms(whole, config)
            remedy = config.remedy if isinstance(config, QatConfig) else None
            if remedy and ":" in remedy.name:  # a user's remedy may need weights that hold numbers
                remedy_class(remedy)
            elif remedy:
                student = quantize_as(build_model(config, data), config.quantization, model.timm)
                make_remedy(remedy, student, config.train.for_images(data.count).length)


def check_fit(model: nn.Module, name: str, data: Shape) -> None:
    """Raise :class:`UserError` if the model does not take the study's images or does not give logits."""
    height, width = data.image_size
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch and (height % patch[0] or width % patch[1]):
        raise UserError(
            f"patch_size {patch[0]} of {name} does not divide the images of {height}x{width} pixels; "
            "choose one that does under models in params.yaml"
        )
    try:
        logits = model.eval()(torch.empty(1, data.channels, height, width))
    except Exception as error:  # timm's models check little: a wrong argument can fail in any way
        raise UserError(
            f"{name} does not take images of {height}x{width} pixels ({type(error).__name__}: {str(error)[:200]}); "
            "mend its arguments under models in params.yaml"
        ) from None
    if getattr(logits, "shape", None) != (1, data.classes):
        raise UserError(
            f"{name} does not give one number for each of the {data.classes} classes; mend its arguments under models "
            "in params.yaml"
        )
