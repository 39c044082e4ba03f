"""Load weights into a model, all of them or none."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ofq.errors import UserError, missing
from ofq.runs.published import check


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a model's safetensors file strictly.

    Raises:
        UserError: the file is missing, damaged, belongs to another model, or was changed since its run published it.
    """
    try:
        absent, unexpected = model.load_state_dict(load_file(path), strict=False)
    except FileNotFoundError:
        raise missing(path) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run snakemake again") from None
    except RuntimeError as error:
        raise UserError(f"{path} belongs to another model: {' '.join(str(error).split())[:200]}") from None
    if absent or unexpected:
        raise UserError(f"{path} belongs to another model: {[*absent, *unexpected][0]} does not match")
    check(path)
