"""Many images: a batch, a folder or a list, one by one as the tensors that a backbone takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from roialign.backbones.reading import read
from roialign.errors import FeatureMapError

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
    """Each image as [C, H, W], upright, all resized to `image_size`, or to the first one's size."""
    for index, source in enumerate(sources):
        image = read(source, f"image {index}").pixels_chw
        size = (image.shape[1], image.shape[2])
        image_size = image_size or size
        if size != image_size:
            image = functional.interpolate(image[None], image_size, mode="bilinear", antialias=True)[0]
        yield image if transform is None else transform(image)


def _files(folder: Path) -> list[Path]:
    """The images in a folder, at most 64, spread evenly over those that there are."""
    if not folder.is_dir():
        raise FeatureMapError(f"RA307: expected a folder with images; got {str(folder)!r}, which is not a folder.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    count = min(len(found), MOST_OF_A_FOLDER)
    return [found[index * len(found) // count] for index in range(count)]
