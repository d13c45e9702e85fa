"""ps_roi_align: torchvision's names, arguments and numbers."""

from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor

from roialign.ops import calls, validate
from roialign.ops.modules import RoIModule
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import check_compat, pool
from roialign.ops.scripting import AnyBoxes, BroadcastingList2, Legacy, scripted_legacy, scripted_rois, scripted_size


@torch.fx.wrap
def ps_roi_align(
    input: Tensor,
    boxes: AnyBoxes,
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    compat: Legacy = None,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box, by samples from each bin's own channels.

    Bin (p, q) of channel c of the result is what `roi_align` with `aligned=True` computes for it from channel
    (c * height + p) * width + q of the features.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw; `spatial_scale`
    converts them to cells of the map; cell (0, 0) is centred at half a stride. Samples further than one cell off the
    map are zero and count in the average.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice) and, unlike torchvision's, to the boxes (once).

    Args:
        input: features [N, C, H, W], floating point, of any strides; C is a multiple of height * width.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        compat: "torchvision" gives NaN for a box without samples (empty, under an adaptive `sampling_ratio`), as
            torchvision does; None gives zeros.

    Returns:
        [K, C / (height * width), height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Compatible with: torchvision.ops.ps_roi_align, whose numbers these are. Li et al., "Light-Head R-CNN", 2017.

    Example:
        >>> import torch
        >>> features = torch.arange(4.0).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)  # the channel's number everywhere
        >>> boxes = [torch.tensor([[16.0, 16.0, 80.0, 80.0]])]  # of a 128 x 128 image: stride 16
        >>> ps_roi_align(features, boxes, output_size=2, spatial_scale=1 / 16)
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    if torch.jit.is_scripting():
        rois, (height, width) = scripted_rois(boxes, input), scripted_size(output_size)
        output: Tensor = torch.ops.roialign.ps_roi_align(
            input, rois, height, width, spatial_scale, sampling_ratio, scripted_legacy(compat)
        )[0]
    else:
        output = _pool(input, boxes, output_size, spatial_scale, sampling_ratio, compat)
    return output


class PSRoIAlign(RoIModule):
    """`ps_roi_align` as a module that keeps its options; torchvision's constructor and attributes.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        compat: see `ps_roi_align`.

    Example:
        >>> import torch
        >>> pool = PSRoIAlign(output_size=7, spatial_scale=1 / 16, sampling_ratio=2)
        >>> pool(torch.rand(1, 98, 40, 40), [torch.tensor([[32.0, 32.0, 320.0, 200.0]])]).shape
        torch.Size([1, 2, 7, 7])
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        compat: Legacy = None,
    ) -> None:
        super().__init__()
        validate.check_options(output_size, spatial_scale, sampling_ratio)
        check_compat(compat)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.compat = compat

    def forward(self, input: Tensor, rois: AnyBoxes) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `ps_roi_align` does."""
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.compat)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: AnyBoxes) -> Tensor: ...


def _pool(input: Any, boxes: Any, output_size: Any, spatial_scale: Any, sampling_ratio: Any, compat: Any) -> Tensor:
    legacy = check_compat(compat)
    validate.check_input(input)
    size_hw, scale, ratio = validate.check_options(output_size, spatial_scale, sampling_ratio)
    rois = validate.as_rois(boxes, input)
    validate.check_own_channels(input, size_hw)
    call = calls.RoICall(input, rois, size_hw, scale, ratio, True, "ps_roi_align", **calls.form_of(boxes))
    if legacy:
        call = call.with_(further=calls.given(compat=compat))
    return pool(OPERATORS["ps_roi_align"], call, (scale, ratio, legacy))
