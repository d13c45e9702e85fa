"""Modules that mean something to the doctor, known by name, so that their libraries need not be imported."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roialign.doctor.seen.tensors import is_plain
from roialign.doctor.surroundings import Size

POOLER, TRANSFORM, POOLS, PREPARES = "MultiScaleRoIAlign", "GeneralizedRCNNTransform", "pools", "prepares"
_ALSO_POOL = ("ROIPooler", "SingleRoIExtractor", "GenericRoIExtractor")  # of detectron2 and mmdet
_PREPARE = ("torchvision.transforms", "kornia.augmentation", "kornia.geometry.transform", "kornia.enhance")
_roles: dict[type, str] = {}


def role(kind: type) -> str:
    """What modules of this class do: pool regions, transform photographs, prepare images for a network; or ""."""
    known = _roles.get(kind)
    if known is None:
        names = [one.__name__ for one in kind.__mro__]
        known = next((name for name in (POOLER, TRANSFORM) if name in names), "")
        if not known and any(name in names for name in _ALSO_POOL):
            known = POOLS
        elif not known and any(one.__module__.startswith(_PREPARE) for one in kind.__mro__):
            known = PREPARES
        _roles[kind] = known
    return known


def transformed(args: tuple[Any, ...], output: Any) -> tuple[Tensor, list[Tensor], list[Size]] | None:
    """The padded batch that a GeneralizedRCNNTransform made, the images it was given, and their resized sizes."""
    batch = output[0] if isinstance(output, tuple) and output else None
    images, sizes = getattr(batch, "tensors", None), getattr(batch, "image_sizes", None)
    originals = args[0] if args else None
    if (
        images is None
        or not is_plain(images)
        or not isinstance(originals, (list, tuple))
        or not sizes
        or len(sizes) != len(originals)
    ):
        return None
    return images.detach(), list(originals), [(int(size[0]), int(size[1])) for size in sizes]
