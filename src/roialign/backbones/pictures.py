"""Images of any kind as the tensors that a backbone takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from roialign.errors import FeatureMapError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_OF_A_FOLDER = 64


def sources_of(images: Any) -> list[Any]:
    """The images one by one: of a batch, a folder, or a sequence, not yet read."""
    if isinstance(images, Tensor) and images.ndim != 4:
        raise FeatureMapError(f"RA108: expected a batch [N, C, H, W] of images; got {list(images.shape)}.")
    if isinstance(images, str | Path):
        return _files(Path(images))
    if not isinstance(images, Iterable):
        raise FeatureMapError(
            f"RA108: expected images: a batch [N, C, H, W], a folder, or a list of tensors, PIL images, arrays or "
            f"paths; got {type(images).__name__}."
        )
    return list(images)


def tensors_of(
    sources: Iterable[Any], image_size: tuple[int, int] | None, transform: Callable[[Tensor], Tensor] | None
) -> Iterator[Tensor]:
    """Each image as [C, H, W], all resized to `image_size`, or to the first one's size."""
    for index, source in enumerate(sources):
        image = _tensor_of(source, index)
        size = (image.shape[1], image.shape[2])
        image_size = image_size or size
        if size != image_size:
            image = functional.interpolate(image[None], image_size, mode="bilinear", antialias=True)[0]
        yield image if transform is None else transform(image)


def _files(folder: Path) -> list[Path]:
    """The images in a folder, at most 64, spread evenly over those that there are."""
    if not folder.is_dir():
        raise FeatureMapError(f"RA108: expected a folder with images; got {str(folder)!r}, which is none.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    count = min(len(found), MOST_OF_A_FOLDER)
    return [found[index * len(found) // count] for index in range(count)]


def _tensor_of(source: Any, index: int) -> Tensor:
    """[C, H, W]: floating point as it is, anything else in [0, 1]."""
    image = source if isinstance(source, Tensor) else _pixels_of(source)
    if image.ndim != 3:
        raise FeatureMapError(
            f"RA108: expected image {index} as a tensor [C, H, W] or an array [H, W, C]; got {list(image.shape)}."
        )
    if not isinstance(source, Tensor):
        image = image.permute(2, 0, 1)
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _pixels_of(source: Any) -> Tensor:
    """An array, a PIL image or the file of one, rows first."""
    from PIL import Image

    if isinstance(source, str | Path):
        with Image.open(source) as opened:
            return _pixels_of(opened.copy())
    if not isinstance(source, Image.Image):
        return torch.as_tensor(source)
    rgb = source.convert("RGB")
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
