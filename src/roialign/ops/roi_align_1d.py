"""RoIAlign along one axis: temporal segments, from features of videos, audio or text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor

from roialign import errors
from roialign.ops import calls, validate
from roialign.ops.modules import UnscriptedRoIModule
from roialign.ops.operators import OF_SEGMENTS
from roialign.ops.perform import pool


@torch.fx.wrap
def roi_align_1d(
    input: Tensor,
    segments: Tensor | Sequence[Tensor],
    output_size: int,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Cut a feature of fixed length out of a sequence of features for each segment, by averaged linear samples.

    It is `roi_align` along one axis, with the same rule and the same numbers: those of a map whose rows are all alike.

    Convention: segments are (start, end) in units of the signal, such as frames or seconds; `spatial_scale` converts
    them to cells of `input`. With `aligned=True` cell 0 is centred at half a stride, with `aligned=False` at 0, and
    segments are then at least one cell long. Samples further than one cell off the sequence are zero and count in the
    average.

    Computed in float64 for float64 features, in float32 for all others, returned in the type of the features. On the
    CPU deterministic, forward and backward, for any number of threads. Differentiable with respect to the features
    (twice) and to the segments (once).

    Args:
        input: features [N, C, L], floating point, of any strides.
        segments: [K, 3] with the sequence's index in column 0, or a list with one [n, 2] for each sequence; in the
            type of the features, or float32 where those are float16 or bfloat16.
        output_size: bins.
        spatial_scale: cells of the sequence per unit of the segments: 1 / stride.
        sampling_ratio: samples in each bin; 0 or less takes ceil(bin size in cells).
        aligned: whether cells are centred at half a stride; see above.

    Returns:
        [K, C, output_size], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when segments lie mostly or wholly off the sequence.

    Warns:
        RoIWarning: once per line of code, when segments lie mostly or wholly off the sequence.

    Source: He et al., "Mask R-CNN", 2017, along one axis; used by temporal action detectors.

    Example:
        >>> import torch
        >>> features = torch.arange(8.0).reshape(1, 1, 8)  # one for every 4 frames
        >>> roi_align_1d(features, [torch.tensor([[4.0, 20.0]])], 2, spatial_scale=1 / 4, aligned=True)
        tensor([[[1.5000, 3.5000]]])
    """
    validate.check_features(input, "N, C, L")
    scale, ratio = validate.check_scale(spatial_scale), validate.check_ratio(sampling_ratio)
    bins = _check_size(output_size)
    rois = _one_row_high(validate.as_rois(segments, input, validate.SEGMENTS), scale)
    further = calls.given(output_size=bins)
    call = calls.RoICall(
        input.unsqueeze(2),
        rois,
        (1, bins),
        scale,
        ratio,
        validate.check_aligned(aligned),
        "roi_align_1d",
        further=further,
    )
    return pool(OF_SEGMENTS, call, call.options[2:]).squeeze(2)


class RoIAlign1d(UnscriptedRoIModule):
    """`roi_align_1d` as a module that keeps its options.

    Args:
        output_size: bins.
        spatial_scale: cells of the sequence per unit of the segments: 1 / stride.
        sampling_ratio: samples in each bin; 0 or less takes ceil(bin size in cells).
        aligned: True centres cell 0 at half a stride, False at 0.

    Example:
        >>> import torch
        >>> pool = RoIAlign1d(output_size=8, spatial_scale=1 / 4, sampling_ratio=2, aligned=True)
        >>> pool(torch.rand(1, 16, 100), [torch.tensor([[32.0, 320.0]])]).shape
        torch.Size([1, 16, 8])
    """

    def __init__(self, output_size: int, spatial_scale: float, sampling_ratio: int, aligned: bool = False) -> None:
        super().__init__()
        _check_size(output_size), validate.check_scale(spatial_scale)
        validate.check_ratio(sampling_ratio), validate.check_aligned(aligned)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, segments: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool `input` [N, C, L] under `segments`, as `roi_align_1d` does."""
        return roi_align_1d(input, segments, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, segments: Tensor | Sequence[Tensor]) -> Tensor: ...


def _check_size(output_size: Any) -> int:
    if not validate.is_side(output_size):
        raise errors.OutputSizeError(
            f"RA506: expected output_size, one integer of at least 1; got {output_size!r}. Use output_size=7."
        )
    return output_size  # type: ignore[no-any-return]


def _one_row_high(segments: Tensor, scale: float) -> Tensor:
    """The segments [K, 3] as boxes [K, 5] on the only row of the map, and about as high."""
    image, start, end = segments.unbind(1)
    top = torch.zeros_like(start)
    bottom = (top + 1 / scale).clamp(max=1e30)  # any height reads that row
    return torch.stack([image, start, top, end, bottom], 1)
