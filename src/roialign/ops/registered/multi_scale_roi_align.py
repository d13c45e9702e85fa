"""multi_scale_roi_align and its gradients as torch.library knows them: schema, reference, fake, autograd.

`cells` holds four numbers for each level: scale and shift of the rows, then of the columns, where
cell = coordinate * scale - shift.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.native import define
from roialign.ops.registered.linear import refuse_second_derivative
from roialign.ops.registered.roi_align import check_grad, size_nhw
from roialign.ops.validate import check_levels, check_maps, check_operator, check_values_of_levels

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

define(SCHEMAS)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::multi_scale_roi_align", "CompositeExplicitAutograd")
def _multi_scale_roi_align(
    inputs: list[Tensor], rois: Tensor, levels: Tensor, cells: list[float], ph: int, pw: int, *options: Any
) -> tuple[Tensor, Tensor]:
    _check(inputs, _sizes_nhw(inputs), rois, levels, (ph, pw), cells, *options)
    return reference.multi_scale_roi_align(inputs, rois, levels, cells, ph, pw, *options)


@torch.library.impl("roialign::multi_scale_roi_align_backward", "CompositeExplicitAutograd")
def _multi_scale_roi_align_backward(
    grad: Tensor, rois: Tensor, levels: Tensor, images: int, heights: list[int], widths: list[int], *options: Any
) -> list[Tensor]:
    check_grad(grad, rois)
    sizes_nhw = [(images, height, width) for height, width in zip(heights, widths, strict=True)]
    _check([grad] * len(sizes_nhw), sizes_nhw, rois, levels, grad.shape[2:], *options)
    return reference.multi_scale_roi_align_backward(grad, rois, levels, images, heights, widths, *options)


@torch.library.impl("roialign::multi_scale_roi_align_backward_boxes", "CompositeExplicitAutograd")
def _multi_scale_roi_align_backward_boxes(
    grad: Tensor, inputs: list[Tensor], rois: Tensor, levels: Tensor, *options: Any
) -> Tensor:
    check_grad(grad, rois)
    _check(inputs, _sizes_nhw(inputs), rois, levels, grad.shape[2:], *options)
    return reference.multi_scale_roi_align_backward_boxes(grad, inputs, rois, levels, *options)


def _sizes_nhw(inputs: list[Tensor]) -> list[tuple[int, int, int]]:
    return [size_nhw(one) for one in inputs]


def _check(
    maps: list[Tensor],
    sizes_nhw: list[tuple[int, int, int]],
    rois: Tensor,
    levels: Tensor,
    size_hw: Any,
    cells: list[float],
    sampling_ratio: int,
    widen: bool,
) -> None:
    """Raise unless the operator was given what `roialign.ops.multi_scale_roi_align` makes of its arguments."""
    check_maps(maps, cells)
    for level, (map_like, size) in enumerate(zip(maps, sizes_nhw, strict=True)):
        for scale in cells[4 * level : 4 * level + 4 : 2]:
            check_operator(map_like, size, rois, size_hw, scale, sampling_ratio)
    check_levels(levels, len(maps), rois)
    check_values_of_levels(sizes_nhw[0][0], rois, levels, cells, size_hw, sampling_ratio, widen)


@torch.library.register_fake("roialign::multi_scale_roi_align")
def _(inputs: list[Tensor], rois: Tensor, levels: Tensor, cells: Any, ph: int, pw: int, *options: Any) -> Any:
    return inputs[0].new_empty(rois.shape[0], inputs[0].shape[1], ph, pw), rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::multi_scale_roi_align_backward")
def _(grad: Tensor, rois: Tensor, levels: Tensor, images: int, heights: Any, widths: Any, *options: Any) -> Any:
    return [grad.new_empty(images, grad.shape[1], height, width) for height, width in zip(heights, widths, strict=True)]


@torch.library.register_fake("roialign::multi_scale_roi_align_backward_boxes")
def _(grad: Tensor, inputs: list[Tensor], rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    maps, rois, levels, cells, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.count, ctx.images = len(maps), maps[0].shape[0]
    ctx.heights, ctx.widths = [one.shape[2] for one in maps], [one.shape[3] for one in maps]
    ctx.options = cells, *options
    # needs_input_grad counts the maps one by one here
    ctx.save_for_backward(rois, levels, *(maps if rois.requires_grad else ()))


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    rois, levels, *maps = ctx.saved_tensors
    grad_inputs: list[Tensor | None] = [None] * ctx.count
    grad_rois = None
    if grad is not None and any(ctx.needs_input_grad[0]):
        grad_inputs = _op.multi_scale_roi_align_backward(
            grad, rois, levels, ctx.images, ctx.heights, ctx.widths, *ctx.options
        )
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.multi_scale_roi_align_backward_boxes(grad, maps, rois, levels, *ctx.options)
    return grad_inputs, grad_rois, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, rois, levels, _, _, _, *options = inputs
    ctx.set_materialize_grads(True)
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(rois, levels, *((grad,) if ctx.needs_input_grad[1] else ()))


def _differentiate_backward(ctx: Any, grad_grad_inputs: list[Tensor]) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    rois, levels, *grad = ctx.saved_tensors
    cells, *options = ctx.options
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.multi_scale_roi_align(grad_grad_inputs, rois, levels, cells, *ctx.pooled_hw, *options)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.multi_scale_roi_align_backward_boxes(*grad, grad_grad_inputs, rois, levels, cells, *options)
    return grad_grad, grad_rois, None, None, None, None, None, None, None


_name = "roialign::multi_scale_roi_align"
torch.library.register_autograd(_name, _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd(f"{_name}_backward", _differentiate_backward, setup_context=_save_backward)
torch.library.register_autograd(f"{_name}_backward_boxes", refuse_second_derivative)
