"""Mean and standard deviation of each channel, and images normalized by them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.errors import FeatureMapError, OptionError
from roialign.ops.validate import describe


def channel_values(name: str, values: Any) -> Tensor | None:
    """`mean` or `std` as it is kept, [C, 1, 1], or [1, 1, 1] for all channels alike.

    Raises:
        OptionError: RA506, unless they are finite numbers, and those of `std` above zero.
    """
    if values is None:
        return None
    try:
        kept = torch.as_tensor(values).detach().to(torch.float32, copy=True).reshape(-1, 1, 1)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kept = torch.empty(0, 1, 1)
    usable = kept.isfinite() & (kept > 0) if name == "std" else kept.isfinite()
    if not len(kept) or not bool(usable.all()):
        above = " above zero" if name == "std" else ""
        got = list(values) if isinstance(values, (list, tuple)) else describe(values)
        raise OptionError(
            f"RA506: expected {name}, a finite number{above} for each channel; got {got}. Pass those that the "
            "weights were trained with, for images from 0 to 1."
        )
    return kept


def normalized(image_chw: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """`(image - mean) / std` [C, H, W]; where one is None it is left out.

    Raises:
        FeatureMapError: RA307, for an image of another number of channels.
    """
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, image_chw.shape[0]):
            raise FeatureMapError(
                f"RA307: expected images of {len(values)} channels, for which {name} has values; got "
                f"{describe(image_chw)}. Pass {name} for each channel, or convert the images."
            )
    image_chw = image_chw if mean is None else image_chw - mean.to(image_chw)
    return image_chw if std is None else image_chw / std.to(image_chw)
