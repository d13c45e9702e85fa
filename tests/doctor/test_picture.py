"""Whether boxes follow a picture: drawn ones do, others do not, and nothing breaks it."""

import math
import os
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from torch import Tensor

from roialign.doctor.picture import Edges

BLOOD = os.environ.get("BCCD")


def scene(seed: int, things: int = 12, size_hw: tuple[int, int] = (360, 480)) -> tuple[Tensor, Tensor]:
    """A picture [3, H, W] of rectangles and ellipses on a textured ground, and boxes drawn around them by hand."""
    draws = torch.Generator().manual_seed(seed)
    height, width = size_hw
    coarse = torch.rand(1, 3, height // 12, width // 12, generator=draws)
    picture = torch.nn.functional.interpolate(coarse, size_hw, mode="bicubic")[0] * 0.5
    picture = picture + 0.15 * torch.rand(3, height, width, generator=draws)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    boxes = []
    for index in range(things):
        half = torch.rand(2, generator=draws) * 25 + 12
        centre = half + torch.rand(2, generator=draws) * (torch.tensor([width, height]) - 2 * half)
        across, down = (x - centre[0]) / half[0], (y - centre[1]) / half[1]
        inside = torch.hypot(across, down) < 1 if index % 2 else torch.maximum(across.abs(), down.abs()) < 1
        colour = 0.5 + 0.4 * torch.rand(3, 1, generator=draws)
        picture[:, inside] = colour + 0.1 * torch.rand(3, int(inside.sum()), generator=draws)
        boxes.append(torch.cat([centre - half, centre + half]))
    drawn = torch.stack(boxes)
    return picture, drawn + torch.randn(drawn.shape, generator=draws) * 1.5


def unrelated(seed: int, count: int, size_hw: tuple[int, int]) -> Tensor:
    """Boxes [count, 4] anywhere."""
    draws = torch.Generator().manual_seed(1000 + seed)
    limits = torch.tensor([size_hw[1], size_hw[0]])
    size = 24 + 50 * torch.rand(count, 2, generator=draws)
    corner = torch.rand(count, 2, generator=draws) * (limits - size)
    return torch.cat([corner, corner + size], 1)


def faulty(boxes: Tensor, size_hw: tuple[int, int]) -> dict[str, Tensor]:
    """The same boxes, read wrongly."""
    height, width = size_hw
    return {
        "y first": boxes[:, [1, 0, 3, 2]],
        "mirrored": torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        "upside down": torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1),
        "scaled": boxes * 0.6,
        "shifted": boxes + 16,
    }


def test_drawn_boxes_are_told_from_the_same_boxes_read_wrongly() -> None:
    missed = []
    for seed in range(10):
        picture, boxes = scene(seed)
        wrong = faulty(boxes, (360, 480))
        right, *others = Edges.of(picture).follow(torch.stack([boxes, *wrong.values()])).tolist()
        missed += [
            (seed, name, right, other)
            for name, other in zip(wrong, others, strict=True)
            if right < other + math.log(20)
        ]
    assert not missed, f"drawn boxes should be 20 times as likely as the same read wrongly: {missed}"


@pytest.mark.parametrize("count", [1, 3, 8, 15])
def test_unrelated_boxes_rarely_seem_drawn(count: int) -> None:
    ratios = []
    for seed in range(20):
        picture, _ = scene(seed)
        ratios.append(Edges.of(picture).follow(torch.stack([unrelated(try_, count, (360, 480)) for try_ in range(40)])))
    found = torch.cat(ratios)
    assert float((found > math.log(20)).float().mean()) < 0.05
    assert float((found > math.log(400)).float().mean()) < 0.0025
    assert float(found.median()) < 0


def test_more_boxes_say_more() -> None:
    few, many = (
        torch.stack(
            [Edges.of(picture).follow(boxes[None, :count])[0] for picture, boxes in map(scene, range(8))]
        ).mean()
        for count in (1, 12)
    )
    assert many > few + 1, f"one box gives {few:.1f}, twelve give {many:.1f}"


def test_a_dense_grid_follows_nothing() -> None:
    y, x = torch.meshgrid(torch.arange(6) * 60.0, torch.arange(8) * 60.0, indexing="ij")
    corner = torch.stack([x, y], -1).view(-1, 2)
    grid = torch.cat([corner, corner + 60], 1)
    for seed in range(10):
        picture, _ = scene(seed)
        found = Edges.of(picture).follow(torch.stack([grid, *faulty(grid, (360, 480)).values()]))
        assert float(found.max()) < math.log(20), f"picture {seed}: {found.tolist()}"


def test_lines_of_text_are_told_from_the_empty_half_of_their_page() -> None:
    draws = torch.Generator().manual_seed(0)
    page = torch.ones(1, 600, 400)
    rows = []
    for top in range(40, 280, 22):
        right = 60 + 20 * int(torch.randint(5, 15, (), generator=draws))
        page[:, top : top + 12, 40:right] = torch.rand(1, 12, right - 40, generator=draws).round()
        rows.append([40.0, top, right, top + 12])
    boxes = torch.tensor(rows)
    right_way, upside_down = Edges.of(page).follow(torch.stack([boxes, faulty(boxes, (600, 400))["upside down"]]))
    assert right_way > upside_down + math.log(400)


def test_hypotheses_do_not_depend_on_one_another() -> None:
    picture, boxes = scene(3)
    edges = Edges.of(picture)
    hypotheses = torch.stack([boxes, *faulty(boxes, (360, 480)).values(), boxes * 40, boxes - 5000])
    one_by_one = torch.cat([edges.follow(one[None]) for one in hypotheses])
    assert torch.allclose(edges.follow(hypotheses), one_by_one, atol=1e-5)


def test_corners_may_come_in_any_order() -> None:
    picture, boxes = scene(4)
    first, second = Edges.of(picture).follow(torch.stack([boxes, boxes[:, [2, 1, 0, 3]]]))
    assert first == second


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_type_range_and_number_of_channels(dtype: torch.dtype, channels: int) -> None:
    picture, boxes = scene(5)
    some = torch.cat([picture, picture[:1]])[:channels]
    some = (some * 200).to(dtype) if dtype == torch.uint8 else ((some - 0.4) * 3).to(dtype)
    right, wrong = Edges.of(some).follow(torch.stack([boxes, boxes[:, [1, 0, 3, 2]]]))
    assert right > wrong + math.log(20)


def test_a_large_picture_is_looked_at_from_further_away() -> None:
    picture, boxes = scene(6)
    large = torch.nn.functional.interpolate(picture[None], scale_factor=5, mode="bilinear")[0]
    edges = Edges.of(large)
    assert math.prod(edges.size_hw) <= 330_000
    right, wrong = edges.follow(torch.stack([boxes * 5, boxes[:, [1, 0, 3, 2]] * 5]))
    assert right > wrong + math.log(20)


NOTHING_TO_SEE = {
    "one colour": torch.full((3, 90, 120), 0.3),
    "one colour of half precision": torch.full((3, 90, 120), 0.3, dtype=torch.float16),
    "nothing": torch.zeros(3, 90, 120),
    "one pixel": torch.rand(3, 1, 1),
    "a strip": torch.rand(3, 2, 400),
    "not a number": torch.full((3, 90, 120), math.nan),
}


@pytest.mark.parametrize("name", NOTHING_TO_SEE)
def test_where_there_is_nothing_to_see_nothing_is_said(name: str) -> None:
    boxes = torch.tensor([[[10.0, 10, 50, 60], [1, 2, 3, 4]]])
    assert Edges.of(NOTHING_TO_SEE[name]).follow(boxes).tolist() == [0.0]


STRANGE_BOXES = {
    "outside": [[-900.0, -900, -800, -850], [5000, 5000, 5100, 5200]],
    "around all of it": [[0.0, 0, 480, 360], [-1e7, -1e7, 1e7, 1e7]],
    "not finite": [[math.nan, 0, 10, 10], [math.inf, 0, -math.inf, 5]],
    "without size": [[50.0, 50, 50, 50], [100, 100, 100.5, 100.5]],
    "huge": [[-1e30, -1e30, 1e30, 1e30], [1e38, 1e38, 3e38, 3e38]],
}


@pytest.mark.parametrize("name", STRANGE_BOXES)
def test_boxes_without_two_sides_in_the_picture_say_nothing(name: str) -> None:
    picture, _ = scene(7)
    assert Edges.of(picture).follow(torch.tensor([STRANGE_BOXES[name]])).tolist() == [0.0]


def test_no_boxes_and_no_hypotheses() -> None:
    edges = Edges.of(scene(7)[0])
    assert edges.follow(torch.zeros(2, 0, 4)).tolist() == [0.0, 0.0]
    assert edges.follow(torch.zeros(0, 5, 4)).shape == (0,)


@pytest.mark.parametrize("side", [5, 8, 13])
def test_tiny_pictures_give_finite_numbers(side: int) -> None:
    picture = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    found = Edges.of(picture).follow(torch.rand(20, 6, 4, generator=torch.Generator().manual_seed(1)) * side)
    assert found.isfinite().all()


def test_sides_beyond_the_picture_do_not_count() -> None:
    picture, boxes = scene(8)
    left = float(boxes[:, [0, 2]].mean(1).median())
    cut, moved = picture[:, :, int(left) :], boxes - torch.tensor([int(left), 0, int(left), 0])
    wrong = faulty(moved, (360, cut.shape[2]))
    right, mirrored = Edges.of(cut).follow(torch.stack([moved, wrong["mirrored"]]))
    assert right > mirrored + math.log(20)


def test_a_look_costs_milliseconds() -> None:
    picture, boxes = scene(9, things=32, size_hw=(600, 800))
    edges, begin = Edges.of(picture), time.process_time()
    edges.follow(boxes.expand(100, -1, -1))
    assert time.process_time() - begin < 0.5, "100 hypotheses about 32 boxes take some 10 ms"


@pytest.mark.skipif(BLOOD is None, reason="needs the BCCD data set: BCCD=FOLDER")
def test_boxes_drawn_around_blood_cells() -> None:
    folder, hits, calls = Path(str(BLOOD)), 0, 0
    for path in sorted((folder / "Annotations").glob("*.xml"))[1:120:6]:
        rows = [
            [float(box.findtext(corner, "nan")) for corner in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.parse(path).iter("bndbox")
        ]
        photograph = Image.open(folder / "JPEGImages" / f"{path.stem}.jpg").convert("RGB")
        pixels = torch.frombuffer(bytearray(photograph.tobytes()), dtype=torch.uint8)
        image = pixels.view(photograph.height, photograph.width, 3).permute(2, 0, 1)
        boxes = torch.tensor(rows)
        if len(boxes) < 8:
            continue
        right, *others = Edges.of(image).follow(torch.stack([boxes, *faulty(boxes, (480, 640)).values()])).tolist()
        hits += sum(right > other + math.log(20) for other in others)
        calls += len(others)
    assert hits >= 0.95 * calls > 0, f"{hits} of {calls}"
