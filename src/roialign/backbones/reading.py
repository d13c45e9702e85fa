"""Images of any kind as floats [C, H, W], upright, with the frame that says how they are stored."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.errors import FeatureMapError, FrameError
from roialign.geometry import Frame
from roialign.ops.validate import describe

_WANTED = "a tensor [C, H, W], an array [H, W, C] or [H, W], a PIL image, or the path of a file"
_CHANNELS = (1, 3, 4)  # of pictures, by which it is told which axis they are
_NO_NORMALISED_VALUE = 16.0  # (255 / 255 - mean) / std of any usual mean and std is below it
_ORIENTATION = 0x0112  # the tag of EXIF, and of TIFF
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_BROKEN = "a PIL image; it is broken"
_ADDRESS = re.compile(r" <[^>]* object at 0x[0-9a-fA-F]+>")  # of a file in memory, in Pillow's messages
_SCALED_TO_16_BITS = ("PNG", "PPM")  # formats whose "I" images hold values up to 65535, of whatever depth the file is


class Picture(NamedTuple):
    """An image as it was read."""

    pixels_chw: Tensor
    """[C, H, W] of a floating type; upright."""
    frame: Frame
    """Of `pixels_chw`; its root is the picture as it is stored: another frame where EXIF says that it is turned."""
    orientation: int = 1
    """EXIF's, by which the one was made of the other."""

    def frame_named(self, given: Frame | None, name: str) -> Frame:
        """The frame of `pixels_chw` where the caller says that the image has the frame `given`.

        That may be of the upright picture or of the stored one, as its size or its steps tell.

        Raises:
            FrameError: RA107, for a frame of neither size, or where it cannot be told which of the two it is of.
        """
        stored_hw, upright_hw = self.frame.root.size_hw, self.frame.size_hw
        if given is None:
            return self.frame
        turned = any(after == before.exif_transpose(self.orientation) for before, after in pairwise(given.chain))
        if given.size_hw not in (stored_hw, upright_hw):
            size = f"{upright_hw[0]} x {upright_hw[1]}"
            if stored_hw != upright_hw:
                size += f", or as stored (EXIF orientation {self.orientation}) {stored_hw[0]} x {stored_hw[1]}"
            raise FrameError(
                f"RA107: expected the frame of {name} to be of its size, {size}; got {given}. Pass the frame of this "
                "image: frames=[...]."
            )
        if self.orientation == 1 or (turned and given.size_hw == upright_hw):
            return given
        if stored_hw == upright_hw:
            raise FrameError(
                f"RA107: expected a frame that says whether the boxes belong to {name} as stored or upright: its "
                f"EXIF orientation is {self.orientation}, and both are {stored_hw[0]} x {stored_hw[1]}; got {given}. "
                f"If that is the stored picture, pass frames=[frame.exif_transpose({self.orientation})]. Pass boxes "
                "of the upright one as tensors."
            )
        return given if given.size_hw == upright_hw else given.exif_transpose(self.orientation)


def read(image: Any, name: str = "the image") -> Picture:
    """An image as floats [C, H, W], from 0 to 1 where their range is known, with its frame.

    Files and PIL images become RGB and are made upright, as `PIL.ImageOps.exif_transpose` does: their frame is of the
    upright picture, and its root is the stored one. Transparency is dropped, as by `image.convert("RGB")`; of several
    pages or frames the first of a file is read. uint8, uint16 and bool are divided by their largest value. Tensors of
    floats are taken as they are, for they may be normalised already. Tensors and arrays keep their channels.

    Args:
        image: a tensor [C, H, W], an array [H, W, C] or [H, W], a PIL image, or the path of an image file.
        name: what messages call it.

    Raises:
        FeatureMapError: RA307, for anything else, for values of an unknown range, for axes in another order.

    Example:
        >>> picture = read(torch.full((3, 4, 6), 255, dtype=torch.uint8))
        >>> picture.pixels_chw.max(), picture.frame.size_hw
        (tensor(1.), (4, 6))
    """
    if isinstance(image, str | os.PathLike):
        return _of_file(image, name)
    if hasattr(image, "getbands"):  # a PIL image, without importing PIL
        path = getattr(image, "filename", None)
        with _pillow_reads(name, f"the path of an image that Pillow can read; got {path!r}" if path else _BROKEN):
            return _of_pil(image, name)
    if isinstance(image, Tensor):
        pixels = _of_tensor(image, name)
    elif getattr(image, "ndim", 0) in (2, 3):
        pixels = _of_array(image, name)
    else:
        raise FeatureMapError(f"RA307: expected {name} as {_WANTED}; got {_described(image)}.{_batched(image)}")
    return Picture(pixels, Frame.image((int(pixels.shape[1]), int(pixels.shape[2]))))


def upright_size_hw(file: Any, name: str = "the image") -> tuple[int, int]:
    """Height and width of an image as `read` gives it, from the head of its file; the pixels are not read.

    Args:
        file: what `PIL.Image.open` takes.

    Raises:
        FeatureMapError: RA307, for what is no image.
    """
    from PIL import Image

    with _pillow_reads(name, _BROKEN), Image.open(file) as opened:
        width, height = opened.size
        return (width, height) if _orientation(opened) >= 5 else (height, width)


def read_content(content: bytes, name: str = "the image") -> Picture:
    """An image as `read` gives it, from the content of its file.

    Raises:
        FeatureMapError: RA307, for what is no image, a broken one, and one of more pixels than Pillow's limit.
    """
    from PIL import Image

    with _pillow_reads(name, "the content of an image file that Pillow can read"):
        if not content:
            raise ValueError("it is empty")
        with Image.open(io.BytesIO(content)) as opened:
            return _of_pil(opened, name)


def _of_file(path: str | os.PathLike[str], name: str) -> Picture:
    from PIL import Image

    what = f"the path of an image that Pillow can read; got {os.fspath(path)!r}"
    with _pillow_reads(name, what), Image.open(path) as opened:
        return _of_pil(opened, name)


@contextmanager
def _pillow_reads(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except FeatureMapError:
        raise
    except Exception as error:  # of broken files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        said = _ADDRESS.sub("", str(error)).rstrip(".")
        raise FeatureMapError(f"RA307: expected {name} as {what}: {said}.") from error


def _of_pil(image: Any, name: str) -> Picture:
    from PIL import ImageOps

    orientation = _orientation(image)
    image.load()
    width, height = image.size
    if orientation == 1:
        return Picture(_rgb(image, name), Frame.image((height, width)))
    upright = ImageOps.exif_transpose(image)
    width, height = upright.size
    stored_hw = (width, height) if orientation >= 5 else (height, width)
    stored = Frame.image(stored_hw, name="stored picture")
    return Picture(_rgb(upright, name), stored.exif_transpose(orientation), orientation)


def _orientation(image: Any) -> int:
    """EXIF's, from 1 to 8; asked before the pixels are read, for with them Pillow makes TIFFs upright itself."""
    try:
        found: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a block that is no EXIF, which viewers ignore, too
        return 1
    return int(found) if found in range(1, 9) else 1


def _rgb(image: Any, name: str) -> Tensor:
    """The pixels [3, H, W] of a PIL image, from 0 to 1; of the modes of more than 8 bits by their range."""
    if image.mode.startswith("I;16"):
        return _grey(image.convert("I"), torch.int32) / (2.0 ** _bits(image) - 1)
    if image.mode == "I" and image.format in _SCALED_TO_16_BITS:
        return _grey(image, torch.int32) / 65535
    if image.mode in ("I", "F"):
        grey = _grey(image, torch.int32 if image.mode == "I" else torch.float32)
        low, high = float(grey.min()), float(grey.max())
        if image.mode == "F" and low >= 0 and high <= 1:
            return grey
        raise FeatureMapError(
            f'RA307: expected {name} with values whose range is known; got a PIL image of mode "{image.mode}" with '
            f"values from {low:g} to {high:g}. Pass it as an array from 0 to 1, divided by the largest possible "
            "value: numpy.asarray(image) / 65535 for 16 bits."
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # of which Pillow would warn
    rgb = image.convert(_PREMULTIPLIED.get(image.mode, "RGB")).convert("RGB")
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
    return pixels.permute(2, 0, 1).float() / 255


def _grey(image: Any, dtype: torch.dtype) -> Tensor:
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=dtype).view(1, image.height, image.width)
    return values.float().expand(3, -1, -1)


def _bits(image: Any) -> int:
    """Of a pixel of mode "I;16": what a TIFF says, which may be 12."""
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    return int(bits[0])


def _of_tensor(image: Tensor, name: str) -> Tensor:
    if image.ndim != 3 or 0 in image.shape:
        raise FeatureMapError(f"RA307: expected {name} as {_WANTED}; got {describe(image)}.{_batched(image)}")
    channels, width, last = image.shape
    if last in _CHANNELS and channels not in _CHANNELS and width > 4:
        raise FeatureMapError(
            f"RA307: expected {name} as a tensor [C, H, W]; got {describe(image)}, whose channels seem to come last. "
            "Pass image.permute(2, 0, 1)."
        )
    return _scaled(image, name, "image.to(torch.uint8)")


def _of_array(image: Any, name: str) -> Tensor:
    shape = tuple(image.shape)
    if 0 in shape:
        raise FeatureMapError(f"RA307: expected {name} as {_WANTED}; got {_described(image)}.")
    if len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS and shape[1] > 4:
        raise FeatureMapError(
            f"RA307: expected {name} as an array [H, W, C]; got {_described(image)}, whose channels seem to come "
            "first. Pass image.transpose(1, 2, 0), or torch.from_numpy(image)."
        )
    values = _torch_of(image, name)
    pixels = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())
        if low >= 0 and high > _NO_NORMALISED_VALUE:
            raise FeatureMapError(
                f"RA307: expected {name} with floats from 0 to 1, or normalised ones; got {_described(image)} with "
                f"values from {low:g} to {high:g}. Pass image / 255, or image / 65535 for 16 bits; a tensor [C, H, "
                "W] is used unchanged."
            )
    return _scaled(pixels, name, 'image.astype("uint8")')


def _torch_of(array: Any, name: str) -> Tensor:
    """A NumPy array as a tensor of its own, of whatever strides and byte order; any other array as torch reads it."""
    try:
        if hasattr(array, "__array_interface__") and hasattr(array, "astype"):
            array = array.astype(array.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatureMapError(f"RA307: expected {name} as {_WANTED}; got {_described(array)}: {error}.") from error


def _scaled(pixels: Tensor, name: str, as_bytes: str) -> Tensor:
    if pixels.is_floating_point():
        return pixels
    if pixels.dtype == torch.bool:
        return pixels.float()
    if pixels.dtype in (torch.uint8, torch.uint16):
        return pixels.float() / torch.iinfo(pixels.dtype).max
    what = f"of uint8, uint16, bool or floats; got {describe(pixels)}"
    if pixels.is_complex():
        raise FeatureMapError(f"RA307: expected {name} {what}. Pass its magnitude, image.abs().")
    low, high = (int(extreme) for extreme in torch.aminmax(pixels.long()))
    fix = "Their range is not known: pass image / the largest possible value."
    if low >= 0 and high <= 255:
        fix = f"If 255 is white, pass {as_bytes}; else image / the largest possible value."
    raise FeatureMapError(f"RA307: expected {name} {what} with values from {low} to {high}. {fix}")


def _described(value: Any) -> str:
    """Of an array its type and shape, as of a tensor."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(value, Tensor) or shape is None or dtype is None:
        return describe(value)
    return f"a {type(value).__name__} {dtype} {list(shape)}"


def _batched(value: Any) -> str:
    return " Pass a list of images: list(images)." if getattr(value, "ndim", 0) == 4 else ""
