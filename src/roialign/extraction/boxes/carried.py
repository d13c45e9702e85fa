"""Columns that are carried through from annotations to rows: their names and types."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from roialign.extraction.items import MASK_SHARE, ROW_COLUMNS, ColumnType

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|nan|[+-]?inf", re.IGNORECASE)
_BOOL = {"true": True, "false": False}
_INT64 = 1 << 63


def carried_name(name: str) -> str:
    """What a field of the annotations is called among the rows' own columns: "level" becomes "input_level"."""
    return f"input_{name}" if name in (*ROW_COLUMNS, MASK_SHARE) else name


class ColumnTypes:
    """The types of columns, found out value by value: the narrowest that holds all of a column's.

    Example:
        >>> types = ColumnTypes()
        >>> for value in (1, None, 2.5):
        ...     types.meet("score", value)
        >>> types.found()
        {'score': 'float64'}
    """

    def __init__(self) -> None:
        self._met: dict[str, ColumnType | None] = {}

    def meet(self, name: str, value: Any) -> None:
        """Take a value of a column into account: a scalar, or None for a missing one."""
        self._take(name, None if value is None else _type_of(value))

    def meet_text(self, name: str, text: str) -> None:
        """Take a value into account that is written as text; "007" is none of a number."""
        if self._met.get(name) != "string":
            self._take(name, _type_of_text(text))

    def found(self) -> dict[str, ColumnType]:
        """The types by name, in the order in which the columns were met first; "string" where all is missing."""
        return {name: kind or "string" for name, kind in self._met.items()}

    def _take(self, name: str, kind: ColumnType | None) -> None:
        before = self._met.setdefault(name, kind)
        if kind is None or kind == before:
            return
        numbers = {before, kind} == {"int64", "float64"}
        self._met[name] = kind if before is None else "float64" if numbers else "string"


def as_type(value: Any, kind: ColumnType) -> Any:
    """A value, or the text that it is written as, in the type of its column."""
    if value is None:
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value)
    if kind == "bool":
        return _BOOL[value.lower()] if isinstance(value, str) else value
    return int(value) if kind == "int64" else float(value)


def is_scalar(value: Any) -> bool:
    """Whether it can be carried through."""
    return value is None or isinstance(value, str | bool | int | float)


def as_number(value: Any) -> float:
    """A coordinate: a number or its text; NaN for a missing one.

    Raises:
        ValueError: for what is not a number.
    """
    if value is None or value == "":
        return math.nan
    if isinstance(value, bool | list | dict):
        raise ValueError(f"{value!r} is not a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{value!r} is not a number") from None


def _type_of(value: Any) -> ColumnType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -_INT64 <= value < _INT64 else "string"
    return "float64" if isinstance(value, float) else "string"


def _type_of_text(text: str) -> ColumnType:
    if text.lower() in _BOOL:
        return "bool"
    if _WHOLE.fullmatch(text):
        return _type_of(int(text)) if len(text) <= 20 else "string"
    return "float64" if _DECIMAL.fullmatch(text) else "string"
