"""The field of a tensor after a reshape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from roialign.backbones.fields import CENTRE, LARGE, ROWS, Field, Term, UnsupportedError, mapped, reduced_term

_Group = tuple[list[int], list[int]]


def reshaped(field: Field, shape: Sequence[int]) -> Field:
    """The field of the same elements in the same order, in dimensions of `shape`.

    Dimensions are matched in groups of equal products, and expanded only in groups in which positions change. What
    would not fit into memory even so has its branches in channels joined first.
    """
    shape = tuple(shape)
    if shape == field.shape:
        return field
    groups = _groups(field.shape, shape)
    return mapped(field, shape, lambda term: _reshaped_term(term, field.shape, shape, groups))


def _groups(old: Sequence[int], new: Sequence[int]) -> list[_Group]:
    """Shortest runs of old and new dimensions that hold equally many elements; leftover ones of size 1 go last."""
    groups: list[_Group] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b = [i], [j]
        have, want = old[i], new[j]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                have *= old[i]
                a.append(i)
                i += 1
            else:
                want *= new[j]
                b.append(j)
                j += 1
        groups.append((a, b))
    rest = (list(range(i, len(old))), list(range(j, len(new))))
    if rest[0] or rest[1]:
        groups.append(rest)
    return groups


def _reshaped_term(term: Term, old: Sequence[int], new: Sequence[int], groups: Sequence[_Group]) -> Term:
    sizes: list[int] = [ROWS]  # of the values in the old dimensions, as far as expanded
    target: list[int] = [ROWS]
    steps = [0.0] * len(new)
    opened: list[int] = []
    for before, after in groups:
        varies = any(term.values.shape[d + 1] > 1 for d in before)
        sizes += [old[d] if varies else 1 for d in before]
        target += [new[d] if varies else 1 for d in after]
        flat = _merged([(old[d], term.steps[d]) for d in before])
        for position, d in enumerate(after):
            steps[d] = flat * math.prod(new[e] for e in after[position + 1 :])
            if new[d] > 1 and not varies:
                steps[d] = 0.0
        if len(before) == len(after) == 1:
            steps[after[0]] = term.steps[before[0]]
        elif varies and len(after) > 1:
            opened += after
    if math.prod(sizes) > LARGE:
        branches = _branches(term, old, groups)
        if not branches:
            raise UnsupportedError("its positions do not fit into memory")
        return _reshaped_term(reduced_term(term, branches), old, new, groups)
    values = term.values.expand(sizes).reshape(target)
    for d in opened:
        values = _settle(values, d, steps)
    _name_lone_steps(values, steps, term.stride)
    return Term(values, tuple(steps), term.stride)


def _branches(term: Term, old: Sequence[int], groups: Sequence[_Group]) -> list[int]:
    """Dimensions that stay as they are, in which positions change, but less than in another one: channels."""
    spans = [0.0 if math.isnan(step) else abs(step) * size for size, step in zip(old, term.steps, strict=True)]
    widest = spans.index(max(spans))
    alone = [before[0] for before, after in groups if len(before) == len(after) == 1]
    return [d for d in alone if d != widest and term.values.shape[d + 1] > 1]


def _merged(dims: Sequence[tuple[int, float]]) -> float:
    """The step of several dimensions in one; NaN if there is none."""
    flat, span = 0.0, 1
    for size, step in reversed(dims):
        if math.isnan(step):
            return math.nan
        if flat == 0:
            flat = step / span
        elif (step != 0 or size > 1) and not math.isclose(step, flat * span, rel_tol=1e-9):
            return math.nan
        span *= size
    return flat


def _settle(values: Tensor, dim: int, steps: list[float]) -> Tensor:
    """Drop a dimension along which nothing changes; take the step from the values where it is constant."""
    if values.shape[dim + 1] == 1:
        return values
    first = values.narrow(dim + 1, 0, 1)
    if bool(((values == first) | (values.isnan() & first.isnan())).all()):
        steps[dim] = 0.0
        return first
    differences = values[CENTRE].diff(dim=dim)
    known = differences[~differences.isnan()]
    if known.numel() and bool((known - known[0]).abs().max() < 1e-9) and known[0] != 0:
        steps[dim] = float(known[0])
    return values


def _name_lone_steps(values: Tensor, steps: list[float], stride: float) -> None:
    """A single row or column of cells: the only dimension that can hold the axis has its stride."""
    open_dims = [d for d, step in enumerate(steps) if math.isnan(step) and values.shape[d + 1] == 1]
    if len(open_dims) == 1 and not any(step for d, step in enumerate(steps) if d != open_dims[0]):
        steps[open_dims[0]] = stride
