"""How pixels may become cells: from a grid, from two sizes, or of common strides."""

from __future__ import annotations

import pytest
import torch

import roialign
from roialign.doctor.evidence import COMMON_STRIDES, Evidence
from roialign.doctor.explanations.lattice import Lattice, lattices
from roialign.ops.roi_align import as_call


def known(
    map_hw: tuple[int, int], image_hw: tuple[int, int] | None = None, grid: roialign.FeatureGrid | None = None
) -> Evidence:
    call = as_call(torch.rand(1, 2, *map_hw), [torch.tensor([[1.0, 2.0, 30.0, 40.0]])], 7, 1 / 16, 2, True)
    return Evidence(call, image_hw, grid)


def test_without_sizes_the_common_strides_may_be() -> None:
    found = lattices(known((40, 64)))
    assert {lattice.stride_yx[0]: lattice.weight for lattice in found} == COMMON_STRIDES
    assert all(lattice.even and not lattice.shifted for lattice in found)


@pytest.mark.parametrize("stride", [4, 8, 14, 16, 32])
@pytest.mark.parametrize("map_hw", [(40, 64), (37, 37), (25, 40)])
def test_two_sizes_tell_the_stride(stride: int, map_hw: tuple[int, int]) -> None:
    exact = (map_hw[0] * stride, map_hw[1] * stride)
    for image_hw in (exact, (exact[0] - stride // 3, exact[1] - stride // 4)):
        found = lattices(known(map_hw, image_hw))
        assert [lattice.stride_yx for lattice in found] == [(stride, stride)]


def test_a_network_that_loses_cells_may_have_a_common_stride() -> None:
    found = lattices(known((46, 46), (800, 800)))  # 50 cells of 16 pixels
    assert (16.0, 16.0) in [lattice.stride_yx for lattice in found]


def test_a_grid_decides_with_its_offset() -> None:
    (even,) = lattices(known((40, 64), (640, 1024), roialign.FeatureGrid((40, 64), (16, 16))))
    assert even.stride_yx == (16, 16)
    assert not even.shifted
    grid = roialign.FeatureGrid((40, 64), (16, 16), structural_offset_yx=(40.0, 40.0))
    (shifted,) = lattices(known((40, 64), (700, 1100), grid))
    assert shifted.shifted
    assert shifted.lead_yx == pytest.approx((0.5 - 40 / 16, 0.5 - 40 / 16))
    assert shifted.offset_yx == (40.0, 40.0)


def test_cells_off_at_the_far_edge() -> None:
    assert Lattice((16.0, 16.0)).cells_off(1 / 16, (40, 64)) == pytest.approx(0)
    assert Lattice((14.0, 14.0)).cells_off(1 / 16, (37, 37)) == pytest.approx(37 / 8)
