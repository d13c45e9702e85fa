"""multi_scale_roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd.

`cells` holds four numbers for each level: scale and shift of the rows, then of the columns, where
cell = coordinate * scale - shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.operators import usable_of_levels
from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import check_grad, size_of
from roialign.ops.registered.derivatives import differentiate, refuse_second_derivative, save_nothing
from roialign.ops.registered.pooling import define, run
from roialign.ops.validate import check_levels, check_maps, check_operator, check_ratio, check_rows, check_scale

_BOXES = "Tensor rois, Tensor levels"
_OPTIONS = "int sampling_ratio, bool widen"
SCHEMAS = {
    "multi_scale_roi_align": (
        f"(Tensor[] inputs, {_BOXES}, float[] cells, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "multi_scale_roi_align_backward": (
        f"(Tensor grad, {_BOXES}, SymInt images, SymInt[] heights, SymInt[] widths, float[] cells, {_OPTIONS})"
        " -> Tensor[]"
    ),
    "multi_scale_roi_align_backward_boxes": (
        f"(Tensor grad, Tensor[] inputs, {_BOXES}, float[] cells, {_OPTIONS}) -> Tensor"
    ),
}


def _forward(
    inputs: list[Tensor], rois: Tensor, levels: Tensor, cells: list[float], ph: int, pw: int, *options: Any
) -> tuple[Tensor, Tensor]:
    _check(inputs, [size_of(one) for one in inputs], rois, levels, (ph, pw), cells, *options)
    output = inputs[0].new_zeros(len(rois), inputs[0].shape[1], ph, pw)
    coverage = rois.new_zeros(len(rois))
    for level, (rows, arguments) in enumerate(_of_levels(rois, levels, cells, (ph, pw), options)):
        output[rows], coverage[rows] = reference.forward(reference.ON_GRID, inputs[level], arguments)
    return output, coverage


def _backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    heights: list[int],
    widths: list[int],
    cells: list[float],
    *options: Any,
) -> list[Tensor]:
    check_grad(grad, rois, ("height", "width"))
    sizes = [(images, height, width) for height, width in zip(heights, widths, strict=True)]
    _check([grad] * len(sizes), sizes, rois, levels, grad.shape[2:], cells, *options)
    return [
        reference.gradient_to_features(reference.ON_GRID, grad[rows], arguments, size)
        for (rows, arguments), size in zip(_of_levels(rois, levels, cells, grad.shape[2:], options), sizes, strict=True)
    ]


def _backward_boxes(
    grad: Tensor, inputs: list[Tensor], rois: Tensor, levels: Tensor, cells: list[float], *options: Any
) -> Tensor:
    check_grad(grad, rois, ("height", "width"))
    _check(inputs, [size_of(one) for one in inputs], rois, levels, grad.shape[2:], cells, *options)
    grad_rois = torch.zeros_like(rois)
    for level, (rows, arguments) in enumerate(_of_levels(rois, levels, cells, grad.shape[2:], options)):
        found = reference.gradient_to_boxes(reference.ON_GRID, grad[rows], inputs[level], arguments)
        grad_rois[rows] = found[0]
    return grad_rois


def _of_levels(
    rois: Tensor, levels: Tensor, cells: Sequence[float], bins: Sequence[int], options: tuple[Any, ...]
) -> Iterator[tuple[Tensor, Arguments]]:
    """The rows of each level's boxes, and how they are pooled."""
    for level in range(len(cells) // 4):
        rows = (levels == level).nonzero().flatten()
        yield rows, Arguments(rois[rows], (), (*bins,), (*cells[4 * level : 4 * level + 4], *options))


def _check(
    maps: list[Tensor],
    sizes: Sequence[Sequence[int]],
    rois: Tensor,
    levels: Tensor,
    bins: Sequence[int],
    cells: Sequence[float],
    sampling_ratio: int,
    widen: bool,
) -> None:
    """Raise unless the operator was given what `roialign.ops.multi_scale_roi_align` makes of its arguments."""
    check_form(maps, sizes, rois, bins, cells, sampling_ratio)
    check_levels(levels, len(maps), rois)
    check_rows(sizes[0][0], rois, usable_of_levels(rois, levels, cells, bins, sampling_ratio, widen))


def check_form(
    maps: Sequence[Tensor],
    sizes: Sequence[Sequence[int]],
    rois: Tensor,
    bins: Sequence[int],
    cells: Sequence[float],
    sampling_ratio: int,
) -> None:
    """The same without the values of levels and boxes, which kernels on a GPU look at."""
    check_maps(maps, cells)
    check_ratio(sampling_ratio)
    for scale in cells[::2]:
        check_scale(scale)
    for map_like, size in zip(maps, sizes, strict=True):
        check_operator(map_like, size, rois, bins)


def _fake_forward(
    inputs: list[Tensor], rois: Tensor, levels: Tensor, cells: Any, ph: int, pw: int, *options: Any
) -> Any:
    return inputs[0].new_empty(rois.shape[0], inputs[0].shape[1], ph, pw), rois.new_empty(rois.shape[0])


def _fake_backward(
    grad: Tensor, rois: Tensor, levels: Tensor, images: int, heights: Any, widths: Any, *options: Any
) -> Any:
    return [grad.new_empty(images, grad.shape[1], height, width) for height, width in zip(heights, widths, strict=True)]


def _fake_backward_boxes(grad: Tensor, inputs: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    maps, rois, levels, cells, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.count, ctx.images = len(maps), maps[0].shape[0]
    ctx.heights, ctx.widths = [one.shape[2] for one in maps], [one.shape[3] for one in maps]
    ctx.options = cells, *options
    ctx.save_for_backward(rois, levels, *(maps if ctx.needed[1] else ()))


def _differentiate_forward(ctx: Any, grad: Tensor, _grad_coverage: None) -> tuple[Any, ...]:
    rois, levels, *maps = ctx.saved_tensors
    grad_inputs: list[Tensor | None] = [None] * ctx.count
    grad_rois = None
    if any(ctx.needed[0]):
        grad_inputs = run(
            "multi_scale_roi_align_backward", grad, rois, levels, ctx.images, ctx.heights, ctx.widths, *ctx.options
        )
    if ctx.needed[1]:
        grad_rois = run("multi_scale_roi_align_backward_boxes", grad, maps, rois, levels, *ctx.options)
    return grad_inputs, grad_rois, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    grad, rois, levels, _, _, _, *options = inputs
    ctx.dtype, ctx.shapes = grad.dtype, [one.shape for one in output]
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(rois, levels, *((grad,) if ctx.needed[1] else ()))


def _differentiate_backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    rois, levels, *grad = ctx.saved_tensors
    cells, *options = ctx.options
    grad_grad_inputs = [
        rois.new_zeros(shape, dtype=ctx.dtype) if one is None else one
        for one, shape in zip(grad_grads, ctx.shapes, strict=True)
    ]
    grad_grad = grad_rois = None
    if ctx.needed[0]:
        grad_grad = run("multi_scale_roi_align", grad_grad_inputs, rois, levels, cells, *ctx.pooled_hw, *options)[0]
    if ctx.needed[1]:
        grad_rois = run("multi_scale_roi_align_backward_boxes", *grad, grad_grad_inputs, rois, levels, cells, *options)
    return grad_grad, grad_rois, None, None, None, None, None, None, None


REFERENCE = dict(zip(SCHEMAS, (_forward, _backward, _backward_boxes), strict=True))
define(SCHEMAS, REFERENCE, dict(zip(SCHEMAS, (_fake_forward, _fake_backward, _fake_backward_boxes), strict=True)))
differentiate("multi_scale_roi_align", _save_forward, _differentiate_forward, linear_in=(0,))
differentiate("multi_scale_roi_align_backward", _save_backward, _differentiate_backward, linear_in=(0,))
differentiate("multi_scale_roi_align_backward_boxes", save_nothing, refuse_second_derivative, linear_in=(0, 1))
