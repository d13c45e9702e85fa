"""roi_pool: torchvision's names, arguments and numbers."""

from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor

from roialign.ops.operators import ROI_POOL
from roialign.ops.perform import pool
from roialign.ops.scripting import AnyBoxes, BroadcastingList2, Legacy, scripted_legacy, scripted_rois, scripted_size
from roialign.ops.whole_cells import WholeCellPool, as_call


@torch.fx.wrap
def roi_pool(
    input: Tensor,
    boxes: AnyBoxes,
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    compat: Legacy = None,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box, as the largest value of each bin.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw; `spatial_scale`
    converts them to whole cells of the map: round(coordinate * spatial_scale), halves away from zero. A box includes
    the cell that it ends in. Bins begin and end at whole cells as well, so neighbours may share a row or a column; a
    bin off the map is zero. A NaN is larger than any number, as for max_pool2d.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice): a bin's gradient goes to the first cell of its largest value, in row-major order. Boxes get
    no gradient, because rounding has none, even if they require one; the same is true of torchvision's (RA503).
    `roi_align` passes one.

    Args:
        input: features [N, C, H, W], floating point, of any strides.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        compat: "torchvision" ignores NaN and minus infinity, as torchvision does: a bin that holds nothing else is
            the most negative float32. None propagates them.

    Returns:
        [K, C, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Compatible with: torchvision.ops.roi_pool, whose numbers these are. Girshick, "Fast R-CNN", 2015.

    Example:
        >>> import torch
        >>> features = torch.arange(16.0).reshape(1, 1, 4, 4)  # of a 64 x 64 image: stride 16
        >>> boxes = [torch.tensor([[0.0, 0.0, 48.0, 48.0]])]  # cells 0 to 3, the last included
        >>> roi_pool(features, boxes, output_size=2, spatial_scale=1 / 16)
        tensor([[[[ 5.,  7.],
                  [13., 15.]]]])
    """
    if torch.jit.is_scripting():
        rois, (height, width) = scripted_rois(boxes, input), scripted_size(output_size)
        output: Tensor = torch.ops.roialign.roi_pool(
            input, rois, height, width, spatial_scale, scripted_legacy(compat), input.requires_grad
        )[0]
    else:
        output = _pool(input, boxes, output_size, spatial_scale, compat)
    return output


class RoIPool(WholeCellPool):
    """`roi_pool` as a module that keeps its options; torchvision's constructor and attributes.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        compat: see `roi_pool`.

    Example:
        >>> import torch
        >>> pool = RoIPool(output_size=7, spatial_scale=1 / 16)
        >>> pool(torch.rand(1, 8, 40, 40), [torch.tensor([[32.0, 32.0, 320.0, 200.0]])]).shape
        torch.Size([1, 8, 7, 7])
    """

    def forward(self, input: Tensor, rois: AnyBoxes) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `roi_pool` does."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale, self.compat)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: AnyBoxes) -> Tensor: ...


def _pool(input: Any, boxes: Any, output_size: Any, spatial_scale: Any, compat: Any) -> Tensor:
    call = as_call("roi_pool", input, boxes, output_size, spatial_scale, compat, own_channels=False)
    keep = call.input.requires_grad and torch.is_grad_enabled()  # the cells of the largest values, for the gradient
    return pool(ROI_POOL, call, (call.spatial_scale, compat is not None, keep))
