"""Make pixels of an image file: one rule for every format, and for what is evaluated or held in memory."""

import io
import math
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ofq.errors import UserError, shortened

# About metadata and transparency, which are not used.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decoded(content: bytes) -> Image.Image:
    """Decode an image file to red, green and blue of 8 bits, by what it holds and not by its name.

    As timm and torchvision do: grey is red, green and blue alike, CMYK is converted without its colour profile,
    transparency is dropped, the first of several pictures counts, and the orientation that a camera noted in EXIF is
    not applied. Of 16 bits the upper eight count.

    Raises:
        UserError: it is none, is cut short or damaged, or has pixels of 32 bits; in words that go on after its name.
    """
    image = _loaded(content, 1)
    if image.mode.startswith("I;16"):  # PIL would make white of all that is above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def check_whole(content: bytes) -> None:
    """Read an image file to its end, a JPEG at an eighth of its size, which takes half the time.

    Raises:
        UserError: as :func:`decoded` does.
    """
    _loaded(content, 8)


def _loaded(content: bytes, shrunk: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        if shrunk > 1:
            image.draft("RGB", (math.ceil(image.width / shrunk), math.ceil(image.height / shrunk)))
        image.load()
    except UnidentifiedImageError:
        raise UserError("is no image") from None
    except Exception as error:  # PIL's readers raise anything
        raise UserError(f"cannot be read ({shortened(str(error) or type(error).__name__)})") from None
    if image.mode in ("I", "F"):
        raise UserError("has pixels of 32 bits")
    return image


def middle(image: Image.Image, size: int, crop: float) -> Image.Image:
    """Bring the shorter side to size / crop by bicubic interpolation, and cut size x size pixels out of the middle.

    It is what timm does to images that are evaluated. An image that has its size already stays as it is.

    Args:
        image: of any size.
        size: of the result, in pixels.
        crop: share of the shorter side that is kept.
    """
    shorter = math.floor(size / crop)
    scale = shorter / min(image.size)
    width, height = (
        shorter if side == min(image.size) else int(shorter * side / min(image.size)) for side in image.size
    )
    if scale != 1:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of a picture (3, height, width)."""
    return np.asarray(image).transpose(2, 0, 1)
