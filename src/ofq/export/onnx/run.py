"""Run an ONNX model of ours in onnxruntime, as a module."""

from pathlib import Path

import onnxruntime
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ofq.errors import UserError, shortened
from ofq.export.header import About
from ofq.export.onnx.write import HEADER


class OnnxModel(nn.Module):
    """An ONNX model in a default session of onnxruntime on the CPU, with the threads that torch has.

    Attributes:
        about: what its metadata say of it.

    Raises:
        UserError: the file is missing, cannot be run, or is not one of ours.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            text = self._session.get_modelmeta().custom_metadata_map.get(HEADER, "")
            self.about = About.model_validate_json(text)
        except ValidationError:
            raise UserError(
                f"{path} is no ONNX model of ofq; write one with: python -m ofq export RUN --format onnx"
            ) from None
        except Exception as error:  # onnxruntime's errors have no base in common
            raise UserError(f"{path} cannot be run ({shortened(str(error), 200)}); export the run again") from None
        names = [each.name for each in (*self._session.get_inputs(), *self._session.get_outputs())]
        if names != ["images", "logits"]:
            raise UserError(
                f"{path} takes and gives {shortened(', '.join(names))}, not images and logits; export the run again"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, channels, height, width) to logits (B, classes)."""
        return torch.from_numpy(self._session.run(["logits"], {"images": images.numpy()})[0])
