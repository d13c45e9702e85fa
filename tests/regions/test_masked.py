"""Pooling under masks: on maps that hold the places of their cells, the feature is the centre of the mask."""

import pytest
import torch

from roialign import FeatureGrid, set_policy
from roialign.ops import calls
from roialign.regions import masked
from roialign.regions.levels import FPNLevels
from roialign.regions.masked import pool_masked
from roialign.regions.pool import pool

BOXES = torch.tensor(
    [
        [0, 20.0, 24.0, 90.0, 110.0],
        [1, 30.5, 28.25, 61.0, 43.0],
        [0, 40.0, 40.0, 44.0, 41.0],
        [1, 18.0, 21.0, 118.0, 119.0],
    ]
)
GRIDS = {
    "conventional": FeatureGrid((32, 32), (4.0, 4.0)),
    "offset": FeatureGrid((18, 18), (7.0, 7.0), offset_yx=(5.25, 1.5)),
    "uneven": FeatureGrid((26, 13), (5.0, 10.5), offset_yx=(2.5, 5.25)),
}


class Corner:
    """The part of a box above the line from its lower left to its upper right corner."""

    def __init__(self):
        self.asked = []

    def shares(self, rows, columns):
        self.asked.append((rows, columns))
        down, across = torch.meshgrid(torch.arange(32 * rows), torch.arange(32 * columns), indexing="ij")
        within = (down + 0.5) / (32 * rows) + (across + 0.5) / (32 * columns) < 1
        return within.double().view(rows, 32, columns, 32).mean((1, 3))


def places(grid, images=2, dtype=torch.float32):
    """A map whose cells hold their x and y in the image."""
    (stride_y, stride_x), (offset_y, offset_x) = grid.stride_yx, grid.offset_yx or grid.conventional_offset_yx
    rows, columns = (torch.arange(side, dtype=dtype) for side in grid.size_hw)
    y, x = torch.meshgrid(offset_y + rows * stride_y, offset_x + columns * stride_x, indexing="ij")
    return torch.stack([x, y]).expand(images, 2, -1, -1).contiguous()


def thirds(rois):
    """The centres of their upper left halves."""
    return rois[:, 1:3] + (rois[:, 3:5] - rois[:, 1:3]) / 3


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("ratio", [-1, 3])
def test_the_centre_of_the_mask(name, ratio):
    grid = GRIDS[name]
    masks = [Corner() for _ in BOXES]
    found = pool_masked([places(grid)], BOXES, (1, 1), [grid], FPNLevels(), ratio, masks)
    limit = 0.06 * (BOXES[:, 3:5] - BOXES[:, 1:3]).amax(1, keepdim=True)  # the smallest has one sample
    sampled = torch.tensor([mask.asked[0] for mask in masks])
    wide = (sampled > 1).all(1)
    assert wide.sum() >= 2
    assert ((found.features[:, :, 0, 0] - thirds(BOXES)).abs() <= limit)[wide].all()
    bins = pool_masked([places(grid)], BOXES, (12, 10), [grid], FPNLevels(), ratio, masks)
    weighted = (bins.features * bins.mask_shares[:, None]).sum((2, 3)) / bins.mask_shares.sum((1, 2))[:, None]
    torch.testing.assert_close(weighted, thirds(BOXES), atol=0.25, rtol=0)
    torch.testing.assert_close(bins.mask_shares.mean((1, 2)), torch.full((4,), 0.5), atol=1e-3, rtol=0)
    assert (bins.features[:, :, -1, -1] == 0).all()
    assert (bins.mask_shares[:, -1, -1] == 0).all()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_masks_it_is_as_pooled(name, dtype):
    grids = [GRIDS[name], FeatureGrid((8, 8), (16.0, 16.0))]
    maps = [torch.rand(2, 5, *grid.size_hw, dtype=dtype) for grid in grids]
    levels = torch.tensor([0, 1, 1, 0])
    rois = BOXES.to(dtype)
    features, coverage, chosen = pool(maps, rois, (4, 3), grids, levels, -1)
    found = pool_masked(maps, rois, (4, 3), grids, levels, -1, [None] * 4)
    torch.testing.assert_close(found.features, features, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.coverage, coverage)
    assert torch.equal(found.levels, chosen)
    assert (found.mask_shares == 1).all()


def test_a_mask_is_asked_for_at_the_samples_of_its_box_and_no_finer():
    grid = GRIDS["conventional"]
    rois = torch.tensor([[0, 0.0, 0.0, 48.0, 20.0], [0, 0.0, 0.0, 2e6, 1e6], [0, -900.0, -600.0, 900.0, 600.0]])
    masks = [Corner(), Flat(), Flat()]
    with set_policy("ignore"):
        pool_masked([places(grid)], rois, (2, 3), [grid], FPNLevels(), -1, masks)
    assert masks[0].asked == [(6, 12)]  # 12 x 5 cells: 4 and 3 in a bin
    assert max(masks[1].asked[0]) <= masked._MOST_SAMPLES
    assert masks[2].asked == [(300, 450)]  # 150 in a bin, more than a fixed sampling_ratio may be


class Flat:
    def __init__(self):
        self.asked = []

    def shares(self, rows, columns):
        self.asked.append((rows, columns))
        return torch.ones(rows, columns)


def test_few_values_of_masks_at_once_change_no_bit(monkeypatch):
    grid = GRIDS["offset"]
    rois = BOXES[:1].repeat(5, 1)
    whole = pool_masked([places(grid)], rois, (7, 7), [grid], FPNLevels(), -1, [Corner() for _ in rois])
    monkeypatch.setattr(masked, "_MOST_VALUES", 1)
    apart = pool_masked([places(grid)], rois, (7, 7), [grid], FPNLevels(), -1, [Corner() for _ in rois])
    assert torch.equal(whole.features, apart.features)


def test_those_who_look_at_calls_see_one_in_the_image(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    maps = [places(GRIDS["offset"])]
    pool_masked(maps, BOXES, (7, 7), [GRIDS["offset"]], FPNLevels(), -1, [Corner() for _ in BOXES])
    (call,) = seen
    assert call.maps[0] is maps[0]
    assert torch.equal(call.rois, BOXES)


def test_gradients_reach_the_map_under_the_mask():
    grid = GRIDS["conventional"]
    features = places(grid).requires_grad_()
    pool_masked([features], BOXES[:1], (1, 1), [grid], FPNLevels(), -1, [Corner()]).features.sum().backward()
    assert features.grad[0].sum().item() == pytest.approx(2, abs=1e-4)
    assert (features.grad[0, :, 24:, 20:] == 0).all()  # below the line
