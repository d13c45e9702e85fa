"""Steps of frames as plain numbers and strings, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from roialign.errors import FrameError
from roialign.geometry.maps import ExactMap, exact_map
from roialign.geometry.values import shown

_FRACTION = re.compile(r"-?[0-9]{1,1500}(/[0-9]{1,1500})?")

Step = tuple[Any, ExactMap, str]
"""Size, map and name."""


def written(size_hw: tuple[int, int], step: ExactMap, name: str) -> dict[str, Any]:
    """A step, as `read` takes it."""
    y, x = step.y.fractions(), step.x.fractions()
    return {
        "name": name,
        "size_hw": list(size_hw),
        "scale_yx": [str(y[0]), str(x[0])],
        "shift_yx": [str(y[1]), str(x[1])],
        "transposed": step.transposed,
    }


def read(record: Any) -> tuple[Any, str, str, list[Step]]:
    """The size, the name and the id of an image, and the steps from there; sizes are not looked at.

    Raises:
        FrameError: RA107, for anything else than what `Frame.to_dict` writes.
    """
    size_hw, name, identity, steps = _entries(
        record, "a frame", {"size_hw": object, "name": str, "id": str, "steps": list}
    )
    return size_hw, name, identity, [_step(step) for step in steps]


def _step(record: Any) -> Step:
    wanted = {"size_hw": object, "name": str, "scale_yx": list, "shift_yx": list}
    size_hw, name, scale_yx, shift_yx = _entries(record, "a step", wanted)
    transposed = record.get("transposed", False)
    if not isinstance(transposed, bool):
        raise _refused(f"a step whose transposed is {shown(transposed)}")
    scales, shifts = ([_number(value) for value in values] for values in (scale_yx, shift_yx))
    return size_hw, exact_map(scales, shifts, transposed), name


def _entries(record: Any, what: str, wanted: Mapping[str, type]) -> list[Any]:
    """The entries of these names and types."""
    if not isinstance(record, Mapping):
        raise _refused(f"{shown(record)} for {what}")
    for key, kind in wanted.items():
        if key not in record:
            raise _refused(f"{what} without {key!r}")
        if not isinstance(record[key], (list, tuple) if kind is list else kind):
            raise _refused(f"{what} whose {key} is {shown(record[key])}")
    return [record[key] for key in wanted]


def _number(value: Any) -> Any:
    """A fraction as it was written; what is none is refused with the others of its step."""
    if not isinstance(value, str):
        return value
    try:
        return Fraction(value) if _FRACTION.fullmatch(value) else value
    except ZeroDivisionError:
        return value


def _refused(got: str) -> FrameError:
    return FrameError(
        f"RA107: expected a dict as Frame.to_dict() returns it; got {got}. Write it again from the frame."
    )
