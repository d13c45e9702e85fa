"""What each function does to the frames of images: the step from those that it was given to those that it made."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from torch import Tensor

from roialign.doctor.surroundings import Mosaic, stored_turned
from roialign.geometry import Frame

_ORIENTATIONS = (2, 4, 8, 3, 6, 5, 7)  # EXIF's that PIL.Image.Transpose undoes: FLIP_LEFT_RIGHT = 0, and so on
_EXIF_ORIENTATION = 0x0112
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode")


class Known(NamedTuple):
    """What is known of an image."""

    frame: Frame | None
    """None where something was done to it that no chain of frames can state."""
    mosaic: Mosaic | None = None
    """The tiles that it was put together of."""


UNKNOWN = Known(None)


def after(
    deed: str,
    name: str,
    output: Tensor,
    inputs: Sequence[Tensor],
    known: Sequence[Sequence[Known]],
    options: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> list[Known] | None:
    """What is known of each image of `output`; None where nothing need be remembered of it.

    `known` is what is known of each image of each input, `options` the arguments that follow the inputs.
    """
    if is_batch(deed, output, options, kwargs):
        return [one for some in known for one in some]
    if deed == "stacked":
        return None
    if deed == "joined":
        return _joined(output, inputs, known, _dim(output, options, kwargs))
    (of_each,) = known
    count = len(output) if output.dim() == 4 else 1
    if deed == "bent" or len(of_each) != count:
        return [UNKNOWN] * count
    size_hw = (output.shape[-2], output.shape[-1])
    if deed == "resized":
        nearest = "nearest" in name
        corners = not nearest and len(options) > 1 and options[1] is True
        factors = options[1 if nearest else 2] if len(options) > (1 if nearest else 2) else None
        return [_resized(one, size_hw, corners, factors) for one in of_each]
    if deed == "averaged":
        return [_averaged(one, size_hw, options, kwargs) for one in of_each]
    if deed == "padded":
        return [_padded(one, options[0] if options else kwargs["pad"]) for one in of_each]
    return [_flipped(one, output.dim(), options, kwargs) for one in of_each]


def is_batch(deed: str, output: Tensor, options: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether images were joined to a batch."""
    return deed in ("joined", "stacked") and output.dim() == 4 and _dim(output, options, kwargs) == -4


def _dim(output: Tensor, options: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The dimension along which images were joined, counted from the last."""
    dim: int = options[0] if options else kwargs.get("dim", kwargs.get("axis", 0))
    return dim % output.dim() - output.dim()


def opened(image: Any) -> Known | None:
    """What is known of an image that PIL opened; None where its file does not say that it is to be turned."""
    if image.format == "PNG" and "exif" not in image.info:
        return None  # it would be read to its end to find out
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation not in range(2, 9):
        return None
    if image.format != "TIFF":
        return Known(stored_turned((image.height, image.width), orientation))
    size_hw = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    return Known(stored_turned(size_hw, orientation).exif_transpose(orientation))  # by PIL, when it reads the pixels


def after_pil(
    deed: str, size_hw: tuple[int, int], known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Known:
    """What is known of the image of this size that a method of PIL made."""
    frame = known.frame
    if frame is None:
        return UNKNOWN
    if deed in ("convert", "copy"):
        return known
    if deed == "crop":
        left, top = (round(edge) for edge in (args[0] if args else kwargs["box"])[:2])
        return Known(frame.crop(top, left, *size_hw))
    if deed == "resize":
        box = args[2] if len(args) > 2 else kwargs.get("box")
        left, top, right, bottom = box or (0, 0, frame.size_hw[1], frame.size_hw[0])
        scale_yx = (Fraction(size_hw[0]) / Fraction(bottom - top), Fraction(size_hw[1]) / Fraction(right - left))
        shift_yx = (-Fraction(top) * scale_yx[0], -Fraction(left) * scale_yx[1])
        return Known(frame.affine(size_hw, scale_yx, shift_yx, name="resize"))
    if deed == "transpose":
        return Known(frame.exif_transpose(_ORIENTATIONS[int(args[0] if args else kwargs["method"])]))
    return UNKNOWN


def _resized(known: Known, size_hw: tuple[int, int], corners: bool, factors: Sequence[float] | None) -> Known:
    if known.frame is None:
        return UNKNOWN
    mosaic, whole = known.mosaic, known.frame.size_hw
    if mosaic is not None:
        tile_hw = (size_hw[0] // mosaic.rows, size_hw[1] // mosaic.columns)
        fits = (tile_hw[0] * mosaic.rows, tile_hw[1] * mosaic.columns) == size_hw
        mosaic = Mosaic(tile_hw, mosaic.rows, mosaic.columns) if fits else None
    if corners and min(whole) > 1:  # the centres of the first and the last pixels stay where they are
        scale = [Fraction(new - 1, old - 1) for new, old in zip(size_hw, whole, strict=True)]
        shift = [(1 - one) / 2 for one in scale]
        frame = known.frame.affine(size_hw, (scale[0], scale[1]), (shift[0], shift[1]), name="resize")
    elif factors is not None:
        frame = known.frame.affine(size_hw, (float(factors[0]), float(factors[1])), (0, 0), name="resize")
    else:
        frame = known.frame.resize(size_hw)
    return Known(frame, mosaic)


def _averaged(known: Known, size_hw: tuple[int, int], options: tuple[Any, ...], kwargs: dict[str, Any]) -> Known:
    given = dict(zip(_AVG_POOL, options, strict=False)) | kwargs
    kernel_hw, stride_hw = _pair(given["kernel_size"]), _pair(given.get("stride") or given["kernel_size"])
    fits = kernel_hw == stride_hw and _pair(given.get("padding", 0)) == (0, 0) and not given.get("ceil_mode", False)
    if known.frame is None or not fits:
        return UNKNOWN
    scale_yx = Fraction(1, stride_hw[0]), Fraction(1, stride_hw[1])
    return Known(known.frame.affine(size_hw, scale_yx, (0, 0), name="average"))


def _pair(given: Any) -> tuple[int, int]:
    both = list(given) if isinstance(given, (list, tuple)) else [given]
    return int(both[0]), int(both[-1])


def _padded(known: Known, sides: Sequence[int]) -> Known:
    if known.frame is None or len(sides) > 4:
        return UNKNOWN
    left, right, top, bottom = (*map(int, sides), 0, 0)[:4]
    return Known(known.frame.pad(left, top, right, bottom))


def _flipped(known: Known, dims: int, options: tuple[Any, ...], kwargs: dict[str, Any]) -> Known:
    given = options[0] if len(options) == 1 else options or kwargs["dims"]
    flipped = {dim % dims - dims for dim in (given if isinstance(given, (list, tuple)) else [given])}
    if known.frame is None or -4 in flipped:
        return UNKNOWN
    frame = known.frame.flip_vertical() if -2 in flipped else known.frame
    return Known(frame.flip_horizontal() if -1 in flipped else frame)


def _joined(output: Tensor, inputs: Sequence[Tensor], known: Sequence[Sequence[Known]], dim: int) -> list[Known] | None:
    if dim == -3:  # channels of one image
        return list(known[0]) if all(list(some) == list(known[0]) for some in known) else None
    mosaic = _mosaic(inputs, known, down=dim == -2)
    size_hw = (output.shape[-2], output.shape[-1])
    count = len(output) if output.dim() == 4 else 1
    return [Known(Frame.image(size_hw, name="mosaic" if mosaic else "image"), mosaic) for _ in range(count)]


def _mosaic(inputs: Sequence[Tensor], known: Sequence[Sequence[Known]], down: bool) -> Mosaic | None:
    """The tiles that images of one size make when they are joined, if those are all tiles or all alike mosaics."""
    mosaics = {one.mosaic for some in known for one in some}
    if len(inputs) < 2 or len(mosaics) != 1 or len({one.shape for one in inputs}) != 1:
        return None
    size_hw = (inputs[0].shape[-2], inputs[0].shape[-1])
    mosaic = mosaics.pop() or Mosaic(size_hw, 1, 1)
    if down:
        return Mosaic(mosaic.tile_hw, mosaic.rows * len(inputs), mosaic.columns)
    return Mosaic(mosaic.tile_hw, mosaic.rows, mosaic.columns * len(inputs))
