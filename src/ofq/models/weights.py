"""Load weights into a model, all of them or none."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ofq.errors import UserError, missing
from ofq.runs.published import check


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's safetensors file strictly; a file that is refused changes nothing.

    Raises:
        UserError: the file is missing, damaged, belongs to another model, holds a value that is not finite, or was
            changed since its run published it.
    """
    try:
        content = load_file(path)
    except FileNotFoundError:
        raise missing(path) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run snakemake again") from None
    expected = model.state_dict()
    # Learned steps that are not there yet take the shapes of the file's.
    unset = {name for name, each in model.named_parameters() if isinstance(each, UninitializedParameter)}
    for name in [*expected, *content]:
        known = name in content and (name in unset or name in expected)
        if not known or (name in expected and content[name].shape != expected[name].shape):
            raise UserError(f"{path} belongs to another model: {name} does not match")
        if not content[name].isfinite().all():
            raise UserError(f"{path} holds values in {name} that are not finite; delete it and run snakemake again")
    check(path)
    model.load_state_dict(content)
