"""Which level a box is pooled from: torchvision's where torchvision is right, and one for every box everywhere."""

import math
import random

import pytest
import torch
import torchvision

from roialign import errors
from roialign.geometry import FeatureGrid
from roialign.regions.levels import FPNLevels, levels_of


def grids_of(*strides):
    return [FeatureGrid((10, 10), stride if isinstance(stride, tuple) else (stride, stride)) for stride in strides]


def boxes_of(count, seed=0, largest=1500):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corners, corners + largest * torch.rand(count, 2, generator=generator) ** 4], 1)


def test_torchvisions_levels_of_a_pyramid_without_gaps():
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    maps = [torch.zeros(1, 1, 800 // stride, 1344 // stride) for stride in (4, 8, 16, 32)]
    pooler.scales, pooler.map_levels = torchvision.ops.poolers._setup_scales(maps, [(800, 1344)], 224, 4)
    # where one level ends and the next begins, and a float32 or two before and after
    sides = [112, 224, 448, 447.9999, 447.99985, 223.9999, 447.99997, 111.99999, 224.00002, 0]
    boxes = torch.cat([boxes_of(20_000), torch.tensor([[0, 0, side, side] for side in sides])])
    levels = FPNLevels()(boxes, grids_of(4.0, 8.0, 16.0, 32.0))
    assert torch.equal(levels, pooler.map_levels([boxes]))
    assert len(levels.unique()) == 4


@pytest.mark.parametrize(
    "strides", [(8, 32), (32, 8), (14,), (12.5, 50, 25), ((8, 32), 4), (4, 4, 4), (1, 1000), (64, 32, 16, 8, 4)]
)
def test_the_definition_for_any_strides_in_any_order(strides):
    grids = grids_of(*strides)
    boxes = boxes_of(3000, seed=len(strides))
    levels = FPNLevels()(boxes, grids)
    assert levels.dtype == torch.int64
    steps = [math.sqrt(grid.stride_yx[0] * grid.stride_yx[1]) for grid in grids]
    for box, level in zip(boxes.double().tolist(), levels.tolist(), strict=True):
        asked_for = 16 * math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 224
        fitting = [step for step in steps if step <= asked_for * (1 + 1e-5)]
        nearly = [step for step in steps if step <= asked_for * (1 - 1e-5)]
        assert steps[level] in {max(fitting, default=min(steps)), max(nearly, default=min(steps))}


def test_canonical_size_and_level():
    box = torch.tensor([[0.0, 0, 100, 100]])
    grids = grids_of(4, 8, 16, 32)
    assert FPNLevels(100, 3)(box, grids) == 1
    assert FPNLevels(50, 3)(box, grids) == 2
    assert FPNLevels(100.1, 3)(box, grids) == 0


def test_levels_as_a_tensor_or_a_function():
    boxes, grids = boxes_of(5), grids_of(4, 8)
    wanted = torch.tensor([1, 0, 0, 1, 1])
    assert torch.equal(levels_of(wanted.int(), boxes, grids), wanted)
    assert torch.equal(levels_of(lambda boxes_xyxy, grids: wanted, boxes, grids), wanted)
    assert torch.equal(levels_of(FPNLevels(), boxes, grids[:1]), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    "levels", ["fpn", torch.rand(5), torch.ones(5, dtype=torch.bool), lambda boxes, grids: [0] * 5]
)
def test_refused(levels):
    with pytest.raises(errors.LevelError, match=r"^RA401: expected .*levels=FPNLevels\(\)"):
        levels_of(levels, boxes_of(5), grids_of(4, 8))


def test_a_rule_sees_no_graph():
    """Levels are integers: a rule cannot be differentiated, and gets boxes that do not ask for it."""
    seen = []
    boxes = boxes_of(3).requires_grad_()
    levels_of(
        lambda boxes_xyxy, grids: seen.append(boxes_xyxy) or torch.zeros(3, dtype=torch.int64), boxes, grids_of(4, 8)
    )
    assert not seen[0].requires_grad


def test_order_of_levels_does_not_matter():
    rng = random.Random(0)
    strides = [4.0, 8.0, 14.0, 16.0, 33.0]
    boxes = boxes_of(500)
    chosen = {}
    for _ in range(5):
        rng.shuffle(strides)
        chosen[tuple(strides)] = [strides[level] for level in FPNLevels()(boxes, grids_of(*strides)).tolist()]
    assert len(set(map(tuple, chosen.values()))) == 1
