"""Outlines: against half-planes and pycocotools, seen from boxes, and what is none."""

import math

import numpy
import pytest
import torch

from roialign import Frame
from roialign.extraction import outlines
from roialign.extraction.outlines import OutlineInBox, read_outline

HEXAGON = [30.0, 2.0, 50.0, 9.0, 52.0, 30.0, 33.0, 38.0, 9.0, 28.0, 11.0, 7.0]


def grid(count=201, height=40, width=60):
    generator = torch.Generator().manual_seed(1)
    xs = torch.rand(count, generator=generator, dtype=torch.float64) * width
    return xs, torch.rand(count // 2, generator=generator, dtype=torch.float64) * height


def on_one_side(convex, xs, ys):
    """Points within a convex polygon are on the same side of all of its edges."""
    corners = list(zip(convex[0::2], convex[1::2], strict=True))
    sides = [
        (x1 - x0) * (ys[:, None] - y0) - (y1 - y0) * (xs - x0) > 0
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return torch.stack(sides).all(0) | ~torch.stack(sides).any(0)


def test_polygons_are_what_is_on_one_side_of_all_edges(monkeypatch):
    xs, ys = grid()
    other = [*HEXAGON[::-1]]  # x and y exchanged and the other way round
    for convex in (HEXAGON, [x for pair in zip(other[1::2], other[0::2], strict=True) for x in pair]):
        expected = on_one_side(convex, xs, ys)
        assert 0.2 < expected.double().mean() < 0.8
        assert torch.equal(read_outline([convex], (40, 60), False).covers(xs, ys), expected)
    monkeypatch.setattr(outlines, "_MOST_CROSSINGS", 20)
    assert torch.equal(read_outline([HEXAGON], (40, 60), False).covers(xs, ys), on_one_side(HEXAGON, xs, ys))


def test_parts_add_up_where_they_overlap_too():
    xs, ys = grid()
    square = [20.0, 10.0, 58.0, 10.0, 58.0, 36.0, 20.0, 36.0]
    found = read_outline([HEXAGON, square, [1.0, 1.0, 50.0, 30.0]], (40, 60), False).covers(xs, ys)
    assert torch.equal(found, on_one_side(HEXAGON, xs, ys) | on_one_side(square, xs, ys))


def test_fractions_of_the_picture():
    xs, ys = grid()
    fractions = [value / (60, 40)[index % 2] for index, value in enumerate(HEXAGON)]
    assert torch.equal(read_outline([fractions], (40, 60), True).covers(xs, ys), on_one_side(HEXAGON, xs, ys))


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_are_those_of_pycocotools(seed):
    coco = pytest.importorskip("pycocotools.mask")
    generator = torch.Generator().manual_seed(seed)
    size_hw = ((40, 60), (1, 9), (300, 7))[seed % 3]
    runs = torch.rand(math.prod(size_hw), generator=generator).lt(0.5**seed).cumsum(0) % 2 == 1  # short and long
    mask = numpy.asfortranarray(runs.view(size_hw).numpy().astype("uint8"))
    compressed = coco.encode(mask)["counts"].decode("ascii")
    counts, before = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != before:
            counts.append(0)
        counts[-1] += 1
        before = pixel
    ys, xs = (torch.arange(-1, side + 1, dtype=torch.float64) + 0.5 for side in size_hw)
    expected = torch.nn.functional.pad(torch.from_numpy(mask), [1, 1, 1, 1]).bool()
    for form in (compressed, counts):
        found = read_outline({"size": list(size_hw), "counts": form}, size_hw, False)
        assert torch.equal(found.covers(xs, ys), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shares_are_those_of_the_turned_outline(orientation):
    stored = Frame.image((40, 60))
    upright = stored.exif_transpose(orientation).resize((80, 70))
    there = stored.map_to(upright)
    corners = torch.tensor(HEXAGON, dtype=torch.float64).view(-1, 2)
    moved = there.boxes(corners.repeat(1, 2))[:, :2].flatten().tolist()
    box_xyxy = (20.0, 13.0, 61.0, 70.0)
    seen = OutlineInBox(read_outline([HEXAGON], (40, 60), False), box_xyxy, upright.map_to(stored))
    alone = OutlineInBox(read_outline([moved], (80, 70), False), box_xyxy, upright.map_to(upright))
    assert torch.equal(seen.shares(5, 9), alone.shares(5, 9))
    assert seen.shares(5, 9).unique().numel() > 3


def test_shares_of_very_many_cells():
    triangle = read_outline([[0, 0, 10, 0, 0, 10]], (10, 10), False)
    frame = Frame.image((10, 10))
    seen = OutlineInBox(triangle, (0.0, 0.0, 10.0, 10.0), frame.map_to(frame))
    for rows, columns in ((1, 1), (7, 14), (3000, 2)):
        assert seen.shares(rows, columns).shape == (rows, columns)
        assert seen.shares(rows, columns).mean().item() == pytest.approx(0.5, abs=0.13)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, r"expected polygons \[\[x, y.*run lengths \{size, counts\}; got 3"),
        ([1.0, 2.0, 3.0, 4.0], r"expected polygons .*; got \[1\.0, 2\.0, 3\.0, 4\.0\]"),
        ([[1, 2, 3]], r"expected the points of a polygon as x, y, x, y, \.\.\., finite; got \[1, 2, 3\]"),
        ([[1, 2, 3, math.nan, 5, 6]], r"expected the points of a polygon"),
        ([["a", 2]], r"expected polygons .*; got \['a', 2\]"),
        ({}, r"expected run lengths of the annotated picture, 4 x 3; got those of None"),
        ({"size": [3, 4], "counts": [12]}, r"picture, 4 x 3; got those of \[3, 4\]"),
        ({"size": [4, 3], "counts": [11]}, r"expected counts of 12 pixels; got those of 11"),
        (
            {"size": [4, 3], "counts": [-1, 13]},
            r"expected counts of run lengths, whole numbers from 0 on; got \[-1, 13\]",
        ),
        ({"size": [4, 3], "counts": [12.0]}, r"whole numbers"),
        ({"size": [4, 3], "counts": None}, r"whole numbers from 0 on; got None"),
        ({"size": [4, 3], "counts": "\U0001f600"}, r"expected counts of "),
    ],
)
def test_what_is_no_outline(given, words):
    with pytest.raises(ValueError, match=words):
        read_outline(given, (4, 3), False)
