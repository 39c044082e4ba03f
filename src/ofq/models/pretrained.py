"""Weights that somebody else trained: timm's, from the Hugging Face hub, or those of a file."""

from pathlib import Path

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ofq.errors import UserError, shortened

_ON_HUB = "model.safetensors"
_COUNTED = "num_batches_tracked"


def weights_file(model: str, given: bool | str) -> tuple[Path, str]:
    """Return the file with a model's weights, and how people name it; those of the hub are fetched, once.

    Args:
        model: timm's name of it.
        given: a file's name, or true for timm's weights.

    Raises:
        UserError: there is no such file, timm has no weights of the model, or they cannot be fetched; says which file
            would do.
    """
    if isinstance(given, str):
        if not Path(given).is_file():
            raise UserError(f"{given} is no file; teacher.pretrained in params.yaml should be true or name one")
        return Path(given), given
    known = timm.get_pretrained_cfg(model)
    if known is None or not known.hf_hub_id:
        raise UserError(f"timm has no weights of {model}; name a file of them as teacher.pretrained in params.yaml")
    name = f"{known.hf_hub_id}/{_ON_HUB}"
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(known.hf_hub_id, _ON_HUB)), name
    # Its own errors and those of the libraries below it have no base in common.
    except Exception as error:
        reason = f"{type(error).__name__}: {shortened(str(error), 120)}"
        raise UserError(
            f"{name} cannot be fetched from the Hugging Face hub ({reason}); bring that file, "
            f"https://huggingface.co/{known.hf_hub_id}/resolve/main/{_ON_HUB}, here by other means and name it as "
            "teacher.pretrained in params.yaml"
        ) from None


def load_pretrained(model: nn.Module, path: Path, name: str) -> None:
    """Load a file of weights strictly; a file that is refused changes nothing.

    It is safetensors, or a checkpoint of torch with tensors alone, whose weights may stand below ``state_dict`` or
    ``model``; where it has averaged ones beside them, those are taken, as timm does. How many batches a batch norm has
    seen need not stand there, as in older files; nothing depends on it.

    Args:
        model: in full precision.
        path: of the file.
        name: of the model, for errors.

    Raises:
        UserError: it cannot be read, or has not exactly the entries of the model, each in its shape and finite; names
            the first that is wrong, such as a head for other classes.
    """
    try:
        content = load_state_dict(str(path), weights_only=True)
    # What is no such file, or is cut off, can fail in any way.
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as weights ({type(error).__name__}: {shortened(str(error), 120)}); it should be "
            "safetensors or a checkpoint of torch that holds tensors alone"
        ) from None
    expected = model.state_dict()
    content |= {entry: value for entry, value in expected.items() if entry not in content and entry.endswith(_COUNTED)}
    for entry in [*expected, *content]:
        if wrong := _wrong(expected.get(entry), content.get(entry)):
            raise UserError(f"{path} does not fit {name}: {entry} {wrong}; name weights of this model for these images")
    model.load_state_dict(content)


def normalisation(model: str) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation of the pixels by which images of timm's weights are normalised; None: not known."""
    known = timm.get_pretrained_cfg(model)
    return (list(known.mean), list(known.std)) if known else None


def _wrong(expected: Tensor | None, found: Tensor | None) -> str | None:
    """Return what is wrong with an entry of a file, or None."""
    if expected is None:
        return "is no part of the model"
    if not isinstance(found, Tensor):
        return "is missing"
    if found.shape != expected.shape:
        return f"has the shape {tuple(found.shape)}, and the model's is {tuple(expected.shape)}"
    return None if found.isfinite().all() else "holds values that are not finite"
