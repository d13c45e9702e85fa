"""RoIAlign: torchvision's names, arguments and numbers."""

from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor

from roialign.errors import DtypeError
from roialign.ops import calls, presets, validate
from roialign.ops.modules import RoIModule
from roialign.ops.operators import OPERATORS, ROI_ALIGN
from roialign.ops.perform import pool
from roialign.ops.scripting import AnyBoxes, BroadcastingList2, Compat, Mode, scripted_rois, scripted_size


@torch.fx.wrap
def roi_align(
    input: Tensor,
    boxes: AnyBoxes,
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: Mode = "avg",
    compat: Compat = None,
) -> Tensor:
    """Cut a feature of fixed size out of a feature map for each box, by averaged bilinear samples.

    With `mode="max"` the largest sample counts instead of the average; samples off the map are zeros there, too.

    Convention: boxes are (x1, y1, x2, y2), x first, in the frame of the image that the backbone saw; `spatial_scale`
    converts them to cells of the map. With `aligned=True` cell (0, 0) is centred at half a stride, with `aligned=False`
    at 0, and boxes are then at least one cell wide. Samples further than one cell off the map are zero and count in the
    average.

    Computed in float64 for float64 features, in float32 for all others (also under autocast), returned in the type of
    the features. On the CPU deterministic, forward and backward, for any number of threads. Differentiable with respect
    to the features (twice; with `mode="max"` once) and, unlike torchvision's, to the boxes (once).

    Args:
        input: features [N, C, H, W], floating point, of any strides.
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; in the type of the
            features, or float32 where those are float16 or bfloat16.
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        aligned: whether cells are centred at half a stride; see above.
        mode: "avg" or "max". Scripted code (TorchScript) supports only "avg", and no `compat`.
        compat: gives the numbers of "torchvision", "detectron2", "mmcv", "onnx" (from operator set 16 on) or "onnx-10".
            All but torchvision's set `aligned` themselves and exclude modes that the other library does not have.

    Returns:
        [K, C, height, width], in the type of `input`.

    Raises:
        RoIError: with the code and the fix, for invalid arguments; see `roialign.errors`.
        CoverageError: under `set_policy("raise")`, when RoIs lie mostly or wholly off the map.

    Warns:
        RoIWarning: once per line of code, when RoIs lie mostly or wholly off the map.

    Compatible with: torchvision.ops.roi_align, whose numbers these are. He et al., "Mask R-CNN", 2017.

    Example:
        >>> import torch
        >>> features = torch.arange(16.0).reshape(1, 1, 4, 4)  # of a 64 x 64 image: stride 16
        >>> boxes = [torch.tensor([[0.0, 0.0, 32.0, 32.0]])]
        >>> roi_align(features, boxes, output_size=2, spatial_scale=1 / 16, aligned=True)
        tensor([[[[0., 1.],
                  [4., 5.]]]])
    """
    if torch.jit.is_scripting():
        if mode != "avg" or compat is not None:
            raise RuntimeError("RA506: a scripted roi_align supports only mode='avg' without compat")
        rois, (height, width) = scripted_rois(boxes, input), scripted_size(output_size)
        output: Tensor = torch.ops.roialign.roi_align(
            input, rois, height, width, spatial_scale, sampling_ratio, aligned
        )[0]
    elif mode == "avg" and compat is None:
        output = _pool(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    else:
        output = _pool_as(mode, compat, input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    return output


class RoIAlign(RoIModule):
    """`roi_align` as a module that keeps its options; torchvision's constructor and attributes.

    Args:
        output_size: bins (height, width), or one number for both.
        spatial_scale: cells of the map per unit of the boxes: 1 / stride for boxes in pixels.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        aligned: True centres cell (0, 0) at half a stride, False at 0.
        mode: "avg" or "max".
        compat: whose numbers to give; see `roi_align`.

    Example:
        >>> import torch
        >>> pool = RoIAlign(output_size=7, spatial_scale=1 / 16, sampling_ratio=2, aligned=True)
        >>> pool(torch.rand(1, 8, 40, 40), [torch.tensor([[32.0, 32.0, 320.0, 200.0]])]).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        *,
        mode: Mode = "avg",
        compat: Compat = None,
    ) -> None:
        super().__init__()
        validate.check_options(output_size, spatial_scale, sampling_ratio)
        presets.find(mode, compat, validate.check_aligned(aligned))
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode
        self.compat = compat

    def forward(self, input: Tensor, rois: AnyBoxes) -> Tensor:
        """Pool `input` [N, C, H, W] under `rois`, as `roi_align` does."""
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            mode=self.mode,
            compat=self.compat,
        )

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, rois: AnyBoxes) -> Tensor: ...


def as_call(
    input: Any, boxes: Any, output_size: Any, spatial_scale: Any, sampling_ratio: Any, aligned: bool
) -> calls.RoICall:
    """The call with its boxes as rois, once shapes, types and options are found usable."""
    validate.check_input(input)
    size_hw, scale, ratio = validate.check_options(output_size, spatial_scale, sampling_ratio)
    rois = validate.as_rois(boxes, input)
    aligned = validate.check_aligned(aligned)
    return calls.RoICall(input, rois, size_hw, scale, ratio, aligned, **calls.form_of(boxes))


def _pool(input: Any, boxes: Any, output_size: Any, spatial_scale: Any, sampling_ratio: Any, aligned: bool) -> Tensor:
    if isinstance(input, Tensor) and input.is_quantized:
        return _pool_quantized(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    call = as_call(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    return pool(ROI_ALIGN, call, (call.spatial_scale, call.sampling_ratio, call.aligned))


def _pool_as(
    mode: Mode,
    compat: Compat,
    input: Any,
    boxes: Any,
    output_size: Any,
    spatial_scale: Any,
    sampling_ratio: Any,
    aligned: bool,
) -> Tensor:
    preset = presets.find(mode, compat, validate.check_aligned(aligned))
    if mode == "avg":
        return _pool(input, boxes, output_size, spatial_scale, sampling_ratio, preset.aligned)
    call = as_call(input, boxes, output_size, spatial_scale, sampling_ratio, preset.aligned)
    call = call.with_(further=calls.given(mode=mode, compat=compat))
    return pool(OPERATORS["roi_align_max"], call, (*call.options[2:], preset.corners))


def _pool_quantized(input: Tensor, boxes: Any, *options: Any) -> Tensor:
    """torchvision's rule: one image, boxes quantized too, the result in the features' quantization."""
    if input.shape[0] != 1 or not isinstance(boxes, Tensor) or not boxes.is_quantized:
        raise DtypeError(
            "RA505: expected quantized boxes [K, 5] with quantized features. Only one image per batch is allowed, "
            f"since quantization rounds its index; got {validate.describe(input)} and {validate.describe(boxes)}. "
            "Use input.dequantize() and float boxes."
        )
    pooled = _pool(input.dequantize(), boxes.dequantize(), *options)
    return torch.quantize_per_tensor(pooled, input.q_scale(), input.q_zero_point(), input.dtype)
