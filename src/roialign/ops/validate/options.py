"""Which sizes, scales and ratios an RoI operator accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, cast

import torch

from roialign import errors
from roialign.ops.validate.words import describe

MAX_SAMPLING_RATIO = 128  # the reference reads all samples of a bin at once
_MAX_SIDE = 1 << 24  # bins beyond it have no number in float32
_MAX_BINS = (1 << 31) - 1
_MAX_SCALE = 3e38  # of float32


Options = tuple[tuple[int, int], float, int]


def check_options(output_size: Any, spatial_scale: Any, sampling_ratio: Any) -> Options:
    """The output size as (height, width), the scale and the ratio, once all three are found usable."""
    is_pair = type(output_size) is tuple and len(output_size) == 2
    sides = output_size if is_pair else (output_size, output_size)
    plain = type(sides[0]) is int is type(sides[1]) and type(spatial_scale) is float and type(sampling_ratio) is int
    if plain and not torch.compiler.is_compiling():
        return _check_plain_options(output_size, spatial_scale, sampling_ratio)
    return _check_options(output_size, spatial_scale, sampling_ratio)


@lru_cache(maxsize=1024)
def _check_plain_options(output_size: Any, spatial_scale: float, sampling_ratio: int) -> Options:
    """Most programs pass few of them, often."""
    return _check_options(output_size, spatial_scale, sampling_ratio)


def _check_options(output_size: Any, spatial_scale: Any, sampling_ratio: Any) -> Options:
    scale, ratio = check_scale(spatial_scale), check_ratio(sampling_ratio)
    size_hw = (output_size, output_size) if isinstance(output_size, (Integral, torch.SymInt)) else output_size
    if not isinstance(size_hw, Sequence) or len(size_hw) != 2 or not all(map(is_side, size_hw)):
        raise errors.OutputSizeError(
            f"RA506: expected output_size, one integer from 1 to {_MAX_SIDE} or a pair (height, width) of them; got "
            f"{output_size!r}. Use output_size=7 for 7 x 7 bins."
        )
    height, width = cast(tuple[int, int], tuple(size_hw))
    if isinstance(height, int) and isinstance(width, int) and height * width > _MAX_BINS:
        raise errors.OutputSizeError(
            f"RA506: expected output_size of at most {_MAX_BINS} bins; got {output_size!r}. Use output_size=7."
        )
    return (height, width), scale, ratio


def check_scale(spatial_scale: Any) -> float:
    """The scale as a float, once it is found usable."""
    number = isinstance(spatial_scale, (Real, torch.SymFloat))
    if not number or not 0 < spatial_scale <= _MAX_SCALE:
        raise errors.ScaleError(
            f"RA105: expected spatial_scale, a finite number above zero; got {describe(spatial_scale)}. It is "
            "1 / stride: cells of the feature map per pixel of the image that the boxes are in, such as 1 / 16."
        )
    return cast(float, spatial_scale if isinstance(spatial_scale, (float, torch.SymFloat)) else float(spatial_scale))


def check_ratio(sampling_ratio: Any) -> int:
    """The sampling ratio, -1 where it is adaptive, once it is found usable."""
    whole = isinstance(sampling_ratio, (Integral, torch.SymInt)) and not isinstance(sampling_ratio, bool)
    if not whole or sampling_ratio > MAX_SAMPLING_RATIO:
        raise errors.OutputSizeError(
            f"RA506: expected sampling_ratio, an integer of at most {MAX_SAMPLING_RATIO}; got "
            f"{describe(sampling_ratio)}. Use 2, or -1 to let the box's size decide."
        )
    ratio = sampling_ratio if isinstance(sampling_ratio, (int, torch.SymInt)) else int(sampling_ratio)
    return cast(int, max(ratio, -1))


def check_aligned(aligned: Any) -> bool:
    """Whether cells are centred at half a stride, once it is found to be a yes or a no."""
    if aligned is True or aligned is False:
        return aligned
    if not is_flag(aligned):
        raise errors.OptionError(
            f"RA506: expected aligned, True or False; got {describe(aligned)}. All boxes of a call share it."
        )
    return bool(aligned)


def is_flag(value: Any) -> bool:
    """Whether `value` is one value, and so true or false."""
    return getattr(value, "ndim", 0) == 0 and not isinstance(value, (str, Sequence))


def is_side(side: Any) -> bool:
    """Whether `side` can be a number of bins."""
    whole = isinstance(side, (Integral, torch.SymInt))
    return whole and bool(1 <= side <= _MAX_SIDE)
