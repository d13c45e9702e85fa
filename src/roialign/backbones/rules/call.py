"""One call of an ATen operator, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from roialign.backbones.fields import Field, UnsupportedError


@dataclass(frozen=True)
class Operand:
    """A tensor that goes into a call: its shape, and where its elements lie, None if it depends on no pixel."""

    ref: int
    shape: tuple[int, ...]
    field: Field | None


@dataclass(frozen=True)
class Call:
    """An operator, its arguments by the names of its schema, and the shapes of its results.

    constant: gives the values of an operand that depends on no pixel.
    """

    name: str
    arguments: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    constant: Callable[[Operand], Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.shapes[0]

    def field(self, name: str) -> Field:
        """The field of a tensor that has to have one."""
        field: Field | None = self.arguments[name].field
        if field is None:
            raise UnsupportedError(f"its {name} does not depend on the image, other arguments do")
        return field

    def fields(self) -> list[Field]:
        """The fields of all arguments that have one, in order."""
        return [operand.field for operand in operands(self.arguments.values()) if operand.field is not None]


Result = Field | None | Sequence[Field | None]
Rule = Callable[[Call], Result]


def operands(values: Any) -> list[Operand]:
    """All tensors in nested sequences, in order."""
    found: list[Operand] = []
    for value in values:
        if isinstance(value, Operand):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(operands(value))
    return found
