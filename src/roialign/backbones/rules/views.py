"""Operators that select, rearrange or repeat elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from roialign.backbones.fields import (
    LARGE,
    ROWS,
    Field,
    Term,
    UnsupportedError,
    join_terms,
    lifted,
    mapped,
    neutral,
    without_dims,
)
from roialign.backbones.reshape import reshaped
from roialign.backbones.rules.call import Call, Operand, Rule
from roialign.backbones.taps import slid, uniform, window


def permuted(field: Field, order: Sequence[int]) -> Field:
    order = [d % len(field.shape) for d in order]

    def change(term: Term) -> Term:
        return replace(
            term, values=term.values.permute(0, *[d + 1 for d in order]), steps=tuple(term.steps[d] for d in order)
        )

    return mapped(field, [field.shape[d] for d in order], change)


def taken(field: Field, dim: int, index: Tensor, step: float = math.nan) -> Field:
    """The cells `index` along `dim`, which are `step` cells apart, NaN if there is no single distance."""
    dim %= len(field.shape)
    shape = list(field.shape)
    shape[dim] = len(index)

    def change(term: Term) -> Term:
        values = term.values
        steps = tuple(s * step if d == dim and s else s for d, s in enumerate(term.steps))
        stride = term.stride * abs(step) if term.steps[dim] and not math.isnan(step) else term.stride
        if values.shape[dim + 1] > 1:
            values = values.index_select(dim + 1, index)
        return Term(values, steps, stride)

    return mapped(field, shape, change)


def sliced(field: Field, dim: int, start: int, length: int, step: int = 1) -> Field:
    if length == field.shape[dim]:
        return field
    return taken(field, dim, start + torch.arange(length) * step, float(step))


def selected(field: Field, dim: int, index: int) -> Field:
    dim %= len(field.shape)
    return without_dims(sliced(field, dim, index % field.shape[dim], 1), [dim])


def permute(call: Call) -> Field:
    return permuted(call.field("self"), call["dims"])


def transpose(call: Call) -> Field:
    field = call.field("self")
    order = list(range(len(field.shape)))
    if len(order) > 1:
        first, second = (call["dim0"], call["dim1"]) if "dim0" in call.arguments else (0, 1)
        order[first], order[second] = order[second], order[first]
    return permuted(field, order)


def slice_(call: Call) -> Field:
    field, dim, start, step = slice_of(call)
    return sliced(field, dim, start, call.shape[dim], step)


def slice_of(call: Call) -> tuple[Field, int, int, int]:
    """The field that is sliced, the dimension, its first cell and the step."""
    operand = call["self"]
    dim = call["dim"] % len(operand.shape)
    start = call.get("start", 0)
    size = operand.shape[dim]
    return operand.field, dim, min(max(start + size if start < 0 else start, 0), size), call.get("step", 1)


def select(call: Call) -> Field:
    return selected(call.field("self"), call["dim"], call["index"])


def split(call: Call) -> list[Field]:
    field, dim = call.field("self"), call["dim"] % len(call["self"].shape)
    starts = split_starts(call.shapes, dim)
    return [sliced(field, dim, start, shape[dim]) for start, shape in zip(starts, call.shapes, strict=True)]


def split_starts(shapes: Sequence[Sequence[int]], dim: int) -> list[int]:
    """The first cell of each part."""
    sizes = [shape[dim] for shape in shapes]
    return [sum(sizes[:n]) for n in range(len(sizes))]


def unbind(call: Call) -> list[Field]:
    return [selected(call.field("self"), call["dim"], n) for n in range(len(call.shapes))]


def expand(call: Call) -> Field:
    field, shape = call.field("self"), call.shape
    return mapped(field, shape, lambda term: lifted(term, field.shape, shape))


def repeat(call: Call) -> Field:
    """Copies one after another along dimensions."""
    field, shape = call.field("self"), call.shape
    field = mapped(
        field, [1] * (len(shape) - len(field.shape)) + list(field.shape), lambda t: lifted(t, field.shape, shape)
    )
    for dim, (size, full) in enumerate(zip(field.shape, shape, strict=True)):
        if full != size:
            field = taken(field, dim, torch.arange(full) % size)
    return field


def repeat_interleave(call: Call) -> Field:
    field, dim = call.field("self"), call["dim"]
    if dim is None or not isinstance(call.get("repeats"), int):
        raise UnsupportedError("it repeats elements a different number of times")
    return taken(field, dim, torch.arange(call.shape[dim]) // call["repeats"], 1 / call["repeats"])


def flip(call: Call) -> Field:
    field = call.field("self")
    for dim in call["dims"]:
        field = taken(field, dim, torch.arange(field.shape[dim]).flip(0), -1.0)
    return field


def roll(call: Call) -> Field:
    """Positions after the seam are those of the other end; the step stays."""
    field = call.field("self")
    if not call["dims"]:
        raise UnsupportedError("it rolls over all dimensions at once")
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        field = taken(field, dim, (torch.arange(field.shape[dim]) - shift) % field.shape[dim], 1.0)
    return field


def cat(call: Call) -> Field:
    tensors: list[Operand] = [t for t in call["tensors"] if t.shape != (0,)]
    return concatenated(tensors, call["dim"] % len(call.shape), call.shape)


def stack(call: Call) -> Field:
    dim = call["dim"] % len(call.shape)
    parts = []
    for operand in call["tensors"]:
        shape = (*operand.shape[:dim], 1, *operand.shape[dim:])
        field = operand.field
        parts.append(Operand(operand.ref, shape, None if field is None else inserted(field, dim)))
    return concatenated(parts, dim, call.shape)


def concatenated(parts: Sequence[Operand], dim: int, shape: tuple[int, ...]) -> Field:
    y, x = (_concatenated_axis(parts, axis, dim, shape) for axis in (0, 1))
    return Field(shape, ((y,), (x,)))


def _concatenated_axis(parts: Sequence[Operand], axis: int, dim: int, shape: tuple[int, ...]) -> Term:
    terms = [one_term(part.field, axis) if part.field is not None else neutral(len(shape)) for part in parts]
    real = [term for term in terms if term.values[0].isfinite().any()] or terms
    steps = [next((s for t in real if (s := t.steps[d])), 0.0) for d in range(len(shape))]
    stride = next((t.stride for t in real if not math.isnan(t.stride)), math.nan)
    first = terms[0].values
    if all(term.values is first or torch.equal(term.values, first) for term in terms[1:]) and first.shape[dim + 1] == 1:
        return Term(first, tuple(steps), stride)
    widths = [max(term.values.shape[d + 1] for term in terms) if d != dim else 1 for d in range(len(shape))]
    blocks = []
    for part, term in zip(parts, terms, strict=True):
        sizes = list(widths)
        sizes[dim] = part.shape[dim]
        blocks.append(term.values.expand(ROWS, *sizes))
    return Term(torch.cat(blocks, dim + 1), tuple(steps), stride)


def one_term(field: Field, axis: int) -> Term:
    """The join of all terms of an axis, for rules that need one array."""
    terms = field.axes[axis]
    result = terms[0]
    for term in terms[1:]:
        if math.prod(torch.broadcast_shapes(result.values.shape, term.values.shape)) > LARGE:
            raise UnsupportedError("its positions do not fit into memory")
        result = join_terms(result, term)
    return result


def index(call: Call) -> Field:
    """Elements by one tensor of indices along one dimension."""
    chosen = [(dim, index) for dim, index in enumerate(call["indices"]) if index is not None]
    if len(chosen) != 1 or len(chosen[0][1].shape) != 1 or chosen[0][1].field is not None:
        raise UnsupportedError(
            "it takes elements by several tensors of indices, or by indices that depend on the image"
        )
    dim, operand = chosen[0]
    positions = call.constant(operand)
    if positions.dtype == torch.bool:
        positions = positions.nonzero().flatten()
    return taken(call.field("self"), dim, positions.long().cpu() % call["self"].shape[dim])


def index_select(call: Call) -> Field:
    return taken(call.field("self"), call["dim"], call.constant(call["index"]).long().cpu())


def view(call: Call) -> Field:
    return reshaped(call.field("self"), call.shape)


def inserted(field: Field, dim: int) -> Field:
    """With a new dimension of size 1."""
    shape = (*field.shape[:dim], 1, *field.shape[dim:])

    def change(term: Term) -> Term:
        return replace(term, values=term.values.unsqueeze(dim + 1), steps=(*term.steps[:dim], 0.0, *term.steps[dim:]))

    return mapped(field, shape, change)


def unsqueeze(call: Call) -> Field:
    return inserted(call.field("self"), call["dim"] % len(call.shape))


def squeeze(call: Call) -> Field:
    field = call.field("self")
    dims = call.arguments.get("dim", range(len(field.shape)))
    chosen = {d % len(field.shape) for d in ([dims] if isinstance(dims, int) else dims)}
    return without_dims(field, [d for d in chosen if field.shape[d] == 1])


def pixel_shuffle(call: Call) -> Field:
    field, factor = call.field("self"), call["upscale_factor"]
    *lead, channels, height, width = field.shape
    split = reshaped(field, (*lead, channels // factor**2, factor, factor, height, width))
    n = len(lead)
    return reshaped(permuted(split, [*range(n + 1), n + 3, n + 1, n + 4, n + 2]), call.shape)


def pixel_unshuffle(call: Call) -> Field:
    field, factor = call.field("self"), call["downscale_factor"]
    *lead, channels, height, width = field.shape
    split = reshaped(field, (*lead, channels, height // factor, factor, width // factor, factor))
    n = len(lead)
    return reshaped(permuted(split, [*range(n + 1), n + 2, n + 4, n + 1, n + 3]), call.shape)


def im2col(call: Call) -> Field:
    """[N, C, H, W] to [N, C * kernel, cells]."""
    field = call.field("self")
    batch, channels, *_ = field.shape
    cells = []
    for axis in (0, 1):
        options = [call[name][axis] for name in ("kernel_size", "stride", "padding", "dilation")]
        kernel, stride, padding, dilation = options
        dim = 2 + 2 * axis
        results = (field.shape[dim] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        taps = window(results, kernel, stride, padding, dilation)
        field = _unfolded(field, dim, results, kernel, taps.index, float(stride))
        cells.append(results)
    rows, columns = cells
    kernels = (field.shape[3], field.shape[5])
    ordered = permuted(field, [0, 1, 3, 5, 2, 4])
    return reshaped(ordered, (batch, channels * math.prod(kernels), rows * columns))


def col2im(call: Call) -> Field:
    """[N, channels * kernel, cells] to [N, channels, H, W]: a result reads its place in each window that covers it."""
    field = call.field("self")
    options = [[call[name][axis] for name in ("kernel_size", "stride", "padding", "dilation")] for axis in (0, 1)]
    counts = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, (kernel, stride, padding, dilation) in zip(call["output_size"], options, strict=True)
    ]
    kernels = [kernel for kernel, *_ in options]
    batch, channels = call.shape[:2]
    field = reshaped(field, (batch, channels, *kernels, *counts))
    field = permuted(field, [0, 1, 4, 2, 5, 3])
    for axis, count in enumerate(counts):
        field = _folded(field, 2 + axis, call["output_size"][axis], count, *options[axis])
    return field


def _folded(
    field: Field, dim: int, results: int, windows: int, kernel: int, stride: int, padding: int, dilation: int
) -> Field:
    """Windows (`dim`) and their cells (the next dimension) in one, the results."""
    reach = torch.arange(results)[:, None] + padding - torch.arange(kernel) * dilation
    window = reach.div(stride, rounding_mode="floor")
    used = (reach % stride == 0) & (window >= 0) & (window < windows)
    index = torch.where(used, window * kernel + torch.arange(kernel), 0)
    shape = [*field.shape[:dim], windows * kernel, *field.shape[dim + 2 :]]

    def merge(term: Term) -> Term:
        varies = max(term.values.shape[dim + 1 : dim + 3]) > 1
        sizes = list(term.values.shape)
        sizes[dim + 1 : dim + 3] = (windows, kernel) if varies else (1, 1)
        values = term.values.expand(sizes).flatten(dim + 1, dim + 2)
        return replace(term, values=values, steps=(*term.steps[: dim + 1], *term.steps[dim + 2 :]))

    return slid(mapped(field, shape, merge), dim, uniform(index, 1 / stride, used))


def unfold(call: Call) -> Field:
    """Tensor.unfold: windows along a dimension, their cells in a last one."""
    field, dim = call.field("self"), call["dimension"] % len(call["self"].shape)
    results, kernel = call.shape[dim], call["size"]
    taps = window(results, kernel, call["step"], 0, 1)
    wide = _unfolded(field, dim, results, kernel, taps.index, float(call["step"]))
    order = [d for d in range(len(wide.shape)) if d != dim + 1]
    return permuted(wide, [*order, dim + 1])


def _unfolded(field: Field, dim: int, results: int, kernel: int, taps: Tensor, stride: float) -> Field:
    """`dim` in two, windows and cells of a window."""
    flat = slid(field, dim, uniform(taps.reshape(-1, 1), 1.0))
    shape = [*field.shape[:dim], results, kernel, *field.shape[dim + 1 :]]

    def change(term: Term) -> Term:
        varies = term.values.shape[dim + 1] > 1
        step = term.steps[dim]
        values = term.values.unflatten(dim + 1, (results, kernel) if varies else (1, 1))
        return replace(term, values=values, steps=(*term.steps[:dim], step * stride, step, *term.steps[dim + 1 :]))

    return mapped(flat, shape, change)


RULES: dict[str, Rule] = {
    "aten::permute": permute,
    "aten::transpose": transpose,
    "aten::t": transpose,
    "aten::slice": slice_,
    "aten::select": select,
    "aten::split": split,
    "aten::split_with_sizes": split,
    "aten::unbind": unbind,
    "aten::expand": expand,
    "aten::repeat": repeat,
    "aten::repeat_interleave": repeat_interleave,
    "aten::flip": flip,
    "aten::roll": roll,
    "aten::cat": cat,
    "aten::stack": stack,
    "aten::index": index,
    "aten::index_select": index_select,
    "aten::pixel_shuffle": pixel_shuffle,
    "aten::pixel_unshuffle": pixel_unshuffle,
    "aten::im2col": im2col,
    "aten::col2im": col2im,
    "aten::unfold": unfold,
    "aten::unsqueeze": unsqueeze,
    "aten::squeeze": squeeze,
    **{
        f"aten::{name}": view
        for name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "detach", "alias", "lift_fresh")
    },
}
