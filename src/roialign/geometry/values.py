"""What numbers can be sizes, scales and shifts: None for those that cannot, or an error that says so."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from itertools import islice
from typing import Any

import torch

from roialign.errors import FrameError

_LARGEST_SIDE = 2**31 - 1  # pixels or cells
_MOST_SHOWN = 200  # signs
_MOST_BITS = 4096  # of a fraction's halves: what a record can still be written of


def shown(value: Any) -> str:
    """Anything that was given, for a message: not longer than a line or two."""
    try:
        text = repr(value)
    except Exception:  # of a class of the caller's, or a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def whole(value: Any) -> int | None:
    """A whole number of any library, as an int; no bools."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def wholes(values: Any, count: int) -> tuple[int, ...] | None:
    """So many whole numbers."""
    found = [whole(value) for value in listed(values, count) or ()]
    kept = tuple(value for value in found if value is not None)
    return kept if len(kept) == count else None


def count(value: Any) -> Any:
    """A whole number from one up, and a compiler's symbol as it is."""
    known = value if type(value) is int or _is_symbol(value) else whole(value)
    return known if known is not None and known >= 1 else None


def size_of(size_hw: Any) -> tuple[int, int] | None:
    """Height and width, from one up."""
    sides = wholes(size_hw, 2)
    return (sides[0], sides[1]) if sides and all(1 <= side <= _LARGEST_SIDE for side in sides) else None


def frame_size(size_hw: Any, where: str) -> tuple[int, int]:
    """Height and width of a frame.

    Raises:
        FrameError: RA107, for anything else.
    """
    size = size_of(size_hw)
    if size is None:
        raise FrameError(
            f"RA107: expected a size (height, width) of whole numbers above zero {where}; got {shown(size_hw)}. For "
            "an image tensor [C, H, W] that is tuple(image.shape[-2:]), for a PIL image (image.height, image.width)."
        )
    return size


def pixels(wanted: str, *given: Any) -> tuple[int, ...]:
    """Whole numbers of pixels.

    Raises:
        FrameError: RA107, for anything else.
    """
    found = wholes(given, len(given))
    if found is None or max(map(abs, found)) > _LARGEST_SIDE:
        raise FrameError(
            f"RA107: expected {wanted} in whole pixels; got {shown(given)}. Round them as the pixels were; for "
            "fractions of a pixel use frame.affine."
        )
    return found


def exact(value: Any) -> Fraction | None:
    """A finite number of any library, as it is."""
    if isinstance(value, (str, bytes, bool)):
        return None
    try:
        found = Fraction(value) if isinstance(value, (int, Fraction)) else Fraction(float(value))
        float(found)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return found if max(found.numerator.bit_length(), found.denominator.bit_length()) <= _MOST_BITS else None


def real_pair(values: Any) -> tuple[float, float] | None:
    """Two finite numbers in float64, and a compiler's symbols as they are."""
    first, second = (_real(value) for value in listed(values, 2) or (None, None))
    return None if first is None or second is None else (first, second)


def exact_pair(values: Any) -> tuple[Fraction, Fraction] | None:
    """Two finite numbers, as they are."""
    first, second = (exact(value) for value in listed(values, 2) or (None, None))
    return None if first is None or second is None else (first, second)


def listed(values: Any, count: int) -> list[Any] | None:
    """So many values of any kind of list."""
    if isinstance(values, (tuple, list)):
        return list(values) if len(values) == count else None
    if isinstance(values, (str, bytes, dict, set)):
        return None
    try:
        found = list(islice(values, count + 1))
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if len(found) == count else None


def _real(value: Any) -> Any:
    if (type(value) is float and -math.inf < value < math.inf) or _is_symbol(value):
        return value
    if isinstance(value, (str, bytes, bool)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


def _is_symbol(value: Any) -> bool:
    """Whether a compiler or a tracer stands behind a number, which must not be asked for its value."""
    return isinstance(value, (torch.SymInt, torch.SymFloat)) or torch.compiler.is_compiling() or torch.jit.is_tracing()
