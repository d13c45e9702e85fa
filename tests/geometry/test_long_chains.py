"""Chains of thousands of steps: nothing recurses, nothing is composed twice, and maps stay exact."""

import copy
import inspect
import json
import pickle
import random
import sys
import time
from fractions import Fraction

import pytest
import torch

from roialign.errors import FrameError
from roialign.geometry import AxisMap, Boxes, Frame

STEPS = 4000
ROOT = Frame.image((480, 640), name="photo", id="a.jpg")


def alternating(root: Frame = ROOT) -> Frame:
    frame = root
    for step in range(STEPS):
        frame = frame.resize((480, 640) if step % 2 else (600, 800))
    return frame


@pytest.fixture(scope="module")
def long() -> Frame:
    return alternating()


def test_copies_and_pickles(long):
    assert copy.copy(long) is long
    assert copy.deepcopy({"frame": long})["frame"] is long
    again = pickle.loads(pickle.dumps(long))
    assert again == long
    assert hash(again) == hash(long)
    assert len(again.chain) == STEPS + 1
    assert again.root == ROOT
    assert Frame.from_dict(json.loads(json.dumps(long.to_dict()))) == long


def test_equality_looks_at_every_step(long):
    other = alternating(Frame.image((480, 640), id="a.jpg"))
    assert other == long
    assert len({other, long}) == 1
    assert alternating(Frame.image((480, 640), id="b.jpg")) != long
    assert alternating(ROOT.resize((9, 9)).resize((480, 640))) != long
    assert long.parent != long


def test_equality_does_not_rest_on_the_hash():
    one, two, three = ROOT.resize((9, 9)), ROOT.resize((9, 8)), ROOT.resize((7, 9)).resize((9, 9))
    for frame in (two, three):
        object.__setattr__(frame, "_hash", hash(one))
        assert one != frame
        assert frame != one


def test_words_are_of_a_length_that_can_be_read(long):
    assert str(long).startswith("photo 480x640 > resize 600x800 > ")
    assert str(long).endswith(" > resize 600x800 > resize 480x640")
    assert " > (3981 more) > " in str(long)
    assert repr(long) == f"Frame({long})"
    assert len(long._repr_html_()) < 20_000
    assert str(ROOT.resize((9, 9))) == "photo 480x640 > resize 9x9"
    with pytest.raises(FrameError) as raised:
        long.map_to(Frame.image((480, 640)))
    assert len(str(raised.value)) < 2000


def test_maps_are_exact_however_long_the_chain():
    numbers = random.Random(0)
    frame, scale, shift = ROOT, Fraction(1), Fraction(0)
    for _ in range(300):
        width = numbers.randint(300, 900)
        frame = frame.pad(3, 0, 4, 0).resize((480, width))
        scale, shift = (part * Fraction(width, frame.parent.size_hw[1]) for part in (scale, shift + 3))
    assert ROOT.map_to(frame) == AxisMap((1.0, float(scale)), (0.0, float(shift)))
    assert frame.map_to(ROOT) == AxisMap((1.0, float(1 / scale)), (0.0, float(-shift / scale)))
    boxes = Boxes(torch.tensor([[100.0, 50.0, 300.0, 250.0]]), ROOT)
    assert torch.equal(boxes.to(frame).to(ROOT).boxes_xyxy, boxes.boxes_xyxy)


def test_flips_and_turns_of_thousands_of_steps():
    frame = ROOT
    for step in range(2000):
        frame = frame.exif_transpose(6) if step % 2 else frame.flip_horizontal()
    for step in reversed(range(2000)):
        frame = frame.exif_transpose(8) if step % 2 else frame.flip_horizontal()
    assert frame.map_to(ROOT) == AxisMap((1.0, 1.0), (0.0, 0.0))
    assert frame != ROOT


def test_a_map_is_composed_once(long):
    frame = alternating()
    began = time.perf_counter()
    frame.map_to(ROOT)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(20):
        assert frame.map_to(ROOT) == AxisMap((1.0, 1.0), (0.0, 0.0))
    assert time.perf_counter() - began < first
    began = time.perf_counter()
    for _ in range(20):
        frame.resize((9, 9)).map_to(ROOT)
    assert time.perf_counter() - began < first, "onto what is known"


def test_a_chain_of_absurd_zooms_is_refused_when_float64_cannot_hold_it():
    frame = ROOT
    for _ in range(40):
        frame = frame.affine((9, 9), (1e10, 1.0), (0.0, 0.0))
    for ends in ((ROOT, frame), (frame, ROOT)):
        with pytest.raises(FrameError, match=r"^RA107: expected a map that float64 can hold; got one from \[photo"):
            ends[0].map_to(ends[1])
    assert frame.map_to(frame.parent).scale_yx == (1e-10, 1.0)


def test_nothing_recurses(long):
    limit = sys.getrecursionlimit()
    depth = len(inspect.stack(0))
    sys.setrecursionlimit(depth + 60)
    try:
        frame = alternating()
        assert pickle.loads(pickle.dumps(frame)) == long
        assert frame.root is ROOT
        assert frame.map_to(long) == AxisMap((1.0, 1.0), (0.0, 0.0))
        del frame
    finally:
        sys.setrecursionlimit(limit)
