"""Small pictures of regions with what is around them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from roialign.extraction.items import ImageRef

_SIDE_PX = 112
_AROUND = 1.6  # sides of the box, of what is shown
_QUALITY = 80  # of the JPEG

Corners = tuple[float, float, float, float]


class Thumbnail(NamedTuple):
    """A picture, and where the box is in it, in percent of its sides."""

    uri: str
    left: float
    top: float
    width: float
    height: float


def thumbnails(
    images: Iterable[ImageRef], wanted: Iterable[tuple[str, Corners]]
) -> dict[tuple[str, Corners], Thumbnail]:
    """A picture of each box x1, y1, x2, y2, in pixels of the upright image; each image is read once.

    Boxes of images that cannot be read, or are not among `images`, have none.
    """
    boxes: dict[str, set[Corners]] = {}
    for image_id, corners in wanted:
        boxes.setdefault(image_id, set()).add(corners)
    made = {}
    for image in images:
        if image.image_id in boxes:
            upright = _upright(image)
            if upright is not None:
                made.update({(image.image_id, box): _thumbnail(upright, box) for box in boxes[image.image_id]})
    return made


def _upright(image: ImageRef) -> Any:
    from PIL import Image, ImageOps

    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(image.read_bytes()))).convert("RGB")
    except Exception:  # of broken files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        return None


def _thumbnail(image: Any, box: Corners) -> Thumbnail:
    """A square around the box: what is beside the image is grey."""
    from PIL import Image

    left, top, right, bottom = box
    side = max(right - left, bottom - top, 1.0) * _AROUND
    near_x, near_y = (left + right - side) / 2, (top + bottom - side) / 2
    corners = (near_x, near_y, near_x + side, near_y + side)
    picture = image.transform(
        (_SIDE_PX, _SIDE_PX), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    shares = ((left - near_x), (top - near_y), (right - left), (bottom - top))
    return Thumbnail(uri, *(round(100 * share / side, 2) for share in shares))
