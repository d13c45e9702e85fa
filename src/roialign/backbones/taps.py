"""Windows that slide over one dimension: each result reads a few taps, some of them in the padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roialign.backbones.fields import (
    CENTRE,
    CENTRE_MAX,
    CENTRE_MIN,
    FIRST,
    HIGH,
    LAST,
    LOW,
    ROWS,
    SIZE,
    Field,
    Term,
    mapped,
    shifted,
)


@dataclass(frozen=True)
class Taps:
    """What each of the results along a dimension reads.

    index: [results, taps], integers; those below 0 or beyond the end lie in padding.
    weights: [results, taps], adding up to 1 in each row; 0 reads nothing.
    factor: the nominal distance between results, in cells.
    """

    index: Tensor
    weights: Tensor
    factor: float


def uniform(index: Tensor, factor: float, used: Tensor | None = None) -> Taps:
    """Taps of equal weight; those that are not `used` count for nothing."""
    mask = torch.ones(index.shape, dtype=torch.float64) if used is None else used.double()
    return Taps(index, mask / mask.sum(-1, keepdim=True).clamp(min=1), factor)


def window(results: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """The taps of a convolution or pooling."""
    start = torch.arange(results)[:, None] * stride - padding
    return uniform(start + torch.arange(kernel) * dilation, float(stride))


def slid(field: Field, dim: int, taps: Taps) -> Field:
    """The field after `taps` slid along `dim`."""
    shape = list(field.shape)
    size, shape[dim] = shape[dim], taps.index.shape[0]
    return mapped(field, shape, lambda term: _slid_term(term, dim, size, taps))


def _slid_term(term: Term, dim: int, size: int, taps: Taps) -> Term:
    step = term.steps[dim]
    if step == 0 and term.values.shape[dim + 1] == 1:
        return term
    index = taps.index
    left, right = max(0, -int(index.min())), max(0, int(index.max()) - size + 1)
    values = extended(term.values, dim, step, left, right)
    gathered = values.index_select(dim + 1, (index + left).flatten()).unflatten(dim + 1, tuple(index.shape))
    gathered = gathered.movedim(dim + 2, -1)
    lead = [1] * dim + [index.shape[0]] + [1] * (term.values.ndim - 2 - dim)
    weights = taps.weights.view(*lead, index.shape[1])
    steps = tuple(s * taps.factor if d == dim else s for d, s in enumerate(term.steps))
    return Term(_over_taps(gathered, weights), steps, term.stride * taps.factor if step else term.stride)


def extended(values: Tensor, dim: int, step: float, left: int, right: int) -> Tensor:
    """`values` with virtual positions before and after it along `dim`, `step` pixels apart."""
    if not left and not right:
        return values
    size = values.shape[dim + 1]
    if math.isnan(step):
        ends = values[CENTRE].select(dim, size - 1) - values[CENTRE].select(dim, 0)
        step = float(ends.nanmean()) / max(1, size - 1)
    lead = [-1] + [1] * (values.ndim - 2 - dim)
    before = torch.arange(-left, 0, dtype=torch.float64).view(lead) * step
    after = torch.arange(1, right + 1, dtype=torch.float64).view(lead) * step
    first, last = values.narrow(dim + 1, 0, 1), values.narrow(dim + 1, size - 1, 1)
    return torch.cat([shifted(first, before), values, shifted(last, after)], dim + 1)


def _over_taps(values: Tensor, weights: Tensor) -> Tensor:
    """Reduce the last dimension of [ROWS, ..., results, ..., taps]."""
    used = weights != 0
    rows = [torch.empty(0)] * ROWS
    for row in (CENTRE, CENTRE_MIN, CENTRE_MAX):
        rows[row] = torch.where(used, values[row] * weights, 0.0).sum(-1)
    rows[CENTRE] = torch.where(used.any(-1), rows[CENTRE], math.nan)
    rows[CENTRE_MIN] = torch.where(used.any(-1), rows[CENTRE_MIN], math.inf)
    rows[CENTRE_MAX] = torch.where(used.any(-1), rows[CENTRE_MAX], -math.inf)
    half = values[SIZE] / 2
    end = torch.where(used, values[CENTRE] + half, -math.inf).nan_to_num(nan=math.inf).amax(-1)
    start = torch.where(used, values[CENTRE] - half, math.inf).nan_to_num(nan=-math.inf).amin(-1)
    rows[SIZE] = torch.where((end - start).isfinite(), end - start, math.inf)
    for row in (LOW, FIRST):
        rows[row] = torch.where(used, values[row], math.inf).amin(-1)
    for row in (HIGH, LAST):
        rows[row] = torch.where(used, values[row], -math.inf).amax(-1)
    return torch.stack(torch.broadcast_tensors(*rows))
