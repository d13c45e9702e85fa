"""The registered operators on a GPU: arguments are checked as everywhere, values of boxes by the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from roialign.ops.operators import ROI_ALIGN
from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import check_form, check_grad, check_grad_of, size_of
from roialign.ops.registered.multi_scale_roi_align import check_form as check_form_of_levels
from roialign.ops.triton import functions, pooling
from roialign.ops.triton.maps import Rule, rule_of_scale
from roialign.ops.validate import check_levels

_MOST_REMEMBERED = 4096
_checked: set[tuple[Any, ...]] = set()
"""Forms of the forward's arguments that were found right: for small calls looking at them again takes long."""


def roi_align(
    input: Tensor, rois: Tensor, ph: int, pw: int, scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    form = (input.shape, input.dtype, input.get_device(), rois.shape[1:], rois.dtype, rois.get_device(), ph, pw, scale)
    if (*form, ratio) not in _checked:
        check_form(ROI_ALIGN, input, size_of(input), Arguments(rois, (), (ph, pw), (scale, ratio, aligned)))
        _remember((*form, ratio))
    return functions.pool([input], rois, rule_of_scale(scale, ratio, aligned), (ph, pw))


def roi_align_backward(
    grad: Tensor, rois: Tensor, images: int, height: int, width: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    arguments = _of_gradient(grad, rois, scale, ratio, aligned)
    check_form(ROI_ALIGN, grad, (images, height, width), arguments)
    return functions.scatter(grad, rois, rule_of_scale(scale, ratio, aligned), images, [height], [width])[0]


def roi_align_backward_boxes(
    grad: Tensor, input: Tensor, rois: Tensor, scale: float, ratio: int, aligned: bool
) -> Tensor:
    check_form(ROI_ALIGN, input, size_of(input), _of_gradient(grad, rois, scale, ratio, aligned))
    check_grad_of(grad, input)
    return functions.correlate(grad, [input], rois, rule_of_scale(scale, ratio, aligned))


def multi_scale_roi_align(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    ph: int,
    pw: int,
    ratio: int,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    _check(inputs, [size_of(one) for one in inputs], rois, levels, (ph, pw), cells, ratio)
    return functions.pool(inputs, rois, Rule(levels.contiguous(), tuple(cells), ratio, widen), (ph, pw))


def multi_scale_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    levels: Tensor,
    images: int,
    heights: Sequence[int],
    widths: Sequence[int],
    cells: Sequence[float],
    ratio: int,
    widen: bool,
) -> list[Tensor]:
    check_grad(grad, rois, ROI_ALIGN.bins)
    sizes_nhw = [(images, height, width) for height, width in zip(heights, widths, strict=True)]
    _check([grad] * len(sizes_nhw), sizes_nhw, rois, levels, grad.shape[2:], cells, ratio)
    rule = Rule(levels.contiguous(), tuple(cells), ratio, widen)
    return functions.scatter(grad, rois, rule, images, heights, widths)


def multi_scale_roi_align_backward_boxes(
    grad: Tensor,
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    cells: Sequence[float],
    ratio: int,
    widen: bool,
) -> Tensor:
    check_grad(grad, rois, ROI_ALIGN.bins)
    _check(inputs, [size_of(one) for one in inputs], rois, levels, grad.shape[2:], cells, ratio)
    check_grad_of(grad, inputs[0])
    return functions.correlate(grad, inputs, rois, Rule(levels.contiguous(), tuple(cells), ratio, widen))


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "roi_align": roi_align,
    "roi_align_backward": roi_align_backward,
    "roi_align_backward_boxes": roi_align_backward_boxes,
    "multi_scale_roi_align": multi_scale_roi_align,
    "multi_scale_roi_align_backward": multi_scale_roi_align_backward,
    "multi_scale_roi_align_backward_boxes": multi_scale_roi_align_backward_boxes,
    **pooling.IMPLEMENTATIONS,
}
"""By the names of the operators and their gradients."""


def _of_gradient(grad: Tensor, rois: Tensor, *options: Any) -> Arguments:
    check_grad(grad, rois, ROI_ALIGN.bins)
    return Arguments(rois, (), tuple(grad.shape[2:]), options)


def _remember(form: tuple[Any, ...]) -> None:
    if len(_checked) >= _MOST_REMEMBERED:
        _checked.clear()
    _checked.add(form)


def _check(
    maps: Sequence[Tensor],
    sizes_nhw: Sequence[Sequence[int]],
    rois: Tensor,
    levels: Tensor,
    pooled_hw: Any,
    cells: Sequence[float],
    ratio: int,
) -> None:
    """Raise unless types and shapes are right. What the levels are is looked at by the kernels."""
    check_form_of_levels(maps, sizes_nhw, rois, pooled_hw, cells, ratio)
    if levels.shape != rois.shape[:1]:
        check_levels(levels, len(maps), rois)
