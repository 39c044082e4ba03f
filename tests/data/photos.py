"""Generated images of every kind that people have, in folders of classes."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ofq.config.settings import Data


def photo(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    """Smooth shapes in colour."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def sixteen_bits(seed: int) -> Image.Image:
    grey = np.asarray(photo(seed).convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256 + 77)


def palette(seed: int) -> bytes:
    return encoded(photo(seed).convert("P"), "PNG", transparency=bytes([0, 128] * 8))


def with_exif(seed: int, exif: bytes) -> bytes:
    return encoded(photo(seed), exif=b"Exif\0\0" + exif)


ODD = {
    "grey.jpg": lambda: encoded(photo(1).convert("L")),
    "cmyk.jpeg": lambda: encoded(photo(2).convert("CMYK")),
    "sixteen.png": lambda: encoded(sixteen_bits(3), "PNG"),
    "palette.png": lambda: palette(4),
    "alpha.png": lambda: encoded(photo(5).convert("RGBA"), "PNG"),
    "grey alpha.png": lambda: encoded(photo(6).convert("LA"), "PNG"),
    "a png.JPEG": lambda: encoded(photo(7), "PNG"),
    "broken exif.jpg": lambda: with_exif(8, b"II*\0\xff\xff\xff\x7fgarbage"),
    "turned.jpg": lambda: with_exif(9, b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "UPPER.JPG": lambda: encoded(photo(10)),
    "bitmap.BmP": lambda: encoded(photo(11), "BMP"),
    "one bit.png": lambda: encoded(photo(12).convert("1"), "PNG"),
    "web.webp": lambda: encoded(photo(13), "WEBP"),
    "umläut ñ.jpg": lambda: encoded(photo(14)),
    "line\nbreak.jpg": lambda: encoded(photo(15)),
    b"surrogate \xff\xfe.jpg": lambda: encoded(photo(16)),
    "deeper/below.jpg": lambda: encoded(photo(17, 3, 300)),
    "tiny.png": lambda: encoded(photo(18, 1, 1), "PNG"),
}
LEFT_OUT = ["._grey.jpg", ".hidden.jpg", "Thumbs.db", "notes.txt", ".ipynb_checkpoints/grey.jpg"]


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def odd_folders(root: Path) -> None:
    """Three classes; the first has every odd kind, and what is left out."""
    for name, made in ODD.items():
        write(root / "train/a class" / os.fsdecode(name), made())
    for name in LEFT_OUT:
        write(root / "train/a class" / name, b"no image")
    plain_folders(root, classes=("b", "ç"), train=9)
    for i in range(3):
        write(root / f"val/a class/{i}.jpg", encoded(photo(100 + i)))


def plain_folders(
    root: Path, classes: tuple[str, ...] = ("a", "b", "c"), train: int = 8, evaluated: str = "val"
) -> None:
    """So many training images of each class, and two to evaluate, each another one."""
    for label, name in enumerate(classes):
        for i in range(train):
            write(root / f"train/{name}/{i}.jpg", encoded(photo(1000 * label + i, 40 + 3 * i, 37)))
        for i in range(2):
            write(root / f"{evaluated}/{name}/{i}.png", encoded(photo(1000 * label + 500 + i, 32, 36), "PNG"))


def study(root: Path, **more: Any) -> Data:
    return Data.model_validate({"name": "imagefolder", "root": str(root), "image_size": 32, **more})


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]
