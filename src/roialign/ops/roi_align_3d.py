"""RoIAlign of volumes, such as CT and MRI scans, point clouds in voxels, or video in space and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.fx
from torch import Tensor

from roialign.errors import OutputSizeError, ScaleError
from roialign.ops import calls, validate
from roialign.ops.modules import UnscriptedRoIModule
from roialign.ops.operators import OPERATORS
from roialign.ops.perform import perform, refuse

_OPERATOR = OPERATORS["roi_align_3d"]


@torch.fx.wrap
def roi_align_3d(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float | Sequence[float] = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Cut a feature of fixed size out of a volume for each box, by averaged trilinear samples.

    It is `roi_align` with a third axis, z, that follows the same rule: on a volume whose slices are all alike it
    gives `roi_align`'s numbers.

    Convention: boxes are (x1, y1, z1, x2, y2, z2), x first, in the frame of the volume that the backbone saw;
    `spatial_scale` converts them to cells. Sizes and scales are (z, y, x), as the axes of `input` are. With
    `aligned=True` cell (0, 0, 0) is centred at half a stride, with `aligned=False` at 0, and boxes are then at least
    one cell long along each axis. Samples further than one cell off the volume are zero and count in the average.

    Computed in float64 for float64 features, in float32 for all others, returned in the type of the features. On the
    CPU deterministic, forward and backward, for any number of threads. Differentiable with respect to the features
    (twice) and to the boxes (once).

    Args:
        input: features [N, C, D, H, W], floating point, of any strides.
        boxes: [K, 7] with the volume's index in column 0, or a list with one [n, 6] for each volume; in the type of
            the features, or float32 where those are float16 or bfloat16.
        output_size: bins (depth, height, width), or one number for all three.
        spatial_scale: cells of the volume per unit of the boxes, 1 / stride: one number, or (z, y, x).
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        aligned: whether cells are centred at half a stride; see above.

    Returns:
        [K, C, depth, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the volume.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the volume.

    Source: He et al., "Mask R-CNN", 2017, with another axis.

    Example:
        >>> import torch
        >>> features = torch.arange(64.0).reshape(1, 1, 4, 4, 4)  # z counts 16s, y 4s and x ones
        >>> boxes = [torch.tensor([[0.0, 0.0, 8.0, 32.0, 32.0, 16.0]])]  # slices 8 to 16
        >>> roi_align_3d(features, boxes, (1, 2, 2), spatial_scale=(1 / 4, 1 / 16, 1 / 16), aligned=True)
        tensor([[[[[40., 41.],
                   [44., 45.]]]]])
    """
    validate.check_features(input, "N, C, D, H, W")
    size_dhw, scales_zyx = _check_size(output_size), _check_scales(spatial_scale)
    ratio, aligned = validate.check_ratio(sampling_ratio), validate.check_aligned(aligned)
    rois = validate.as_rois(boxes, input, validate.BOXES_3D)
    options = (*scales_zyx, ratio, aligned)
    found = perform(
        _OPERATOR.op,
        (input, rois, *size_dhw, *options),
        (input, rois),
        lambda: refuse(_OPERATOR, input.shape[0], rois, size_dhw, options),
        lambda: _from_the_front(input, rois, size_dhw, scales_zyx, ratio, aligned),
        lambda coverage, numbers: _off_the_volume(input.shape, numbers, scales_zyx, coverage),
    )
    return found[0]


class RoIAlign3d(UnscriptedRoIModule):
    """`roi_align_3d` as a module that keeps its options.

    Args:
        output_size: bins (depth, height, width), or one number for all three.
        spatial_scale: cells of the volume per unit of the boxes, 1 / stride: one number, or (z, y, x).
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        aligned: True centres cell (0, 0, 0) at half a stride, False at 0.

    Example:
        >>> import torch
        >>> pool = RoIAlign3d(output_size=(4, 7, 7), spatial_scale=1 / 8, sampling_ratio=2, aligned=True)
        >>> pool(torch.rand(1, 16, 8, 20, 20), [torch.tensor([[16.0, 16, 8, 120, 96, 56]])]).shape
        torch.Size([1, 16, 4, 7, 7])
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float | Sequence[float],
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        _check_size(output_size), _check_scales(spatial_scale)
        validate.check_ratio(sampling_ratio), validate.check_aligned(aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool `input` [N, C, D, H, W] under `rois`, as `roi_align_3d` does."""
        return roi_align_3d(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor: ...


def _check_size(output_size: Any) -> tuple[int, int, int]:
    size_dhw = (output_size,) * 3 if validate.is_side(output_size) else output_size
    if not isinstance(size_dhw, Sequence) or len(size_dhw) != 3 or not all(map(validate.is_side, size_dhw)):
        raise OutputSizeError(
            "RA506: expected output_size, one integer of at least 1 or three of them (depth, height, width); got "
            f"{output_size!r}. Use output_size=7 for 7 x 7 x 7 bins."
        )
    return cast(tuple[int, int, int], tuple(size_dhw))


def _check_scales(spatial_scale: Any) -> tuple[float, float, float]:
    if not isinstance(spatial_scale, (list, tuple)):
        return (validate.check_scale(spatial_scale),) * 3
    if len(spatial_scale) != 3:
        raise ScaleError(
            "RA105: expected spatial_scale, one number or three of them (z, y, x); got "
            f"{spatial_scale!r}. Use (1 / stride_z, 1 / stride_y, 1 / stride_x)."
        )
    return cast(tuple[float, float, float], tuple(map(validate.check_scale, spatial_scale)))


def _from_the_front(
    input: Tensor,
    rois: Tensor,
    size_dhw: tuple[int, int, int],
    scales_zyx: tuple[float, float, float],
    ratio: int,
    aligned: bool,
) -> calls.RoICall:
    """The call as others look at it: along z, the planes for channels."""
    shift = 0.5 if aligned else 0.0
    _, scale_y, scale_x = scales_zyx
    even = len(set(scales_zyx)) == 1
    return calls.RoICall(
        input.flatten(1, 2),
        rois[:, [0, 1, 2, 4, 5]],
        size_dhw[1:],
        scale_y,
        ratio,
        aligned,
        "roi_align_3d",
        cells=None if even else (scale_y, shift, scale_x, shift),
        further=calls.given(output_size=size_dhw[0] if len(set(size_dhw)) == 1 else size_dhw),
    )


def _off_the_volume(
    shape: Sequence[int], rois: Tensor, scales_zyx: tuple[float, float, float], coverage: Tensor
) -> Callable[[], str] | None:
    """What to say of RoIs that lie off the volume."""
    centres_xyz = (rois[:, 1:4] + rois[:, 4:7]).detach() / 2 * rois.new_tensor(scales_zyx[::-1])
    off = calls.lie_beyond(centres_xyz, shape[:1:-1], coverage)
    if not bool(off.any()):
        return None
    row, size = int(off.nonzero()[0]), " x ".join(map(str, shape[2:]))
    return lambda: (
        f"RA209: {int(off.sum())} of {len(off)} RoIs lie mostly or wholly off the volume, and samples off it are "
        f"zeros. The first is boxes[{row}] = {validate.row_text(rois, row)}, on {size} cells (z, y, x) at "
        f"spatial_scale {scales_zyx} (z, y, x). Boxes are x1, y1, z1, x2, y2, z2 in the volume that the backbone "
        "saw, and spatial_scale is 1 / stride."
    )
