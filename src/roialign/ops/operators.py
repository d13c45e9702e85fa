"""The table of operators: what one of them is, and what differs from one to the next.

Registration, checks, the reference's gradients, `roialign env` and tests read it. How calls of the public functions,
which are a few more, are looked at stands in `roialign.ops.functions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from roialign.ops import reference
from roialign.ops.reference import Definition
from roialign.ops.validate import (
    BOXES,
    BOXES_3D,
    MAX_MASKED_GRID,
    MAX_ROUNDED_CELL,
    ROTATED,
    SEGMENTS,
    BoxForm,
    can_be_sampled,
)

Options = tuple[Any, ...]


def _same(*options: Any) -> Options:
    return options


@dataclass(frozen=True)
class Operator:
    """One registered operator, which pools features under boxes."""

    name: str
    options: str
    """What follows the numbers of bins, as in the schema."""
    definition: Definition
    usable: Callable[..., Tensor]
    """From rois, bins and options: the rows [K] whose numbers are finite and can be counted."""
    form: BoxForm = BOXES
    as_given: Callable[[Tensor], Tensor] = lambda rois: rois
    """From the rois that are pooled to those in the form of the caller's boxes."""
    bins: tuple[str, ...] = ("height", "width")
    beside: str = ""
    """What there is one of for each box, as in the schema."""
    is_linear: bool = True
    """Whether the output is linear in the features, so that its gradient does not depend on them."""
    moves_boxes: bool = True
    """Whether there is a gradient to the boxes."""
    options_of_gradient: str | None = None
    """Where the gradients take others."""
    to_gradient: Callable[..., Options] = _same
    """From the operator's options to its gradients'."""
    from_gradient: Callable[..., Options] = _same
    op: Any = field(init=False, repr=False, compare=False)
    """What torch.library made of it."""

    def bind(self) -> None:
        """Look up `op`, once it is registered: before any call, for compilers look at values and not for them."""
        object.__setattr__(self, "op", getattr(torch.ops.roialign, self.name).default)

    @property
    def gradient(self) -> str:
        """The name of the gradient to the features."""
        return f"{self.name}_backward"

    @property
    def gradient_to_boxes(self) -> str:
        return f"{self.name}_backward_boxes"

    @property
    def schemas(self) -> dict[str, str]:
        """Of the operator and of its gradients, by name."""
        rois = f"Tensor rois{self.beside and f', Tensor {self.beside}'}"
        of_gradient = self.options if self.options_of_gradient is None else self.options_of_gradient
        pooled, cells = (", ".join(f"SymInt {prefix}{axis}" for axis in self.bins) for prefix in ("pooled_", ""))
        told = f"SymInt images, {cells}" if self.is_linear else ""
        features = "" if self.is_linear else "Tensor input, "
        schemas = {
            self.name: f"(Tensor input, {rois}, {pooled}, {self.options}) -> (Tensor output, Tensor coverage)",
            self.gradient: f"(Tensor grad, {features}{rois}, {told and told + ', '}{of_gradient}) -> Tensor",
        }
        if self.moves_boxes:
            result = f"(Tensor grad_rois, Tensor grad_{self.beside})" if self.beside else "Tensor"
            schemas[self.gradient_to_boxes] = f"(Tensor grad, Tensor input, {rois}, {of_gradient}) -> {result}"
        return schemas


def _of_scales(
    rois: Tensor, bins: Sequence[int], scales_xy: Sequence[float], ratio: int, aligned: bool, **most: int
) -> Tensor:
    cells = rois[:, 1:].detach() * rois.new_tensor([*scales_xy] * 2) - (0.5 if aligned else 0.0)
    return can_be_sampled(rois, cells, bins, ratio, not aligned, **most)


def _of_boxes(rois: Tensor, bins: Sequence[int], scale: float, ratio: int, aligned: bool, *_: Any) -> Tensor:
    return _of_scales(rois, bins, (scale, scale), ratio, aligned)


def _under_masks(rois: Tensor, bins: Sequence[int], scale: float, ratio: int, aligned: bool, *_: Any) -> Tensor:
    return _of_scales(rois, bins, (scale, scale), ratio, aligned, most=MAX_MASKED_GRID)


def _of_volumes(rois: Tensor, bins: Sequence[int], z: float, y: float, x: float, ratio: int, aligned: bool) -> Tensor:
    return _of_scales(rois, bins, (x, y, z), ratio, aligned)


def _of_rotated(rois: Tensor, bins: Sequence[int], scale: float, ratio: int, aligned: bool, *_: Any) -> Tensor:
    centres = rois[:, 1:3].detach() * scale - (0.5 if aligned else 0.0)
    sides = (rois[:, 3:5].detach() * scale).clamp(min=-math.inf if aligned else 1.0)
    cells = torch.cat([torch.zeros_like(sides), sides], 1)
    return can_be_sampled(rois, cells, bins, ratio, widen=False) & centres.isfinite().all(1)


def usable_when_rounded(rois: Tensor, bins: Sequence[int], scale: float, *_: Any) -> Tensor:
    """As `Operator.usable`, of boxes that are rounded to whole cells."""
    return ((rois[:, 1:].detach() * scale).double().abs() < MAX_ROUNDED_CELL + 0.5).all(1)


def usable_of_levels(
    rois: Tensor, levels: Tensor, cells: Sequence[float], bins: Sequence[int], ratio: int, widen: bool
) -> Tensor:
    """As `Operator.usable`, of boxes of several maps; `cells` as `ops.multi_scale_roi_align` takes them."""
    scale_y, shift_y, scale_x, shift_x = rois.new_tensor(cells).view(-1, 4)[levels].unbind(1)
    scales, shifts = (torch.stack([x, y, x, y], 1) for x, y in ((scale_x, scale_y), (shift_x, shift_y)))
    return can_be_sampled(rois, rois[:, 1:].detach() * scales - shifts, bins, ratio, widen)


_SAMPLED = "float spatial_scale, int sampling_ratio, bool aligned"

ROI_ALIGN = Operator("roi_align", _SAMPLED, reference.ROI_ALIGN, _of_boxes)
ROI_POOL = Operator(
    "roi_pool",
    "float spatial_scale, bool legacy, bool with_maxima",
    reference.ROI_POOL,
    usable_when_rounded,
    moves_boxes=False,
)
OF_SEGMENTS = replace(ROI_ALIGN, form=SEGMENTS, as_given=lambda rois: rois[:, [0, 1, 3]])
"""`roi_align` of segments, which are the columns of boxes on maps of one row."""
OPERATORS = {
    one.name: one
    for one in (
        ROI_ALIGN,
        Operator(
            "ps_roi_align",
            "float spatial_scale, int sampling_ratio, bool nan_if_empty",
            reference.PS_ROI_ALIGN,
            lambda rois, bins, scale, ratio, *_: _of_boxes(rois, bins, scale, ratio, True),
            options_of_gradient="float spatial_scale, int sampling_ratio",
            to_gradient=lambda scale, ratio, nan_if_empty: (scale, ratio),
            from_gradient=lambda scale, ratio: (scale, ratio, False),
        ),
        Operator(  # torchvision's gradient is not of the bins that it pools
            "ps_roi_pool",
            "float spatial_scale, bool with_last, bool with_last_in_gradient",
            reference.PS_ROI_POOL,
            usable_when_rounded,
            moves_boxes=False,
            options_of_gradient="float spatial_scale, bool with_last",
            to_gradient=lambda scale, with_last, in_gradient: (scale, in_gradient),
            from_gradient=lambda scale, with_last: (scale, with_last, with_last),
        ),
        Operator(
            "prroi_pool",
            "float spatial_scale",
            reference.PRROI_POOL,
            lambda rois, bins, scale: _of_boxes(rois, bins, scale, 1, False),
        ),
        Operator(
            "roi_align_3d",
            "float scale_z, float scale_y, float scale_x, int sampling_ratio, bool aligned",
            reference.ROI_ALIGN_3D,
            _of_volumes,
            BOXES_3D,
            bins=("depth", "height", "width"),
        ),
        Operator("roi_align_max", f"{_SAMPLED}, bool corners", reference.ROI_ALIGN_MAX, _of_boxes, is_linear=False),
        Operator(
            "roi_align_rotated",
            f"{_SAMPLED}, bool clockwise, bool radians",
            reference.ROI_ALIGN_ROTATED,
            _of_rotated,
            ROTATED,
        ),
        Operator(
            "masked_roi_align",
            f"{_SAMPLED}, bool masks_in_image",
            reference.MASKED_ROI_ALIGN,
            _under_masks,
            beside="masks",
        ),
    )
}
"""By name. Those that have a form of their own, `multi_scale_roi_align`, `roi_pool` and `paste_masks`, stand in
`roialign.ops.registered`."""
