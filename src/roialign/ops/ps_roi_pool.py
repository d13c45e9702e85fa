"""ps_roi_pool: torchvision's names, arguments and numbers, and the matching gradient."""

from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor

from roialign.ops.operators import OPERATORS
from roialign.ops.perform import pool
from roialign.ops.scripting import AnyBoxes, BroadcastingList2, Legacy, scripted_legacy, scripted_rois, scripted_size
from roialign.ops.whole_cells import WholeCellPool, as_call


@torch.fx.wrap
def ps_roi_pool(
    input: Tensor,
    boxes: AnyBoxes,
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    compat: Legacy = None,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box, as the mean of each bin in its own channels.

    Bin (p, q) of channel c of the result reads channel (c * height + p) * width + q of the features.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw; `spatial_scale`
    converts them to whole cells of the map: round(coordinate * spatial_scale), halves away from zero. A box is at least
    one cell high and wide, and does not include the cell that it ends in. Bins begin and end at whole cells as well; a
    bin off the map is zero. As with torchvision, no bin reads the last row or the last column of the map.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice). Boxes get no gradient, because rounding has none, even if they require one; the same is
    true of torchvision's (RA503). `ps_roi_align` passes one.

    Args:
        input: features [N, C, H, W], floating point, of any strides; C is a multiple of height * width.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        compat: "torchvision" computes torchvision's gradient, which is that of bins that reach the last row and the
            last column, and does not match the result. None computes the matching one.

    Returns:
        [K, C / (height * width), height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Compatible with: torchvision.ops.ps_roi_pool, whose numbers these are. Dai et al., "R-FCN", 2016.

    Example:
        >>> import torch
        >>> features = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)  # the channel's number everywhere
        >>> boxes = [torch.tensor([[16.0, 16.0, 80.0, 80.0]])]  # of a 128 x 128 image: stride 16
        >>> ps_roi_pool(features, boxes, output_size=2, spatial_scale=1 / 16)
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    if torch.jit.is_scripting():
        rois, (height, width) = scripted_rois(boxes, input), scripted_size(output_size)
        output: Tensor = torch.ops.roialign.ps_roi_pool(
            input, rois, height, width, spatial_scale, False, scripted_legacy(compat)
        )[0]
    else:
        output = _pool(input, boxes, output_size, spatial_scale, compat)
    return output


class PSRoIPool(WholeCellPool):
    """`ps_roi_pool` as a module that keeps its options; torchvision's constructor and attributes.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        compat: see `ps_roi_pool`.

    Example:
        >>> import torch
        >>> pool = PSRoIPool(output_size=7, spatial_scale=1 / 16)
        >>> pool(torch.rand(1, 98, 40, 40), [torch.tensor([[32.0, 32.0, 320.0, 200.0]])]).shape
        torch.Size([1, 2, 7, 7])
    """

    def forward(self, input: Tensor, rois: AnyBoxes) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `ps_roi_pool` does."""
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale, self.compat)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: AnyBoxes) -> Tensor: ...


def _pool(input: Any, boxes: Any, output_size: Any, spatial_scale: Any, compat: Any) -> Tensor:
    call = as_call("ps_roi_pool", input, boxes, output_size, spatial_scale, compat, own_channels=True)
    return pool(OPERATORS["ps_roi_pool"], call, (call.spatial_scale, False, compat is not None))
