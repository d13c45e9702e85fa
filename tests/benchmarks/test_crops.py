"""What `make bench-crops` measures with: its boxes, its crops and its scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

pytest.importorskip("hotcoco", reason="needs the extra `detection`")

from benchmarks.crops_data import Scene, all_ways_up, at_most, background, boxes_of, displaced, over_boxes, shared_area
from benchmarks.crops_features import POOLS, crop
from benchmarks.crops_scores import halved, macro, precision_at, thirds

from roialign import FeatureGrid, Frame


def some_boxes(count: int, size_hw: tuple[int, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(8, 24, (count, 2), generator=generator)
    room = torch.tensor([size_hw[1], size_hw[0]]) - sizes
    corners = (torch.rand(count, 2, generator=generator) * room).floor()
    return torch.cat([corners, corners + sizes], 1)


def precision_one_by_one(features: Tensor, things: list[int], photographs: list[int], nearest: int) -> list[float]:
    found = []
    for row, photograph in enumerate(photographs):
        others = [other for other in range(len(things)) if photographs[other] != photograph]
        likeness = {other: float(cosine_similarity(features[row], features[other], dim=0)) for other in others}
        near = sorted(others, key=lambda other: -likeness[other])[:nearest]
        found.append(sum(things[other] == things[row] for other in near) / nearest)
    return found


@pytest.mark.parametrize("nearest", [1, 10])
def test_precision_is_that_of_a_search_one_by_one(nearest: int) -> None:
    features, things, photographs = torch.randn(60, 8), torch.randint(3, (60,)), torch.randint(5, (60,))
    features[:, :3] += 2 * torch.eye(3)[things] + torch.eye(3)[photographs % 3]
    found = precision_at(features, things, photographs, nearest)
    expected = precision_one_by_one(features, things.tolist(), photographs.tolist(), nearest)
    assert found.tolist() == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_neighbours_of_the_same_photograph_do_not_count() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.5], [0.0, 1.0]])
    things, photographs = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 2])
    assert precision_at(features, things, photographs, 1)[0] == 0  # row 1 is nearer, and of the same photograph
    assert precision_at(features, things, torch.arange(4), 1)[0] == 1


def test_too_few_rows_of_other_photographs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 rows of other photographs for each row; got 2"):
        precision_at(torch.randn(4, 2), torch.zeros(4), torch.tensor([0, 0, 1, 1]), 3)


def test_the_macro_mean_weighs_labels_alike() -> None:
    assert macro(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 1])) == 0.5


def test_a_draw_takes_half_of_the_groups_whole() -> None:
    groups = torch.randint(10, (80,)) * 3
    draws = [halved(groups, seed) for seed in range(4)]
    for draw in draws:
        taken = set(groups[draw].tolist())
        assert len(taken) == 5
        assert taken.isdisjoint(groups[~draw].tolist())
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_thirds_are_those_of_each_kind() -> None:
    sides = torch.tensor([1.0, 2, 3, 4, 5, 6, 100, 200, 300])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], 1)
    kinds = torch.tensor([0] * 6 + [1] * 3)
    order = torch.randperm(9)
    assert thirds(boxes[order], kinds[order]).tolist() == torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 2])[order].tolist()


def test_background_boxes_overlap_nothing_and_have_the_sizes_of_the_others() -> None:
    size_hw = (160, 200)
    boxes = some_boxes(12, size_hw, seed=1)
    found = background(boxes, boxes, size_hw, seed=2)
    assert 6 <= len(found) <= 12
    assert float(shared_area(found, boxes).sum()) == 0
    assert int((shared_area(found, found) > 0).sum()) == len(found)
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    assert all(size in sizes for size in (found[:, 2:] - found[:, :2]).tolist())
    assert bool((found >= 0).all())
    assert bool((found <= torch.tensor([200, 160, 200, 160])).all())
    assert torch.equal(found, background(boxes, boxes, size_hw, seed=2))


def test_no_background_is_found_where_there_is_no_room() -> None:
    assert background(torch.tensor([[0.0, 0, 60, 60]]), torch.tensor([[20.0, 20, 80, 80]]), (100, 100), 0).shape == (
        0,
        4,
    )


def test_displaced_boxes_are_beside_their_own_and_on_no_other() -> None:
    size_hw = (160, 200)
    boxes = some_boxes(10, size_hw, seed=3)
    found, whose = displaced(boxes, boxes, size_hw, seed=4)
    assert len(found) >= 8
    moved = (found[:, :2] - boxes[whose, :2]).abs() / (boxes[whose, 2:] - boxes[whose, :2])
    assert torch.allclose(found[:, 2:] - found[:, :2], boxes[whose, 2:] - boxes[whose, :2])
    assert float(moved.amax(1).min()) > 0.45  # rounded to whole pixels
    assert float(moved.max()) < 1.07
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (found, boxes)]
    shared = shared_area(found, boxes)
    assert float((shared / (areas[0][:, None] + areas[1] - shared)).max()) < 0.3


def test_at_most_so_many_of_each_label() -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 2])
    kept = labels[at_most(labels, 2, seed=0)]
    assert torch.bincount(kept).tolist() == [2, 2, 1]


def ramp(height: int, width: int) -> Tensor:
    """[2, H, W]: x and y of the centres of the pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])


def test_a_crop_shows_its_box() -> None:
    found = crop(ramp(60, 80), [10.0, 20.0, 50.0, 40.0], 20)[0]
    columns, rows = 10 + 2 * (torch.arange(20) + 0.5), 20 + (torch.arange(20) + 0.5)
    assert found.shape == (2, 20, 20)
    assert torch.allclose(found[0, 10, 2:-2], columns[2:-2], atol=1e-3)  # at its borders the filter of resizing is cut
    assert torch.allclose(found[1, :, 10], rows, atol=1e-3)


def test_context_is_about_the_centre_and_what_is_off_the_image_is_zero() -> None:
    found = crop(ramp(60, 80), [0.0, 20.0, 20.0, 40.0], 30, context=1.5)[0]
    columns = -5 + (torch.arange(30) + 0.5)
    assert torch.allclose(found[0, 15], columns.clamp(min=0), atol=1e-3)
    assert torch.allclose(found[1, :, 15], 15 + (torch.arange(30) + 0.5), atol=1e-3)


@pytest.fixture
def scene() -> Scene:
    """Squares of two colours on black, with the discs in them as masks."""
    image, boxes = torch.zeros(3, 48, 64, dtype=torch.uint8), torch.tensor([[8.0, 8, 24, 24], [32, 16, 56, 40]])
    image[0, 8:24, 8:24], image[1, 16:40, 32:56] = 200, 100
    x, y = ramp(48, 64)
    masks = torch.stack([(x - 16) ** 2 + (y - 16) ** 2 < 64, (x - 44) ** 2 + (y - 28) ** 2 < 144])
    zeros = torch.zeros(2, dtype=torch.int64)
    return Scene(image, boxes, zeros, zeros, zeros, "", False, over_boxes(masks))


def test_boxes_stay_on_their_things_all_ways_up(scene: Scene) -> None:
    found = all_ways_up(scene)
    assert len({(one.image.shape, one.image.numpy().tobytes()) for one in found}) == 8
    for one in found:
        assert torch.equal(boxes_of(one.image[:2] > 0), one.boxes_xyxy)
        assert one.photograph


def test_masks_turn_with_their_boxes() -> None:
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, 10:26, 20:28] = mask[0, 10:18, 28:44] = True  # an L
    zeros = torch.zeros(1, dtype=torch.int64)
    image = (255 * mask).byte().expand(3, -1, -1)
    for one in all_ways_up(Scene(image, boxes_of(mask), zeros, zeros, zeros, "", False, over_boxes(mask))):
        assert one.masks is not None
        assert torch.allclose(one.masks, over_boxes(one.image[:1] > 0), atol=1e-5)


@pytest.mark.parametrize("pool", ["", "one bin", "3 x 3 bins kept", "masked"])
def test_pools_of_an_enlarged_image_read_the_box(pool: str, scene: Scene) -> None:
    """On a map that is the position in the image, the mean over a box, or a disc in it, is its centre."""
    photo = Frame.image((48, 64))
    entered = photo.resize((96, 128))
    positions = ramp(24, 32)[None] * 2  # a map of stride 4 of the larger image, in pixels of the smaller
    found = POOLS[pool](positions, FeatureGrid((24, 32), (4.0, 4.0)), scene, entered)
    centres = (scene.boxes_xyxy[:, :2] + scene.boxes_xyxy[:, 2:]) / 2
    means = found.view(2, 2, -1).mean(2)
    assert torch.allclose(means, centres, atol=0.05)
