"""Offsets beyond 2**31 elements: maps and gradients of which only what is read or written here is in memory.

torch.empty maps memory that the system provides page by page when it is written; what nobody wrote reads as zero.
"""

import pytest
import torch
from torch import Tensor

ops = torch.ops.roialign
DTYPE = torch.bfloat16
SAMPLING = (1.0, 2, True)
CORNER = 16  # cells along each side that hold something
BOXES = ((-9.5, -10.25, -1.5, -2.75), (-12.0, -7.5, 3.0, 2.0), (-3.25, -14.0, -0.5, 0.5))  # from the far corner on

LARGE = [
    ("rows and columns", (1, 1, 46_400, 46_400), torch.contiguous_format),
    ("images", (40, 1, 8_192, 8_192), torch.contiguous_format),
    ("channels", (1, 33_000, 256, 256), torch.contiguous_format),
    ("channels last", (1, 33_000, 256, 256), torch.channels_last),
    ("images, channels last", (70, 2, 4_096, 4_096), torch.channels_last),
]


def lazily_mapped(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    try:
        tensor = torch.empty(shape, dtype=DTYPE, memory_format=memory_format)
    except RuntimeError as error:
        pytest.skip(f"the system promises no more memory than it has: {error}")
    assert tensor.numel() > 2**31
    return tensor


def corner_boxes(shape: tuple[int, ...], image: int) -> Tensor:
    size_xyxy = torch.tensor([shape[3], shape[2]] * 2)
    return torch.cat([torch.full((len(BOXES), 1), float(image)), torch.tensor(BOXES) + size_xyxy], dim=1)


@pytest.mark.parametrize(("shape", "memory_format"), [row[1:] for row in LARGE], ids=[row[0] for row in LARGE])
def test_the_far_corner_of_a_large_map(shape, memory_format):
    features = lazily_mapped(shape, memory_format)
    last = slice(max(0, shape[1] - 3), None)
    corner = torch.rand(1, shape[1], CORNER, CORNER)[:, last].to(DTYPE)
    features[-1:, last, -CORNER:, -CORNER:] = corner
    output, coverage = ops.roi_align(features, corner_boxes(shape, shape[0] - 1), 2, 4, *SAMPLING)
    expected, expected_coverage = ops.roi_align(corner, corner_boxes(corner.shape, 0), 2, 4, *SAMPLING)
    assert torch.equal(output[:, last], expected)
    assert torch.equal(coverage, expected_coverage)
    assert not output[:, : last.start].any()


def test_an_expanded_map_of_many_channels():
    plane = torch.rand(1, 1, 256, 256).to(DTYPE)
    features, rois = plane.expand(1, 40_000, 256, 256), corner_boxes(plane.shape, 0)
    output, _ = ops.roi_align(features, rois, 2, 4, *SAMPLING)
    assert torch.equal(output, ops.roi_align(plane, rois, 2, 4, *SAMPLING)[0].expand_as(output))


def test_an_upstream_gradient_of_large_strides():
    spread = lazily_mapped((2**31 + 2**28,), torch.contiguous_format)
    grad = torch.rand(2, 2, 2, 4).to(DTYPE)
    far = spread.as_strided(grad.shape, (2**31, 2**27, 2**25, 2**20 + 1))
    far.copy_(grad)
    features, rois = torch.rand(1, 2, 20, 20).to(DTYPE), corner_boxes((1, 2, 20, 20), 0)[:2]
    assert torch.equal(
        ops.roi_align_backward(far, rois, 1, 20, 20, *SAMPLING),
        ops.roi_align_backward(grad, rois, 1, 20, 20, *SAMPLING),
    )
    assert torch.equal(
        ops.roi_align_backward_boxes(far, features, rois, *SAMPLING),
        ops.roi_align_backward_boxes(grad, features, rois, *SAMPLING),
    )


def test_the_boxes_gradient_from_the_far_corner_of_a_large_map():
    shape = LARGE[0][1]
    features, corner = lazily_mapped(shape, torch.contiguous_format), torch.rand(1, 1, CORNER, CORNER).to(DTYPE)
    features[..., -CORNER:, -CORNER:] = corner
    grad = torch.rand(len(BOXES), 1, 2, 4).to(DTYPE)
    actual = ops.roi_align_backward_boxes(grad, features, corner_boxes(shape, 0), *SAMPLING)
    expected = ops.roi_align_backward_boxes(grad, corner, corner_boxes(corner.shape, 0), *SAMPLING)
    assert torch.equal(actual, expected)
