"""Integer codes at their true width: dense bits, lowest first, as ONNX stores INT2 and INT4."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def packed(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Return codes in two's complement, ``bits`` bits each and in row-major order, as ceil(n*bits/8) bytes.

    The lowest bit of the first code is the lowest of the first byte; bits that are left over in the last byte are 0.
    """
    columns = (codes.reshape(-1, 1).view(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1  # (n, bits)
    return np.packbits(columns, bitorder="little")


def unpacked(content: NDArray[np.uint8], bits: int, shape: Sequence[int]) -> NDArray[np.int8]:
    """Return the codes that :func:`packed` made into bytes.

    Raises:
        ValueError: there are more or fewer bytes than codes of that shape need, or bits that are left over are not 0.
    """
    count = 1
    for size in shape:  # Python's integers: a shape from elsewhere may be beyond any machine's
        count *= size
    if len(content) != (needed := -(-count * bits // 8)):
        raise ValueError(f"{len(content)} bytes, and {count} codes of {bits} bits need {needed}")
    columns = np.unpackbits(content, bitorder="little")
    if columns[count * bits :].any():
        raise ValueError("a code beyond the last one")
    unsigned = np.packbits(columns[: count * bits].reshape(count, bits), axis=1, bitorder="little").reshape(shape)
    half = np.uint8(2 ** (bits - 1))
    return ((unsigned ^ half) - half).view(np.int8)  # the highest bit is the sign's
