"""roi_pool, ps_roi_align and ps_roi_pool for the tests: as plain loops, as torchvision has them, as operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torchvision
from torch import Tensor

import roialign

from .cases import Case, axis_positions, bilinear, kernel_cases, poisoned
from .served import reference
from .tolerances import assert_close, assert_close_where_finite, assert_same_kinds

HALF = (torch.float16, torch.bfloat16)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Operator:
    """One operator with its own options, those of torchvision's function left out."""

    name: str
    public: Callable[..., Tensor]
    torchvision: Callable[..., Tensor]
    module: type[torch.nn.Module]
    own_planes: bool  # each bin reads channels of its own
    samples: bool  # takes a sampling_ratio, and gives a gradient to the boxes

    def features(self, case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
        """Features that `case.grad` is a gradient for."""
        images, channels, height, width = case.input_shape
        if self.own_planes:
            channels *= case.output_size_hw[0] * case.output_size_hw[1]
        generator = torch.Generator().manual_seed(case.seed)
        return torch.randn(images, channels, height, width, generator=generator).to(dtype)

    def options(self, case: Case) -> tuple[Any, ...]:
        """The arguments of the public function after the boxes."""
        ratio = (case.sampling_ratio,) if self.samples else ()
        return case.output_size_hw, case.spatial_scale, *ratio

    def run(self, features: Tensor, rois: Tensor, grad: Tensor, case: Case, ops: Any) -> dict[str, Tensor]:
        """Output, coverage and gradients, from the registered operators or the reference (`ops`)."""
        size, scale, images = case.output_size_hw, case.spatial_scale, case.image_size
        if self.name == "roi_pool":
            output, coverage, maxima = ops.roi_pool(features, rois, *size, scale, False, True)
            return {
                "output": output,
                "coverage": coverage,
                "maxima": maxima,
                "without maxima": ops.roi_pool(features, rois, *size, scale, False, False)[0],
                "grad": ops.roi_pool_backward(grad, maxima, rois, *images),
            }
        if self.name == "ps_roi_pool":
            output, coverage = ops.ps_roi_pool(features, rois, *size, scale, False, False)
            with_last, without = (ops.ps_roi_pool_backward(grad, rois, *images, scale, last) for last in (True, False))
            with_last_output = ops.ps_roi_pool(features, rois, *size, scale, True, False)[0]
            names = "output", "coverage", "output with last", "grad with last", "grad"
            return dict(zip(names, (output, coverage, with_last_output, with_last, without), strict=True))
        sampling = scale, case.sampling_ratio
        output, coverage = ops.ps_roi_align(features, rois, *size, *sampling, False)
        return {
            "output": output,
            "coverage": coverage,
            "grad": ops.ps_roi_align_backward(grad, rois, *images, *sampling),
            "grad of boxes": ops.ps_roi_align_backward_boxes(grad, features, rois, *sampling),
        }


ROI_POOL = Operator("roi_pool", roialign.roi_pool, torchvision.ops.roi_pool, roialign.RoIPool, False, False)
PS_ROI_ALIGN = Operator(
    "ps_roi_align", roialign.ps_roi_align, torchvision.ops.ps_roi_align, roialign.PSRoIAlign, True, True
)
PS_ROI_POOL = Operator(
    "ps_roi_pool", roialign.ps_roi_pool, torchvision.ops.ps_roi_pool, roialign.PSRoIPool, True, False
)
OPERATORS = (ROI_POOL, PS_ROI_ALIGN, PS_ROI_POOL)


def bin_cases(operator: Operator) -> Iterator[Case]:
    """`kernel_cases`; where each bin has channels of its own, with few of both, for the reference computes all."""
    for case in kernel_cases():
        (images, channels, *map_hw), (height, width) = case.input_shape, case.output_size_hw
        if not operator.own_planes:
            yield case
        elif prod(map_hw) <= 40_000:
            fewer = height % 7 + 1, width % 5 + 1
            yield replace(case, input_shape=(images, channels % 2 + 1, *map_hw), output_size_hw=fewer)


def hold(actual: Tensor, expected: Tensor, scale: Tensor, dtype: torch.dtype | None = None) -> None:
    """`assert_close`, and equality of whole numbers."""
    if expected.is_floating_point():
        assert_close(actual, expected, scale, dtype)
    else:
        assert torch.equal(actual, expected)


def check_kernels(operator: Operator, case: Case) -> None:
    """Hold the kernels of float64 and float32 against the reference, half types and channels_last against those."""
    features, grad = (tensor.to(HALF[1]).to(HALF[0]) for tensor in (operator.features(case), case.grad()))
    for dtype in (torch.float64, torch.float32):
        tensors = features.to(dtype), case.rois(dtype), grad.to(dtype)
        results = operator.run(*tensors, case, torch.ops.roialign)
        for name, expected in operator.run(*tensors, case, reference).items():
            scale = {"output": tensors[0], "coverage": torch.ones(1)}.get(name, expected)
            hold(results[name], expected, scale=scale, dtype=dtype)
        last = operator.run(channels_last(tensors[0]), tensors[1], channels_last(tensors[2]), case, torch.ops.roialign)
        for name, expected in results.items():
            hold(last[name], expected, scale=tensors[0] if "output" in name else expected, dtype=dtype)
    for dtype in HALF:  # rounded once, from the same sums
        for name, half in operator.run(
            features.to(dtype), case.rois(), grad.to(dtype), case, torch.ops.roialign
        ).items():
            assert torch.equal(half, results[name].to(half.dtype)), (name, dtype)


def check_nan(operator: Operator, case: Case, dtype: torch.dtype) -> None:
    """NaN features reach the bins that read them, NaN gradients the cells that were read, and nothing else."""
    features, grad = (poisoned(tensor, (math.nan,), case.seed) for tensor in (operator.features(case), case.grad()))
    tensors = features.to(dtype), case.rois(torch.promote_types(dtype, torch.float32)), grad.to(dtype)
    wide = tensors[0].to(tensors[1].dtype), tensors[1], tensors[2].to(tensors[1].dtype)
    expected = operator.run(*wide, case, reference)
    for layout in (torch.Tensor.contiguous, channels_last):
        results = operator.run(layout(tensors[0]), tensors[1], layout(tensors[2]), case, torch.ops.roialign)
        for name, scale in (("output", features), ("grad", expected["grad"])):
            assert_close_where_finite(results[name], expected[name], scale=scale)
            assert_same_kinds(results[name], expected[name])


def rounded(value: float) -> int:
    """To the nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def cells_of_bins(low: float, high: float, pooled: int, scale: float, with_end: bool, reach: int) -> list[range]:
    """The cells of each bin along one axis, from the definition."""
    start = rounded(low * scale)
    length = max(rounded(high * scale) - start + with_end, 1) / pooled

    def clip(edge: int) -> int:
        return min(max(edge + start, 0), reach)

    return [range(clip(math.floor(p * length)), clip(math.ceil((p + 1) * length))) for p in range(pooled)]


def brute_roi_pool(features: Tensor, rois: Tensor, size_hw: tuple[int, int], scale: float) -> Tensor:
    """The definition as plain loops, in float64; NaN is larger than any number."""
    height, width = features.shape[2:]
    output = torch.zeros(len(rois), features.shape[1], *size_hw, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        rows = cells_of_bins(y1, y2, size_hw[0], scale, True, height)
        columns = cells_of_bins(x1, x2, size_hw[1], scale, True, width)
        for c, plane in enumerate(features[int(image)].double().tolist()):
            for p, ys in enumerate(rows):
                for q, xs in enumerate(columns):
                    values = [plane[y][x] for y in ys for x in xs]
                    nan = any(math.isnan(value) for value in values)
                    output[k, c, p, q] = math.nan if nan else max(values, default=0.0)
    return output


def brute_ps_roi_pool(
    features: Tensor, rois: Tensor, size_hw: tuple[int, int], scale: float, left_out: int = 1
) -> Tensor:
    """The definition as plain loops, in float64; torchvision leaves out the last row and column."""
    height, width = (side - left_out for side in features.shape[2:])
    output = torch.zeros(len(rois), features.shape[1] // (size_hw[0] * size_hw[1]), *size_hw, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        rows = cells_of_bins(y1, y2, size_hw[0], scale, False, height)
        columns = cells_of_bins(x1, x2, size_hw[1], scale, False, width)
        for channel, plane in enumerate(features[int(image)].double().tolist()):
            c, p, q = channel // (size_hw[0] * size_hw[1]), channel // size_hw[1] % size_hw[0], channel % size_hw[1]
            values = [plane[y][x] for y in rows[p] for x in columns[q]]
            output[k, c, p, q] = sum(values) / max(len(values), 1)
    return output


def brute_ps_roi_align(
    features: Tensor, rois: Tensor, size_hw: tuple[int, int], scale: float, sampling_ratio: int
) -> Tensor:
    """The definition as plain loops, in float64; 0 where a box has no samples."""
    output = torch.zeros(len(rois), features.shape[1] // (size_hw[0] * size_hw[1]), *size_hw, dtype=torch.float64)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        rows, grid_h = axis_positions(y1, y2, size_hw[0], scale, sampling_ratio, True)
        columns, grid_w = axis_positions(x1, x2, size_hw[1], scale, sampling_ratio, True)
        for channel, plane in enumerate(features[int(image)].double().tolist()):
            c, p, q = channel // (size_hw[0] * size_hw[1]), channel // size_hw[1] % size_hw[0], channel % size_hw[1]
            total = sum(bilinear(plane, y, x) for y in rows[p] for x in columns[q])
            output[k, c, p, q] = total / max(grid_h * grid_w, 1)
    return output


def brute_coverage(rois: Tensor, height: int, width: int, scale: float, with_end: bool) -> Tensor:
    """The share of each rounded box's cells that are on the map, counted one by one."""
    shares = []
    for _, x1, y1, x2, y2 in rois.double().tolist():
        share = 1.0
        for low, high, extent in ((y1, y2, height), (x1, x2, width)):
            start = rounded(low * scale)
            cells = range(start, start + max(rounded(high * scale) - start + with_end, 1))
            share *= sum(0 <= cell < extent for cell in cells) / len(cells)
        shares.append(share)
    return torch.tensor(shares, dtype=torch.float64)
