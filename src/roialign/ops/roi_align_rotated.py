"""RoIAlign of rotated boxes: detectron2's convention, or mmcv's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.fx
from torch import Tensor

from roialign.errors import OptionError
from roialign.ops import calls, validate
from roialign.ops.modules import UnscriptedRoIModule
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import pool

Compat = Literal["detectron2", "mmcv"]


@torch.fx.wrap
def roi_align_rotated(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    compat: Compat = "detectron2",
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each rotated box, by averaged bilinear samples.

    Convention: boxes are (centre x, centre y, width, height, angle) in the frame of the image that the backbone saw;
    the angle is in degrees, counter-clockwise as you look at the image, and rotates the box about its centre. Row 0 of
    the result is the side that is the top one at angle 0. Cell (0, 0) of the map is centred at half a stride. With
    `compat="mmcv"` the angle is in radians, and the two options of mmcv's operator apply.

    Samples further than one cell off the map are zero and count in the average. With a fixed `sampling_ratio` a
    negative width or height mirrors the result; with an adaptive one such a box, like an empty one, gives zeros.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice) and to all five numbers of the boxes (once).

    Args:
        input: features [N, C, H, W], floating point, of any strides.
        boxes: [K, 6] with the batch index in column 0, or a list with one [L, 5] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width) along the sides of the box, or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each side; 0 or less takes ceil(bin size in cells).
        compat: whose convention the boxes follow: "detectron2" or "mmcv".
        aligned: for "mmcv" only: False centres cell (0, 0) at 0 and makes boxes at least one cell wide and high.
        clockwise: for "mmcv" only: whether angles are clockwise.

    Returns:
        [K, C, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Compatible with: detectron2.layers.ROIAlignRotated and mmcv.ops.roi_align_rotated.

    Example:
        >>> import torch
        >>> features = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> boxes = [torch.tensor([[2.0, 2.0, 4.0, 4.0, 90.0]])]  # the whole map, turned by a quarter
        >>> roi_align_rotated(features, boxes, output_size=2, sampling_ratio=2)
        tensor([[[[10.5000,  2.5000],
                  [12.5000,  4.5000]]]])
    """
    radians = _angle_options(compat, aligned, clockwise)
    validate.check_input(input)
    size_hw, scale, ratio = validate.check_options(output_size, spatial_scale, sampling_ratio)
    rois = validate.as_rois(boxes, input, validate.ROTATED)
    aligned = validate.check_aligned(aligned)
    further = calls.given(compat=compat, aligned=aligned, clockwise=clockwise) if radians else ()
    call = calls.RoICall(input, rois, size_hw, scale, ratio, aligned, "roi_align_rotated", further=further)
    options = (scale, ratio, aligned, bool(clockwise), radians)
    return pool(OPERATORS["roi_align_rotated"], call, options, shown_as=lambda rotated: _upright(rotated, radians))


class RoIAlignRotated(UnscriptedRoIModule):
    """`roi_align_rotated` as a module that keeps its options; detectron2's constructor, and the options of mmcv's.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each side; 0 or less takes ceil(bin size in cells).
        compat: "detectron2": degrees, counter-clockwise; or "mmcv": radians.
        aligned: for "mmcv" only, see `roi_align_rotated`.
        clockwise: for "mmcv" only: whether angles are clockwise.

    Example:
        >>> import torch
        >>> pool = RoIAlignRotated(output_size=7, spatial_scale=1 / 16, sampling_ratio=2)
        >>> pool(torch.rand(1, 8, 40, 40), [torch.tensor([[320.0, 320.0, 200.0, 80.0, 30.0]])]).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        compat: Compat = "detectron2",
        aligned: bool = True,
        clockwise: bool = False,
    ) -> None:
        super().__init__()
        _angle_options(compat, aligned, clockwise)
        validate.check_options(output_size, spatial_scale, sampling_ratio)
        validate.check_aligned(aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.compat: Compat = compat
        self.aligned = aligned
        self.clockwise = clockwise

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `roi_align_rotated` does."""
        return roi_align_rotated(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            compat=self.compat,
            aligned=self.aligned,
            clockwise=self.clockwise,
        )

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor: ...


def _angle_options(compat: Any, aligned: Any, clockwise: Any) -> bool:
    """Whether angles are in radians, once the options are found to go together."""
    if compat not in get_args(Compat):
        raise OptionError(
            f'RA506: expected compat, "detectron2" or "mmcv"; got {validate.describe(compat)}. Use "detectron2", the '
            'default, for angles in degrees, and "mmcv" for radians.'
        )
    if compat == "detectron2" and (clockwise or not aligned):
        raise OptionError(
            'RA506: expected aligned and clockwise with compat="mmcv" only; got '
            f'aligned={aligned!r}, clockwise={clockwise!r} with compat="detectron2", whose angles are '
            'counter-clockwise. For clockwise degrees negate the angles; or use compat="mmcv" with angles in radians.'
        )
    return bool(compat == "mmcv")


def _upright(call: calls.RoICall, radians: bool) -> calls.RoICall:
    """The call with the upright boxes that enclose the rotated ones."""
    image, x, y, width, height, angle = call.rois.detach().unbind(1)
    turned = angle if radians else angle * (math.pi / 180)
    cos, sin = turned.cos().abs(), turned.sin().abs()
    half_width, half_height = (width.abs() * cos + height.abs() * sin) / 2, (width.abs() * sin + height.abs() * cos) / 2
    sides = x - half_width, y - half_height, x + half_width, y + half_height
    return replace(call, rois=torch.stack([image, *sides], dim=1))
