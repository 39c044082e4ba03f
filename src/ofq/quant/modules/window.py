"""Quantized attention inside the windows of a map, with a bias for each relative position of two tokens."""

from typing import Any

from torch import Tensor, nn

from ofq.quant.modules.attention import Attention, QuantAttention
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.modules.qkr import QKRAttention


class _Window(Attention):
    """Attention of the T tokens of each window, whose scores get a bias before the softmax.

        p = Q_p(softmax(scores + table[index] + mask))

    The table is not quantized. Learned steps belong to positions in the window: all windows share them. The scores are
    those of the class beside it; no fused function knows the bias, so they are computed part by part.

    Source: tests/golden/README.md section 10.
    """

    relative_position_bias_table: nn.Parameter  # (relative positions, H)
    relative_position_index: Tensor  # (T, T): rows of the table

    def take_positions(self, source: Any) -> None:
        """Take over the table of timm's ``WindowAttention``, the parameter itself, and its index."""
        self.relative_position_bias_table = source.relative_position_bias_table
        self.register_buffer("relative_position_index", source.relative_position_index, persistent=False)

    def placed(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Add the bias of positions, and the mask (windows of an image, T, T), to scores (windows, H, T, T)."""
        bias = self.relative_position_bias_table[self.relative_position_index]  # (T, T, H)
        scores = scores + bias.permute(2, 0, 1)  # (H, T, T)
        if mask is None:
            return scores
        # (images, windows of an image, H, T, T), image by image; mask (windows of an image, 1, T, T)
        return (scores.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)


class WindowAttention(_Window, QuantAttention):
    """:class:`QuantAttention` inside windows, in the place of timm's ``WindowAttention``."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]  # as timm calls it
        """Map windows x (windows, T, C) to (windows, T, C); the mask is that of :meth:`placed`."""
        scores, v = self.scores(self.qkv(x))
        return self.output(self.context(self.placed(scores, mask), v))


class QKRWindowAttention(_Window, QKRAttention):
    """:class:`QKRAttention` inside windows, in the place of timm's ``WindowAttention``."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]  # as timm calls it
        """Map windows x (windows, T, C) to (windows, T, C); the mask is that of :meth:`placed`."""
        scores, v = self.scores(x)
        return self.output(self.context(self.placed(scores, mask), v))


class ColumnLinear(QuantLinear):
    """:class:`QuantLinear` of a map whose tokens stand row by row, with a step for each of its columns.

    Args:
        columns: of the map; the others are those of :class:`QuantLinear`.

    Source: tests/golden/README.md section 10.
    """

    columns: int

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, rows*columns, in_features) to (B, rows*columns, out_features)."""
        return super().forward(x.unflatten(-2, (-1, self.columns))).flatten(-3, -2)  # (B, rows, columns, ...) inside
