"""What lies under a drawn feature map: the image, or how strong the features are, as data URIs."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

MAX_IMAGE_SIDE = 640
_SMALLER_SIDES = (640, 480, 320, 200, 100)
_NOT_A_NUMBER_RGB = (0.85, 0.1, 0.35)


def image_picture(image_chw: Tensor) -> str | None:
    """An image [3, H, W] or [1, H, W]; floats are stretched to their own range."""
    if image_chw.dim() != 3 or image_chw.shape[0] not in (1, 3) or not image_chw.numel():
        return None
    levels = image_chw.detach().cpu().float()
    levels = levels / 255 if image_chw.dtype == torch.uint8 else _stretch(levels)
    return _data_uri(_shrink(levels).expand(3, -1, -1), "JPEG")


def energy_picture(features: Tensor, image: int | None) -> str | None:
    """Mean magnitude over the channels of one image, one pixel for each cell, dark to light; NaN and infinite red."""
    if not features.numel() or not 0 <= (image or 0) < len(features):
        return None
    energy = features[image or 0].detach().cpu().float().abs().mean(0)
    levels = _stretch(energy).expand(3, -1, -1)
    if not bool(energy.isfinite().all()):
        red = torch.tensor(_NOT_A_NUMBER_RGB)[:, None, None]
        levels = torch.where(energy.isfinite(), levels, red)
    return _data_uri(_shrink(levels), "PNG")


def within(uri: str, most: int) -> str | None:
    """The same picture as a data URI of at most so many signs, in fewer pixels where need be."""
    from PIL import Image

    if len(uri) <= most:
        return uri
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    for side in _SMALLER_SIDES:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=75, optimize=True)
        smaller = _uri_of(buffer, "JPEG")
        if len(smaller) <= most:
            return smaller
    return None


def _shrink(levels_chw: Tensor) -> Tensor:
    size_hw = levels_chw.shape[1:]
    shrink = MAX_IMAGE_SIDE / max(size_hw)
    if shrink >= 1:
        return levels_chw
    size = [max(1, round(side * shrink)) for side in size_hw]
    return torch.nn.functional.interpolate(levels_chw[None], size, mode="bilinear", antialias=True)[0]


def _stretch(values: Tensor) -> Tensor:
    """Finite values to 0..1; all others, and a constant, to 0."""
    finite = values.isfinite()
    if not bool(finite.any()):
        return torch.zeros_like(values)
    low, high = values[finite].aminmax()
    return torch.where(finite, (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny), 0.0)


def _data_uri(levels_chw: Tensor, format: str) -> str:
    """Levels 0..1 [3, H, W] as a picture."""
    from PIL import Image

    levels = levels_chw.permute(1, 2, 0)
    pixels = bytes((levels.clamp(0, 1) * 255).round().to(torch.uint8).flatten().tolist())
    buffer = io.BytesIO()
    Image.frombytes("RGB", (levels.shape[1], levels.shape[0]), pixels).save(buffer, format, quality=82, optimize=True)
    return _uri_of(buffer, format)


def _uri_of(file: io.BytesIO, format: str) -> str:
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
