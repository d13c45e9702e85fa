"""Where the elements of a tensor lie in the image: the values that the rules compute with.

A `Field` belongs to a tensor and has terms for y and for x. A `Term` is one array of `ROWS` numbers for each
element, of size 1 along the dimensions in which they do not change. Several terms stand for their join, element by
element, which is only computed where it is no larger than they are: the join of queries and keys would fill the
memory.

Where branches meet, the primary one is that with the smallest receptive field: it carries the finest detail, and its
centre is the element's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CENTRE = 0  # of the primary branch's receptive field, in pixels of the image, centres of pixels at + 0.5; NaN: none
SIZE = 1  # of the primary branch's receptive field; infinite where there is no centre
CENTRE_MIN = 2  # the centres of all branches that meet
CENTRE_MAX = 3
LOW = 4  # first and last pixel of the whole receptive field, which goes on into padding
HIGH = 5
FIRST = 6  # first and last pixel that is really read: padding holds no pixels
LAST = 7
ROWS = 8

_NEUTRAL = (math.nan, math.inf, math.inf, -math.inf, math.inf, -math.inf, math.inf, -math.inf)
_SMALL = 1 << 16  # elements below which terms are always joined
LARGE = 1 << 22  # numbers above which a term is not built
_EPSILON = 1e-6  # pixels


class UnsupportedError(Exception):
    """A rule cannot say where the elements of its result lie."""


@dataclass(frozen=True, eq=False)
class Term:
    """Positions of a tensor's elements along one axis of the image.

    values: [ROWS, *dims], each of dims the tensor's size or 1.
    steps: for each dimension the nominal distance between neighbours, in pixels; 0 where the axis does not lie
        along it; NaN where there is no single one (rows and columns in one dimension).
    stride: the nominal distance between neighbouring cells.
    """

    values: Tensor
    steps: tuple[float, ...]
    stride: float


@dataclass(frozen=True, eq=False)
class Field:
    """Positions of a tensor's elements in y and in x, or why they are unknown."""

    shape: tuple[int, ...]
    axes: tuple[tuple[Term, ...], tuple[Term, ...]] = ((), ())
    unknown: str | None = None


def image_field(shape: Sequence[int]) -> Field:
    """The field of an image [N, C, H, W]."""
    return Field(tuple(shape), (_pixels(shape, 2), _pixels(shape, 3)))


def _pixels(shape: Sequence[int], dim: int) -> tuple[Term, ...]:
    index = torch.arange(shape[dim], dtype=torch.float64)
    rows = torch.stack([index + 0.5, torch.ones_like(index), index + 0.5, index + 0.5, index, index, index, index])
    sizes = [ROWS] + [1] * len(shape)
    sizes[dim + 1] = shape[dim]
    return (Term(rows.view(sizes), tuple(float(d == dim) for d in range(len(shape))), 1.0),)


def neutral(dims: int) -> Term:
    """The term of elements that depend on no pixel."""
    return Term(column(_NEUTRAL, dims), (0.0,) * dims, math.nan)


def column(rows: Sequence[float], dims: int) -> Tensor:
    """One number for each row, to broadcast against a term's values."""
    return torch.tensor(rows, dtype=torch.float64).view(ROWS, *[1] * dims)


def shifted(values: Tensor, by: Tensor | float) -> Tensor:
    """Virtual positions `by` pixels further on, where nothing is read."""
    dims = values.ndim - 1
    moved = values + column((1, 0, 1, 1, 1, 1, 0, 0), dims) * by
    moved[FIRST], moved[LAST] = math.inf, -math.inf
    return moved


def join(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """The field of elements that each depend on those of all `fields`, which broadcast to `shape`."""
    if len(fields) == 1 and fields[0].shape == tuple(shape):
        return fields[0]
    return Field(
        tuple(shape),
        (
            _collapsed([lifted(term, field.shape, shape) for field in fields for term in field.axes[0]], shape),
            _collapsed([lifted(term, field.shape, shape) for field in fields for term in field.axes[1]], shape),
        ),
    )


def lifted(term: Term, own: Sequence[int], shape: Sequence[int]) -> Term:
    """`term` with the leading dimensions that broadcasting to `shape` adds."""
    missing = len(shape) - len(own)
    steps = (0.0,) * missing + tuple(
        0.0 if size == 1 and full != 1 else step
        for size, full, step in zip(own, tuple(shape)[missing:], term.steps, strict=True)
    )
    if not missing and steps == term.steps:
        return term
    values = term.values.reshape(ROWS, *[1] * missing, *term.values.shape[1:])
    return Term(values, steps, term.stride)


def _collapsed(terms: Sequence[Term], shape: Sequence[int]) -> tuple[Term, ...]:
    """`terms` joined where the result is no larger than the larger of them."""
    kept: list[Term] = []
    for term in terms:
        for index, other in enumerate(kept):
            if other is term:
                break
            if not _lie_alike(other, term):
                continue
            size = math.prod(torch.broadcast_shapes(other.values.shape, term.values.shape))
            if size <= max(other.values.numel(), term.values.numel(), _SMALL * ROWS):
                kept[index] = join_terms(other, term)
                break
        else:
            kept.append(term)
    return tuple(kept)


def _lie_alike(a: Term, b: Term) -> bool:
    """Whether the axis lies along the dimensions of one in the other, too; queries and keys must stay apart."""
    along_a, along_b = ({d for d, step in enumerate(term.steps) if step} for term in (a, b))
    return along_a <= along_b or along_b <= along_a


def join_terms(a: Term, b: Term) -> Term:
    """Both in one term: the centre of the one with the smaller receptive field, of `a` if they are equal."""
    first = a.values[SIZE] <= b.values[SIZE] + _EPSILON
    rows = [torch.where(first, a.values[row], b.values[row]) for row in (CENTRE, SIZE)]
    for row in range(CENTRE_MIN, ROWS):
        least = row in (CENTRE_MIN, LOW, FIRST)
        rows.append((torch.minimum if least else torch.maximum)(a.values[row], b.values[row]))
    steps = tuple(s if s and not math.isnan(s) else t or s for s, t in zip(a.steps, b.steps, strict=True))
    return Term(torch.stack(rows), steps, a.stride if not math.isnan(a.stride) else b.stride)


def reduced(field: Field, dims: Sequence[int], keepdim: bool, mixing: bool = False) -> Field:
    """The field of elements that each depend on all those along `dims`.

    Among them the ones with the smallest receptive field share the centre. An axis that is mixed as a whole leaves
    no centre. `mixing` says that positions are mixed (attention), so that their centres are no branch's.
    """
    dims = sorted(d % len(field.shape) for d in dims)
    shape = tuple(1 if d in dims else n for d, n in enumerate(field.shape))
    y, x = (tuple(reduced_term(term, dims, mixing) for term in axis) for axis in field.axes)
    kept = Field(shape, (y, x))
    return kept if keepdim else without_dims(kept, dims)


def reduced_term(term: Term, dims: Sequence[int], mixing: bool = False) -> Term:
    """`reduced` for one term, keeping the dimensions."""
    steps = tuple(0.0 if d in dims else step for d, step in enumerate(term.steps))
    along = [d for d in dims if term.values.shape[d + 1] > 1]
    if not along:
        return replace(term, steps=steps)
    values = term.values
    ends = [values[row].amin(along, keepdim=True) for row in (LOW, FIRST)]
    ends += [values[row].amax(along, keepdim=True) for row in (HIGH, LAST)]
    low, first, high, last = ends
    if not any(steps):
        none = first.isinf()
        low, high = torch.where(none, low, -math.inf), torch.where(none, high, math.inf)
        places = [torch.full_like(low, value) for value in _NEUTRAL[:LOW]]
        return Term(torch.stack([*places, low, high, first, last]), steps, math.nan)
    places = _shared_places(values, along)
    if mixing:
        places[CENTRE_MIN] = torch.full_like(low, math.inf)
        places[CENTRE_MAX] = torch.full_like(low, -math.inf)
    return Term(torch.stack([*places, low, high, first, last]), steps, term.stride)


def _shared_places(values: Tensor, along: Sequence[int]) -> list[Tensor]:
    """CENTRE to CENTRE_MAX over `along`: the mean of the finest, and the range of all branches.

    The finest are one branch, or several if they lie so far apart that there is something between them.
    """
    dims = list(along)
    best = values[SIZE] <= values[SIZE].amin(dims, keepdim=True) + _EPSILON
    count = best.sum(dims, keepdim=True)
    centre, least, most = (
        torch.where(best, values[row], 0.0).sum(dims, keepdim=True) / count for row in (CENTRE, CENTRE_MIN, CENTRE_MAX)
    )
    least = torch.minimum(least, torch.where(best, math.inf, values[CENTRE_MIN]).amin(dims, keepdim=True))
    most = torch.maximum(most, torch.where(best, -math.inf, values[CENTRE_MAX]).amax(dims, keepdim=True))
    half = values[SIZE] / 2
    end = torch.where(best, values[CENTRE] + half, -math.inf).nan_to_num(nan=-math.inf).amax(dims, keepdim=True)
    start = torch.where(best, values[CENTRE] - half, math.inf).nan_to_num(nan=math.inf).amin(dims, keepdim=True)
    smallest = values[SIZE].amin(dims, keepdim=True)
    apart = end - start > count * smallest + _EPSILON
    least = torch.where(apart, torch.minimum(least, start + smallest / 2), least)
    most = torch.where(apart, torch.maximum(most, end - smallest / 2), most)
    size = torch.where((end - start).isfinite(), end - start, math.inf)
    return [centre, size, least, most]


def without_dims(field: Field, dims: Sequence[int]) -> Field:
    """`field` without `dims`, of size 1."""
    keep = [d for d in range(len(field.shape)) if d not in dims]
    return mapped(
        field,
        [field.shape[d] for d in keep],
        lambda term: Term(
            term.values.reshape(ROWS, *[term.values.shape[d + 1] for d in keep]),
            tuple(term.steps[d] for d in keep),
            term.stride,
        ),
    )


def mapped(field: Field, shape: Sequence[int], change: Callable[[Term], Term]) -> Field:
    """The field of `shape` whose terms are `change(term)`."""
    y, x = (tuple(change(term) for term in axis) for axis in field.axes)
    return Field(tuple(shape), (y, x))
