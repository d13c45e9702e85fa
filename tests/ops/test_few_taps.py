"""Few samples or channels, for which the kernels make no plan, or do not keep it: what they give is the same."""

import pytest
import torch

from .served import reference
from .tolerances import assert_close

pytestmark = pytest.mark.kernels

op = torch.ops.roialign
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Bins and samples: by taps for one channel and for all, for one only, and for none.
SIZES = [((1, 1), 1), ((2, 3), 1), ((1, 1), 4), ((7, 7), 2), ((3, 20), 1), ((7, 7), 0), ((28, 28), 2), ((3, 70), 1)]


def features_of(dtype: torch.dtype, channels: int = 70) -> torch.Tensor:
    return torch.randn(2, channels, 30, 41, generator=torch.Generator().manual_seed(0)).to(dtype)


def rois_of(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    sides = torch.rand(40, 2, generator=generator) * 30
    corners = torch.rand(40, 2, generator=generator) * 40 - 5  # some boxes reach beyond the map
    images = torch.randint(2, (40, 1), generator=generator)
    return torch.cat([images, corners, corners + sides], 1).to(torch.promote_types(dtype, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size_hw", "ratio"), SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_channel_alone_has_the_bits_that_it_has_among_others(size_hw, ratio, dtype, layout):
    features, rois = features_of(dtype).to(memory_format=layout), rois_of(dtype)
    together, coverage = op.roi_align(features, rois, *size_hw, 1.0, ratio, True)
    for channels in (slice(0, 1), slice(1, 4), slice(4, 17)):
        alone, same_coverage = op.roi_align(features[:, channels], rois, *size_hw, 1.0, ratio, True)
        assert torch.equal(alone, together[:, channels])
        assert torch.equal(same_coverage, coverage)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size_hw", "ratio"), SIZES)
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_both_ways_equal_the_reference(channels, size_hw, ratio, dtype):
    features, rois = features_of(dtype, channels), rois_of(dtype)
    output, coverage = op.roi_align(features, rois, *size_hw, 1.0, ratio, False)
    expected, expected_coverage = reference.roi_align(features, rois, *size_hw, 1.0, ratio, False)
    assert_close(output, expected, scale=features)
    assert_close(coverage, expected_coverage, scale=torch.ones(1))
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    arguments = grad, rois, 2, 30, 41, 1.0, ratio, False
    expected = reference.roi_align_backward(*arguments)
    assert_close(op.roi_align_backward(*arguments), expected, scale=expected)


@pytest.mark.parametrize("size_hw", [(100, 1), (1, 100), (2000, 2000)])
def test_a_box_without_samples_has_any_number_of_bins(size_hw):
    inverted = torch.tensor([[0.0, 9, 9, 5, 5], [0, 3, 3, 3, 3]])
    output, coverage = op.roi_align(torch.ones(1, 1, 16, 16), inverted, *size_hw, 1.0, 0, True)
    assert not output.any()
    assert not coverage.any()


@pytest.mark.parametrize("channels", [1, 20])
def test_the_first_bad_box_is_named_whichever_thread_finds_one(channels):
    features, rois = torch.rand(1, channels, 20, 20), torch.tensor([[0.0, 1, 1, 9, 9]]).repeat(6000, 1)
    rois[1000, 3] = float("nan")
    rois[2500:, 0] = 7
    grad = torch.rand(6000, channels, 1, 1)
    with pytest.raises(RuntimeError, match="RA205: box 1000 "):
        op.roi_align(features, rois, 1, 1, 1.0, 1, True)
    with pytest.raises(RuntimeError, match="RA205: box 1000 "):
        op.roi_align_backward(grad, rois, 1, 20, 20, 1.0, 1, True)
