"""Precise RoI pooling: the mean of the interpolated map over each bin, by integration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.fx
from torch import Tensor

from roialign.ops import calls, validate
from roialign.ops.modules import UnscriptedRoIModule
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import pool


@torch.fx.wrap
def prroi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box: the exact means of its bins.

    Between the cells the map is taken as the bilinear surface through them; a bin is the integral of that surface over
    the bin, divided by the bin's area. No cell of a bin is left out, however large it is, so features change smoothly
    with the box and large boxes do not alias: what `roi_align` approaches with more and more samples.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw; `spatial_scale`
    converts them to cells of the map, and cell (0, 0) is centred at 0, as with `roi_align(aligned=False)`. Beyond the
    centres of the border cells the surface falls to zero within one cell, and stays zero. A box without an area, or an
    inverted one, gives zeros.

    Computed in float64 for float64 features, in float32 for all others, returned in the type of the features. On the
    CPU deterministic, forward and backward, for any number of threads. Differentiable with respect to the features
    (twice) and to the boxes (once), except where a box becomes empty.

    Args:
        input: features [N, C, H, W], floating point, of any strides.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.

    Returns:
        [K, C, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Source: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", 2018.

    Example:
        >>> import torch
        >>> features = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> prroi_pool(features, [torch.tensor([[0.5, 0.5, 2.5, 2.5]])], output_size=2)
        tensor([[[[ 5.,  6.],
                  [ 9., 10.]]]])
    """
    validate.check_input(input)
    size_hw, scale, adaptive = validate.check_options(output_size, spatial_scale, -1)
    rois = validate.as_rois(boxes, input)
    call = calls.RoICall(input, rois, size_hw, scale, adaptive, False, "prroi_pool", **calls.form_of(boxes))
    return pool(OPERATORS["prroi_pool"], call, (scale,))


class PrRoIPool(UnscriptedRoIModule):
    """`prroi_pool` as a module that keeps its options.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.

    Example:
        >>> import torch
        >>> pool = PrRoIPool(output_size=7, spatial_scale=1 / 16)
        >>> pool(torch.rand(1, 8, 40, 40), [torch.tensor([[32.0, 32.0, 320.0, 200.0]])]).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        validate.check_options(output_size, spatial_scale, -1)
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `prroi_pool` does."""
        return prroi_pool(input, rois, self.output_size, self.spatial_scale)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor: ...
