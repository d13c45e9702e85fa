"""From the operators of a run to the field of each of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.backbones.fields import ROWS, Field, Term, UnsupportedError, image_field, neutral
from roialign.backbones.layout import named_outputs
from roialign.backbones.record import Entry, Ref, Tape
from roialign.backbones.reshape import reshaped
from roialign.backbones.rules import mixing, rule_for
from roialign.backbones.rules.call import Call, Operand, Result
from roialign.backbones.rules.views import inserted, one_term, permuted, split_starts
from roialign.backbones.rules.windows import padded

_Step = Callable[[Entry, list[Field], Field], None]


class Propagation:
    """The fields of a run's tensors. Views share the field of the tensor that they look at.

    on_step: is told of each operator whose result has a field: the entry, its operands' fields, the result's.
    """

    def __init__(self, tape: Tape, on_step: _Step | None = None) -> None:
        self._fields: dict[int, Field | None] = {tape.image.key: image_field(tape.image.shape)}
        self._views: dict[int, tuple[Ref, Entry, int]] = {}  # what it looks at, how, and which result it is
        self._versions: dict[int, int] = {}
        self._seen: dict[int, tuple[int, Field | None]] = {}  # of views, with the version that they were made at
        self._values = dict(tape.values)
        self._makers: dict[int, Entry] = {}
        self._on_step = on_step
        expiring = _last_uses(tape)
        for number, entry in enumerate(tape.entries):
            self._step(entry)
            for key in expiring.get(number, ()):
                self._fields.pop(key, None)
                self._seen.pop(key, None)

    def field(self, ref: Ref) -> Field | None:
        """Where the elements of a tensor lie; None if they depend on no pixel."""
        if ref.key not in self._views:
            return self._fields.get(ref.key)
        version = self._versions.get(self._root(ref.key), 0)
        known = self._seen.get(ref.key)
        if known is None or known[0] != version:
            source, entry, index = self._views[ref.key]
            seen = None if self.field(source) is None else self._apply(entry)[index]
            known = self._seen[ref.key] = (version, seen)
        return known[1]

    def _step(self, entry: Entry) -> None:
        source = _looked_at(entry)
        if source is not None:
            for index, result in enumerate(entry.results):
                if result.key != source.key:
                    self._views[result.key] = (source, entry, index)
        else:
            written = self._written(entry)
            results = self._apply(entry)
            for result, field in zip(entry.results, results, strict=True):
                self._makers[result.key] = entry
                if result.key in written:
                    self._write(result, field)
                else:
                    self._fields[result.key] = field
        if self._on_step and entry.results and (out := self.field(entry.results[0])) is not None and not out.unknown:
            inputs = [f for ref in operands_of(entry.arguments.values()) if (f := self.field(ref)) is not None]
            self._on_step(entry, inputs, out)

    def _written(self, entry: Entry) -> set[int]:
        if not entry.function._schema.is_mutable:
            return set()
        named = {a.name for a in entry.function._schema.arguments if a.alias_info and a.alias_info.is_write}
        return {ref.key for ref in operands_of(v for k, v in entry.arguments.items() if k in named)}

    def _apply(self, entry: Entry) -> list[Field | None]:
        """The fields of an operator's results."""
        arguments = {name: self._operand(value) for name, value in entry.arguments.items()}
        shapes = tuple(ref.shape for ref in entry.results)
        call = Call(entry.function._schema.name, arguments, shapes, self._constant)
        fields = call.fields()
        if not fields or not shapes:
            return [None] * len(shapes)
        rule = rule_for(entry.function)
        unknown = next((field.unknown for field in fields if field.unknown), None)
        if rule is mixing.no_field:
            return [None] * len(shapes)
        if rule is None and unknown is None:
            unknown = f"there is no rule for {entry.function}"
        try:
            result: Result = None if unknown or rule is None else rule(call)
        except UnsupportedError as reason:
            unknown = f"{entry.function}: {reason}"
        if unknown:
            place = f" in {entry.path}" if entry.path and not any(field.unknown for field in fields) else ""
            return [Field(shape, unknown=unknown + place) for shape in shapes]
        listed = list(result) if isinstance(result, Sequence) else [result]
        return (listed + [None] * len(shapes))[: len(shapes)]

    def _operand(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return Operand(value.key, value.shape, self.field(value))
        if isinstance(value, list):
            return [self._operand(item) for item in value]
        return value

    def _root(self, key: int) -> int:
        while key in self._views:
            key = self._views[key][0].key
        return key

    def _write(self, ref: Ref, field: Field | None) -> None:
        """An operator in place: what the tensor looks at, and all that look at it, change with it."""
        if ref.key not in self._views:
            if self._fields.get(ref.key) is not field:
                self._versions[ref.key] = self._versions.get(ref.key, 0) + 1
            self._fields[ref.key] = field
            return
        if field is self.field(ref):
            return
        source, entry, index = self._views[ref.key]
        self._write(source, _written_back(entry, index, source, self.field(source), field))

    def _constant(self, operand: Operand) -> Tensor:
        """The values of a tensor that depends on no pixel, computed from the parameters and buffers."""
        with torch.no_grad():
            return self._value(Ref(operand.ref, operand.shape))

    def _value(self, ref: Ref) -> Tensor:
        if ref.key in self._values:
            return self._values[ref.key]
        view = self._views.get(ref.key)
        entry = view[1] if view else self._makers.get(ref.key)
        if entry is None or self._versions.get(self._root(ref.key)) or entry.function._schema.is_mutable:
            raise UnsupportedError("its indices are not known")
        arguments = {name: self._concrete(value) for name, value in entry.arguments.items()}
        out = entry.function(**_named(entry, arguments))
        leaves = out if isinstance(out, (list, tuple)) else [out]
        for result, leaf in zip(entry.results, leaves, strict=True):
            self._values[result.key] = leaf
        return self._values[ref.key]

    def _concrete(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._value(value)
        return [self._concrete(item) for item in value] if isinstance(value, list) else value


def _looked_at(entry: Entry) -> Ref | None:
    """The tensor that the results are views of."""
    returns = entry.function._schema.returns
    if not returns or not returns[0].alias_info or returns[0].alias_info.is_write:
        return None
    return next(iter(operands_of(entry.arguments.values())), None)


def _last_uses(tape: Tape) -> dict[int, list[int]]:
    """The tensors whose fields are needed for the last time, directly or through views, by the number of the entry."""
    end = len(tape.entries)
    last = {id(leaf): end for _, _, leaf in named_outputs(tape.outputs)}
    for number, entry in reversed(list(enumerate(tape.entries))):
        source = _looked_at(entry)
        for ref in operands_of(entry.arguments.values()):
            last.setdefault(ref.key, number)
        for result in entry.results:
            own = last.setdefault(result.key, number)
            if source is not None:
                last[source.key] = max(last[source.key], own)
    expiring: dict[int, list[int]] = {}
    for key, number in last.items():
        expiring.setdefault(number, []).append(key)
    return expiring


def _named(entry: Entry, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments under the names that the operator takes; `self` is one of them."""
    return {a.name: arguments[a.name] for a in entry.function._schema.arguments if a.name in arguments}


def operands_of(values: Any) -> list[Ref]:
    """All Refs in nested lists, in order."""
    found: list[Ref] = []
    for value in values:
        if isinstance(value, Ref):
            found.append(value)
        elif isinstance(value, list):
            found.extend(operands_of(value))
    return found


def _written_back(entry: Entry, index: int, source: Ref, whole: Field | None, part: Field | None) -> Field | None:
    """The field of a tensor after `part` was written through its view."""
    if part is None:
        return whole if entry.results[index].shape != source.shape else None
    unknown = part.unknown or (whole.unknown if whole else None)
    if unknown:
        return Field(source.shape, unknown=unknown)
    name = entry.function._schema.name.removeprefix("aten::")
    arguments, dims = entry.arguments, len(source.shape)
    if name in ("view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze", "detach", "alias", "reshape"):
        return reshaped(part, source.shape)
    if name in ("transpose", "t"):
        order = list(range(dims))
        first, second = (arguments["dim0"], arguments["dim1"]) if name == "transpose" else (0, dims - 1)
        order[first], order[second] = order[second], order[first]
        return permuted(part, order)
    if name == "permute":
        forward = [d % dims for d in arguments["dims"]]
        return permuted(part, [forward.index(d) for d in range(dims)])
    if name not in ("slice", "select", "split", "split_with_sizes", "unbind"):
        return Field(source.shape, unknown=f"a result is written through {name}")
    dim = arguments["dim"] % dims
    size, step = source.shape[dim], 1
    if name in ("select", "unbind"):
        start = (arguments["index"] % size) if name == "select" else index
        part = inserted(part, dim)
    elif name == "slice":
        start, step = arguments.get("start") or 0, arguments.get("step", 1)
        start = min(max(start + size if start < 0 else start, 0), size)
    else:
        start = split_starts([ref.shape for ref in entry.results], dim)[index]
    return _placed(whole, part, source.shape, dim, start, step)


def _placed(whole: Field | None, part: Field, shape: tuple[int, ...], dim: int, start: int, step: int) -> Field:
    """`part` in every `step`-th cell of `whole` from `start` on. Constants around a map are its padding."""
    length = part.shape[dim]
    if length == shape[dim]:
        return part
    spatial = len(shape) >= 4 and any(term.steps[dim] for axis in part.axes for term in axis)
    if whole is None and step == 1 and spatial:
        return padded(part, dim, start, shape[dim] - start - length)
    place = start + torch.arange(length) * step

    def axis(number: int) -> Term:
        inner = one_term(part, number)
        outer = one_term(whole, number) if whole is not None else neutral(len(shape))
        pairs = zip(inner.values.shape[1:], outer.values.shape[1:], strict=True)
        sizes = [max(pair) for pair in pairs]
        sizes[dim] = shape[dim]
        if math.prod(sizes) > 1 << 20:
            raise UnsupportedError("its positions do not fit into memory")
        values = outer.values.expand(ROWS, *sizes).clone()
        sizes[dim] = length
        values.index_copy_(dim + 1, place, inner.values.expand(ROWS, *sizes).contiguous())
        steps = tuple(a or b for a, b in zip(outer.steps, inner.steps, strict=True))
        return Term(values, steps, inner.stride if math.isnan(outer.stride) else outer.stride)

    return Field(shape, ((axis(0),), (axis(1),)))
