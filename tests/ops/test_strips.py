"""Results of very many bins, which the kernels make strip by strip: the numbers of the reference, the memory of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .served import reference
from .tolerances import assert_close

pytestmark = pytest.mark.kernels
MOST_BINS = 1 << 13  # of a strip, as the kernels have it
SIZES = [
    (MOST_BINS + 1, 1),
    (2 * MOST_BINS + 5, 3),
    (1, 2 * MOST_BINS + 5),
    (3, MOST_BINS + 7),
    (MOST_BINS, 2),
]
ROIS = torch.tensor([[0.0, 1.3, 2.1, 9.7, 8.2], [1.0, -3.0, -2.0, 14.0, 11.5], [0.0, 8.0, 7.0, 2.0, 1.0]])


def features(dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    values = torch.rand(2, 5, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("ratio", [2, -1])
def test_forward(size_hw: tuple[int, int], dtype: torch.dtype, channels_last: bool, ratio: int) -> None:
    maps, rois = features(dtype, channels_last), ROIS.to(torch.float64 if dtype == torch.float64 else torch.float32)
    options = (*size_hw, 1.0, ratio, True)
    output, coverage = torch.ops.roialign.roi_align(maps, rois, *options)
    expected, expected_coverage = reference.roi_align(maps, rois, *options)
    assert_close(output, expected, maps)
    torch.testing.assert_close(coverage, expected_coverage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size_hw", SIZES)
def test_backward(size_hw: tuple[int, int], dtype: torch.dtype) -> None:
    rois = ROIS.to(torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.rand(3, 5, *size_hw, generator=torch.Generator().manual_seed(1)).to(dtype)
    arguments = (rois, 2, 9, 11, 1.0, 2, True)
    computed = torch.ops.roialign.roi_align_backward(grad, *arguments)
    expected = reference.roi_align_backward(grad.double(), rois.double(), *arguments[1:])
    assert_close(computed, expected.to(dtype), expected)


def test_boxes_off_the_map_are_not_covered_in_any_strip() -> None:
    rois = torch.tensor([[0.0, 1.0, 1.0, 9.0, 8.0], [0.0, 100.0, 100.0, 120.0, 120.0]])
    coverage = torch.ops.roialign.roi_align(features(torch.float32), rois, 3 * MOST_BINS, 1, 1.0, 1, True)[1]
    assert coverage.tolist() == pytest.approx([1.0, 0.0])


def test_no_boxes() -> None:
    assert torch.ops.roialign.roi_align(features(torch.float32), ROIS[:0], 20000, 1, 1.0, 2, True)[0].numel() == 0
