"""Images of any kind as the tensors that a backbone takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from roialign.errors import FeatureMapError
from roialign.ops.validate import describe

_WANTED = "a tensor [C, H, W], an array [H, W, C] or [H, W], a PIL image, or the path of a file"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_OF_A_FOLDER = 64


def sources_of(images: Any) -> Iterable[Any]:
    """The images one by one: of a batch, a folder, or an iterable, not yet read."""
    if isinstance(images, Tensor) and images.ndim != 4:
        raise FeatureMapError(f"RA307: expected a batch [N, C, H, W] of images; got {list(images.shape)}.")
    if isinstance(images, str | Path):
        return _files(Path(images))
    if not isinstance(images, Iterable):
        raise FeatureMapError(
            f"RA307: expected images: a batch [N, C, H, W], a folder, or a list of tensors, PIL images, arrays or "
            f"paths; got {type(images).__name__}."
        )
    return images


def tensors_of(
    sources: Iterable[Any], image_size: tuple[int, int] | None, transform: Callable[[Tensor], Tensor] | None
) -> Iterator[Tensor]:
    """Each image as [C, H, W], all resized to `image_size`, or to the first one's size."""
    for index, source in enumerate(sources):
        image = read(source, f"image {index}")
        size = (image.shape[1], image.shape[2])
        image_size = image_size or size
        if size != image_size:
            image = functional.interpolate(image[None], image_size, mode="bilinear", antialias=True)[0]
        yield image if transform is None else transform(image)


def _files(folder: Path) -> list[Path]:
    """The images in a folder, at most 64, spread evenly over those that there are."""
    if not folder.is_dir():
        raise FeatureMapError(f"RA307: expected a folder with images; got {str(folder)!r}, which is none.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    count = min(len(found), MOST_OF_A_FOLDER)
    return [found[index * len(found) // count] for index in range(count)]


def read(image: Any, name: str = "the image") -> Tensor:
    """An image as floats [C, H, W]: uint8 becomes 0 to 1, floats stay what they are; files and PIL images become RGB.

    Args:
        image: a tensor [C, H, W], an array [H, W, C] or [H, W], a PIL image, or the path of an image file.
        name: what messages call it.

    Raises:
        FeatureMapError: RA307, for anything else.
    """
    if isinstance(image, str | Path):
        image = _opened(image, name)
    if hasattr(image, "getbands"):  # a PIL image, without importing PIL
        rgb = image.convert("RGB")
        image = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
        image = image.permute(2, 0, 1)
    elif not isinstance(image, Tensor) and getattr(image, "ndim", 0) in (2, 3):
        array = torch.as_tensor(image)
        image = array[None] if array.ndim == 2 else array.permute(2, 0, 1)
    if not isinstance(image, Tensor) or image.ndim != 3 or 0 in image.shape:
        raise FeatureMapError(f"RA307: expected {name} as {_WANTED}; got {describe(image)}.")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise FeatureMapError(
            f"RA307: expected {name} as {_WANTED}, of uint8 or floats; got {describe(image)}. Use image.float() / its "
            "largest value."
        )
    return image if image.is_floating_point() else image.float() / 255


def _opened(path: str | Path, name: str) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise FeatureMapError(
            f"RA307: expected {name} as the path of an image that Pillow can read; got {str(path)!r}: {error}."
        ) from error
