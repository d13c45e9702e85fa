"""RoIAlign under instance masks: features averaged where the mask is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.fx
from torch import Tensor

from roialign.errors import OptionError
from roialign.ops import calls, validate
from roialign.ops.modules import UnscriptedRoIModule
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import pool

MasksIn = Literal["image", "box"]


@torch.fx.wrap
def masked_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    *,
    masks_in: MasksIn = "image",
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box, averaged under the instance's mask.

    Each bilinear sample of `roi_align` is weighted by the mask at that point: a bin is sum(w f) / sum(w) over its
    samples, and 0 where sum(w) is 0, that is where no sample is under the mask. With `output_size=1` the result is the
    mean feature of the instance. Where the mask is 1 all over the box, it is `roi_align`'s.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw. Masks have
    one value for each pixel of that image, `masks_in="image"`, pixel (r, c) centred at (c + 0.5, r + 0.5); or
    they cover their box, `masks_in="box"`, as Mask R-CNN predicts them. They are read by bilinear interpolation,
    with the border's value up to a pixel beyond the border and 0 further out. Samples off the feature map are zero
    and count with their weight. A sample of weight 0 reads nothing: NaN outside of the mask does not matter.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice), to floating-point masks and to the boxes (once).

    Args:
        input: features [N, C, H, W], floating point, of any strides.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        masks: [K, h, w] or [K, 1, h, w], bool or floating point, one for each box in the order of the boxes; or a
            list with the masks [L, h, w] of each image, all of one size.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells). A mask is read at
            the samples only: for things thinner than a cell of the map use more, 4 or 8.
        aligned: whether cells are centred at half a stride, as in `roi_align`.
        masks_in: what each mask covers: the "image" or its "box".

    Returns:
        [K, C, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Example:
        >>> import torch
        >>> features = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        >>> mask[0, 3] = True  # the lowest row of pixels
        >>> masked_roi_align(features, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], mask, output_size=1)
        tensor([[[[13.5000]]]])
    """
    in_image = _in_image(masks_in)
    validate.check_input(input)
    size_hw, scale, ratio = validate.check_options(output_size, spatial_scale, sampling_ratio)
    rois = validate.as_rois(boxes, input)
    weights = validate.as_masks(masks, rois)
    aligned = validate.check_aligned(aligned)
    further = calls.given(masks_in=None if in_image else masks_in)
    call = calls.RoICall(input, rois, size_hw, scale, ratio, aligned, "masked_roi_align", further=further)
    call = call.with_(**calls.form_of(boxes))
    return pool(OPERATORS["masked_roi_align"], call, (scale, ratio, aligned, in_image), weights)


class MaskedRoIAlign(UnscriptedRoIModule):
    """`masked_roi_align` as a module that keeps its options.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        aligned: True centres cell (0, 0) at half a stride, False at 0.
        masks_in: what each mask covers: the "image" or its "box".

    Example:
        >>> import torch
        >>> pool = MaskedRoIAlign(output_size=1, spatial_scale=1 / 16, sampling_ratio=4)
        >>> boxes, masks = [torch.tensor([[32.0, 32.0, 320.0, 200.0]])], torch.ones(1, 640, 640, dtype=torch.bool)
        >>> pool(torch.rand(1, 8, 40, 40), boxes, masks).shape
        torch.Size([1, 8, 1, 1])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
        *,
        masks_in: MasksIn = "image",
    ) -> None:
        super().__init__()
        _in_image(masks_in)
        validate.check_options(output_size, spatial_scale, sampling_ratio)
        validate.check_aligned(aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.masks_in: MasksIn = masks_in

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor], masks: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois` and `masks`, as `masked_roi_align` does."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
        return masked_roi_align(input, rois, masks, *options, masks_in=self.masks_in)

    if TYPE_CHECKING:

        def __call__(
            self, input: Tensor, rois: Tensor | Sequence[Tensor], masks: Tensor | Sequence[Tensor]
        ) -> Tensor: ...


def _in_image(masks_in: Any) -> bool:
    if masks_in not in get_args(MasksIn):
        raise OptionError(
            f'RA506: expected masks_in, "image" for masks of the whole image or "box" for masks that cover their '
            f"boxes; got {validate.describe(masks_in)}."
        )
    return bool(masks_in == "image")
