"""How many images of ImageNet's size one core reads a second, step by step, for streamed training and evaluation.

python -m benchmarks.images
python -m benchmarks.images --rounds 20

The files are generated photographs of 500x375 pixels and 110 kB, read from the disk's cache: a real disk, or a network,
comes on top. `256` are the same resized to a shorter side of 256 before, as a cache of resized images would have them.
Columns: milliseconds of this process by image, the median of the rounds, and images a second.
"""

import argparse
import hashlib
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from benchmarks.rounds import conditions, interleaved
from ofq.config.recipes import UNCHANGED, Augmentation
from ofq.data.listing import Listing
from ofq.data.pictures import check_whole, decoded
from ofq.data.streamed import Split, Streamed

WIDTH, HEIGHT, BYTES, COUNT = 500, 375, 110_000, 16
PAPER = Augmentation(scale=(0.08, 1.0), flip=True, policy="rand-m9-mstd0.5-inc1", erasing=0.25)


def photo(rng: np.random.Generator) -> Image.Image:
    """Shapes of all sizes, and grain so that it takes as many bytes as a photograph of ImageNet."""
    layers = [
        Image.fromarray(rng.integers(0, 256, (HEIGHT // size + 2, WIDTH // size + 2, 3), dtype=np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        for size in (150, 40, 10)
    ]
    pixels = sum(weight * np.asarray(layer, np.float32) for weight, layer in zip((0.5, 0.3, 0.2), layers, strict=True))
    return Image.fromarray(np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    """Encode at the quality that comes closest to the size of a photograph of ImageNet."""
    found = []
    for quality in range(60, 100, 3):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        found.append(buffer.getvalue())
    whole = image.width * image.height / (WIDTH * HEIGHT)
    return min(found, key=lambda content: abs(len(content) - whole * BYTES))


def written(folder: Path, contents: list[bytes]) -> Split:
    """Write files, and list them."""
    names = [b"%d.jpg" % number for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name.decode()).write_bytes(content)
    sizes = np.array([len(content) for content in contents])
    files = Listing.of(names, sizes, np.zeros((len(names), 32), np.uint8))
    return Split(files, torch.zeros(len(names), dtype=torch.int64))


def served(folder: Path, split: Split, augment: Augmentation = UNCHANGED) -> Callable[[], object]:
    """Return what reads every file once for a training batch, without workers."""
    data = Streamed(folder, split, split, 1, 224, 0.9, [0.5] * 3, [0.25] * 3, augment, workers=0)
    return lambda: data.train(0, 0, COUNT)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [photo(rng) for _ in range(COUNT)]
    large = [jpeg(image) for image in images]
    small = [jpeg(image.resize((341, 256), Image.Resampling.BICUBIC)) for image in images]
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in large]
    with tempfile.TemporaryDirectory(prefix="ofq-images-") as name:
        folders = [Path(name) / each for each in ("large", "small")]
        for folder in folders:
            folder.mkdir()
        full, resized = (written(*pair) for pair in zip(folders, (large, small), strict=True))
        runs: dict[str, Callable[[], object]] = {
            "prepare: read to the end, sha256": lambda: [(check_whole(x), hashlib.sha256(x).digest()) for x in large],
            "decode, Pillow": lambda: [decoded(content) for content in large],
            "decode, torchvision": lambda: [decode_jpeg(tensor) for tensor in tensors],
            "decode, Pillow, 256": lambda: [decoded(content) for content in small],
            "evaluate": served(folders[0], full),
            "train, random crop": served(folders[0], full, Augmentation(scale=(0.08, 1.0), flip=True)),
            "train, the paper's changes": served(folders[0], full, PAPER),
            "train, the paper's changes, 256": served(folders[1], resized, PAPER),
        }
        times = interleaved(runs, rounds=arguments.rounds)
    print(f"{conditions()}; {sum(map(len, large)) // COUNT} and {sum(map(len, small)) // COUNT} bytes an image")
    for what, taken in times.items():
        seconds = statistics.median(taken.process) / COUNT
        print(f"{what:<34} {1000 * seconds:6.2f} ms {1 / seconds:7.0f} images/s")


if __name__ == "__main__":
    main()
