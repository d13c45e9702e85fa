"""Frames: their maps against arithmetic by hand, identities of chains, what is one frame, and what is refused."""

import copy
import json
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roialign.errors import FrameError
from roialign.geometry import AxisMap, Boxes, Frame

from . import chains

PHOTO = Frame.image((480, 640), name="photo")
NAN = float("nan")

# The box (100, 50, 300, 250) of a 480 x 640 photo, step by step, worked out by hand.
BY_HAND = {
    "resize": (PHOTO.resize((960, 320)), (960, 320), (50, 100, 150, 500)),
    "pad": (PHOTO.pad(left=1, top=2, right=3, bottom=4), (486, 644), (101, 52, 301, 252)),
    "crop": (PHOTO.crop(top=40, left=90, height=100, width=110), (100, 110), (10, 10, 210, 210)),
    "crop outside": (PHOTO.crop(top=-40, left=-90, height=700, width=900), (700, 900), (190, 90, 390, 290)),
    "flip horizontally": (PHOTO.flip_horizontal(), (480, 640), (340, 50, 540, 250)),
    "flip vertically": (PHOTO.flip_vertical(), (480, 640), (100, 230, 300, 430)),
    "normalize": (PHOTO.normalize(), (1, 1), (100 / 640, 50 / 480, 300 / 640, 250 / 480)),
    "affine": (PHOTO.affine((9, 9), (-2.0, 0.5), (7.0, -1.0)), (9, 9), (49, -493, 149, -93)),
    "letterbox": (PHOTO.letterbox((320, 320)), (320, 320), (50, 65, 150, 165)),
    "letterbox, odd": (PHOTO.letterbox((321, 320)), (321, 320), (50, 65, 150, 165)),
    "letterbox, bottom right": (PHOTO.letterbox((320, 320), "bottom_right"), (320, 320), (50, 25, 150, 125)),
    "letterbox, exact": (PHOTO.letterbox((250, 330), (5, 6, 5, 4)), (250, 330), (55, 31, 155, 131)),
    "letterbox, not enlarged": (PHOTO.letterbox((960, 960), upscale=False), (960, 960), (260, 290, 460, 490)),
    "resize_shorter": (PHOTO.resize_shorter(240), (240, 320), (50, 25, 150, 125)),
    "resize_longer": (PHOTO.resize_longer(320), (240, 320), (50, 25, 150, 125)),
}


@pytest.mark.parametrize(("frame", "size_hw", "box"), BY_HAND.values(), ids=BY_HAND)
def test_each_step_by_hand(frame, size_hw, box):
    assert frame.size_hw == size_hw
    found = Boxes([[100, 50, 300, 250]], PHOTO).to(frame).boxes_xyxy
    assert found.tolist()[0] == pytest.approx(box, abs=1e-5)


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((480, 640), (800, 1066)), ((333, 500), (800, 1201)), ((600, 1200), (666, 1333)), ((1200, 600), (1333, 666))],
)
def test_shorter_side_is_floored_as_torchvision_does(size_hw, expected):
    from torchvision.transforms import v2

    assert Frame.image(size_hw).resize_shorter(800, max_size=1333).size_hw == expected
    assert tuple(v2.Resize(800, max_size=1333)(torch.zeros(1, *size_hw)).shape[1:]) == expected


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.tuples(st.integers(8, 4000), st.integers(8, 4000)), st.integers(16, 900), st.integers(901, 1500))
def test_the_rules_of_detectron2_and_segment_anything(size_hw, size, max_size):
    height, width = size_hw
    scale = size / min(size_hw)  # detectron2's ResizeShortestEdge, in its own order
    wanted = [size, scale * width] if height < width else [scale * height, size]
    if max(wanted) > max_size:
        wanted = [side * (max_size / max(wanted)) for side in wanted]
    found = Frame.image(size_hw).resize_shorter(size, max_size, rounding="half_up")
    # its floats may fall on the other side of a half
    assert all(abs(side - exact) <= 0.5 + 1e-9 for side, exact in zip(found.size_hw, wanted, strict=True))
    wanted = [side * max_size / max(size_hw) for side in size_hw]
    found = Frame.image(size_hw).resize_longer(max_size)
    assert all(abs(side - max(exact, 1)) <= 0.5 + 1e-9 for side, exact in zip(found.size_hw, wanted, strict=True))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(st.data())
def test_there_and_back_again_is_exact(data):
    root = Frame.image(data.draw(chains.SIZES))
    start = data.draw(chains.chains(root, longest=3))
    end = data.draw(chains.chains(start))
    boxes = Boxes(data.draw(chains.boxes_in(start)), start)
    assert boxes.dtype == torch.float32
    assert torch.equal(boxes.to(end).to(start).boxes_xyxy, boxes.boxes_xyxy)
    for frame in reversed(end.chain):
        boxes_on_the_way = boxes.to(end).to(frame)
    assert torch.equal(boxes_on_the_way.to(start).boxes_xyxy, boxes.boxes_xyxy)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_numbers_taken_out_and_put_in_again_lose_only_their_rounding(data):
    root = Frame.image(data.draw(chains.SIZES))
    end = data.draw(chains.chains(root))
    boxes = Boxes(data.draw(chains.boxes_in(root)), root)
    numbers = boxes.to(end).boxes_xyxy
    back = Boxes(numbers, end).to(root).boxes_xyxy.double()
    half_ulp = 2.0**-24  # of the numbers in `end`, seen from `root`, and of the result
    scale_y, scale_x = end.map_to(root).scale_yx
    numbers = numbers[:, [1, 0, 3, 2]] if end.map_to(root).transposed else numbers
    seen = numbers.double().abs() * torch.tensor([abs(scale_x), abs(scale_y)] * 2, dtype=torch.float64)
    if end.map_to(root).scale_yx[0] < 0 or end.map_to(root).scale_yx[1] < 0:
        seen = seen.amax(1, keepdim=True).maximum(seen)  # a flip swaps edges
    allowed = 1e-9 + 1.01 * half_ulp * (seen + boxes.boxes_xyxy.double().abs())
    assert ((back - boxes.boxes_xyxy.double()).abs() <= allowed).all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_float64_numbers_taken_out_and_put_in_again_are_good_to_a_ten_thousandth(data):
    root = Frame.image(data.draw(chains.SIZES))
    end = data.draw(chains.chains(root))
    boxes = Boxes(torch.tensor(data.draw(chains.boxes_in(root)), dtype=torch.float64), root)
    back = Boxes(boxes.to(end).boxes_xyxy, end).to(root).boxes_xyxy
    assert (back - boxes.boxes_xyxy).abs().max() <= 1e-4


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_maps_compose(data):
    root = Frame.image(data.draw(chains.SIZES))
    a, b, c = (data.draw(chains.chains(root, longest=4)) for _ in range(3))
    boxes = Boxes(data.draw(chains.boxes_in(a)), a)
    assert torch.equal(boxes.to(b).to(c).boxes_xyxy, boxes.to(c).boxes_xyxy)
    first, second, direct = a.map_to(b), b.map_to(c), a.map_to(c)
    for axis in (0, 1):
        before = 1 - axis if second.transposed else axis
        composed = Fraction(first.scale_yx[before]) * Fraction(second.scale_yx[axis])
        assert float(composed) == pytest.approx(direct.scale_yx[axis], rel=1e-14)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.data())
def test_the_whole_frame_goes_with_a_resize_and_a_flip(data):
    frame = data.draw(chains.chains(Frame.image(data.draw(chains.SIZES)), longest=3))
    height, width = frame.size_hw
    whole = Boxes([[0, 0, width, height]], frame)
    for after in (frame.resize((37, 53)), frame.flip_horizontal(), frame.flip_vertical(), frame.normalize()):
        expected = [0, 0, after.size_hw[1], after.size_hw[0]]
        assert whole.to(after).boxes_xyxy.tolist() == [expected]


def test_an_image_is_only_itself_and_its_copies():
    image = Frame.image((480, 640))
    assert image != Frame.image((480, 640))
    assert not image.is_connected(Frame.image((480, 640)))
    for twin in (copy.copy(image), copy.deepcopy(image), pickle.loads(pickle.dumps(image))):
        assert twin == image
        assert hash(twin) == hash(image)
        assert twin.resize((9, 9)).map_to(image.pad(1, 1, 1, 1)) == image.resize((9, 9)).map_to(image.pad(1, 1, 1, 1))


def test_frames_are_what_their_steps_do():
    assert PHOTO.pad(0, 0, 0, 32).size_hw == (512, 640)
    assert PHOTO.pad(0, 0, 0, 32) == PHOTO.crop(0, 0, 512, 640)
    assert PHOTO.resize((512, 640)) != PHOTO.pad(0, 0, 0, 32)
    assert PHOTO.flip_vertical().flip_vertical() != PHOTO
    assert len({PHOTO.resize((9, 9)), PHOTO.resize((9, 9)), PHOTO.resize((9, 8))}) == 2


def test_an_id_makes_the_same_image_again_and_a_name_does_not():
    assert Frame.image((4, 5), id="a.jpg", name="x") == Frame.image((4, 5), id="a.jpg", name="y")
    assert Frame.image((4, 5), id="a.jpg") != Frame.image((5, 4), id="a.jpg")
    assert Frame.image((4, 5), name="a.jpg") != Frame.image((4, 5), name="a.jpg")


def test_a_loader_of_two_processes_sends_frames_that_stay_connected():
    images = [Frame.image((480, 640)), Frame.image((480, 640))]
    loader = torch.utils.data.DataLoader(_Frames(images), batch_size=None, num_workers=2)
    for image, frame in zip(images, loader, strict=True):
        assert frame.map_to(image) == AxisMap((0.5, 0.5), (0.0, 0.0))
        assert frame.root == image


class _Frames(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index].resize((960, 1280))


def test_words():
    frame = PHOTO.resize((800, 1066)).pad(0, 0, 22, 0)
    assert str(frame) == "photo 480x640 > resize 800x1066 > pad 800x1088"
    assert repr(frame) == f"Frame({frame})"
    assert frame.root is PHOTO
    assert frame.parent.parent is PHOTO
    assert frame.chain == (PHOTO, frame.parent, frame)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.data())
def test_a_record_in_json_makes_an_equal_frame(data):
    frame = data.draw(chains.chains(Frame.image((480, 640), name="photo")))
    again = Frame.from_dict(json.loads(json.dumps(frame.to_dict())))
    assert again == frame
    assert str(again) == str(frame)


def test_no_path_is_an_error_that_names_both_images():
    other = Frame.image((480, 640), name="crop", id="b.jpg")
    words = (
        r"^RA107: .*\[photo 480x640 > resize 9x9\] and \[crop 480x640\].*ids '[0-9a-f]{32}' and 'b.jpg'"
        r", though of the same size\. Make both from one frame"
    )
    with pytest.raises(FrameError, match=words):
        PHOTO.resize((9, 9)).map_to(other)
    with pytest.raises(FrameError, match=words):
        Boxes([[0, 0, 1, 1]], PHOTO.resize((9, 9))).to(other)


def test_steps_may_be_given_as_numbers_of_any_library():
    numbers = (np.float32(0.5), torch.tensor(0.25))
    assert PHOTO.affine((240, 160), numbers, (np.int64(1), 0)).map_to(PHOTO).scale_yx == (2.0, 4.0)
    assert Frame.image(torch.zeros(3, 480, 640).shape[-2:]).size_hw == (480, 640)
    assert Frame.image(np.array([480, 640])).resize([np.int32(9), torch.tensor(8)]).size_hw == (9, 8)


REFUSED = {
    "one side": (lambda: Frame.image(640), r"\(height, width\) .*got 640\. .*image\.shape\[-2:\]"),
    "three sides": (lambda: Frame.image((3, 480, 640)), r"got \(3, 480, 640\)"),
    "no pixels": (lambda: Frame.image((0, 640)), r"above zero .*got \(0, 640\)"),
    "halves": (lambda: PHOTO.resize((240.5, 320)), r"to resize to; got \(240\.5, 320\)"),
    "all cropped": (lambda: PHOTO.pad(0, -480, 0, 0), r"after pad; got \(0, 640\)"),
    "zero scale": (lambda: PHOTO.affine((9, 9), (0.0, 1.0), (0, 0)), r"scales other than zero.*\(0\.0, 1\.0\)"),
    "infinite shift": (lambda: PHOTO.affine((9, 9), (1, 1), (float("inf"), 0)), r"finite shifts; got .*\(inf, 0\)"),
    "NaN": (lambda: PHOTO.affine((9, 9), (1, float("nan")), (0, 0)), r"finite scales.*\(1, nan\)"),
    "letterbox": (lambda: PHOTO.letterbox((9, 9), "top"), r'"center", "bottom_right" or .*got \'top\''),
    "padding of three": (lambda: PHOTO.letterbox((9, 9), (1, 2, 3)), r"bottom\) in whole pixels; got \(1, 2, 3\)"),
    "padding of NaN": (lambda: PHOTO.letterbox((9, 9), (NAN, 0, 0, 0)), r"in whole pixels; got \(nan, 0, 0, 0\)"),
    "a half": (lambda: Frame.image((1.5, 1)), r"got \(1\.5, 1\)"),
    "bools": (lambda: Frame.image((True, True)), r"got \(True, True\)"),
    "a bool of torch": (lambda: Frame.image((torch.tensor(True), 4)), r"got \(tensor\(True\), 4\)"),
    "NaN size": (lambda: Frame.image((NAN, 4)), r"got \(nan, 4\)"),
    "text": (lambda: Frame.image("48"), r"got '48'"),
    "no size": (lambda: Frame.image(None), r"got None"),
    "too large": (lambda: Frame.image((2**31, 4)), r"got \(2147483648, 4\)"),
    "thousands of digits": (lambda: Frame.image((10**5000, 4)), r"got a tuple"),
    "name": (lambda: Frame.image((3, 4), name=None), r"expected name, a str; got None"),
    "id": (lambda: Frame.image((3, 4), id=7), r"expected id, a str; got 7\. Use str"),
    "parent": (lambda: Frame((3, 4), parent="x"), r"expected a Frame; got 'x'"),
    "rounding": (lambda: PHOTO.resize_shorter(9, rounding="x"), r"rounding, one of \"floor\".*; got 'x'"),
    "rounding of longer": (lambda: PHOTO.resize_longer(9, rounding=None), r"rounding, one of .*; got None"),
    "rounding of letterbox": (lambda: PHOTO.letterbox((9, 9), rounding=["floor"]), r"rounding, .*; got \['floor'\]"),
    "half a side": (lambda: PHOTO.resize_shorter(9.5), r"expected size, a side in whole pixels; got 9\.5"),
    "no side": (lambda: PHOTO.resize_longer(0), r"expected size, .*; got 0"),
    "NaN at most": (lambda: PHOTO.resize_shorter(9, max_size=NAN), r"expected max_size, .*; got nan"),
    "half a pad": (lambda: PHOTO.pad(0.5, 0, 0, 0), r"left, top, right, bottom in whole pixels; got \(0\.5, 0, 0, 0\)"),
    "NaN crop": (lambda: PHOTO.crop(NAN, 0, 1, 1), r"top, left, height, width in whole pixels; got \(nan, 0, 1, 1\)"),
    "crop of nothing": (lambda: PHOTO.crop(None, 0, 1, 1), r"in whole pixels; got \(None, 0, 1, 1\)"),
    "one scale": (lambda: PHOTO.affine((9, 9), 2.0, (0, 0)), r"scale_yx=2\.0"),
    "scales in text": (lambda: PHOTO.affine((9, 9), "12", (0, 0)), r"scale_yx='12'"),
    "a scale below float64": (lambda: PHOTO.affine((9, 9), (Fraction(1, 10**400), 1), (0, 0)), r"finite scales"),
    "a shift past float64": (lambda: PHOTO.affine((9, 9), (1, 1), (10**400, 0)), r"finite shifts"),
    "map to nothing": (lambda: PHOTO.map_to(None), r"expected a Frame; got None"),
    "connected to nothing": (lambda: PHOTO.is_connected("x"), r"expected a Frame; got 'x'"),
}


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(call, words):
    with pytest.raises(FrameError, match=f"^RA107: .*{words}"):
        call()


RECORD = PHOTO.resize((9, 9)).exif_transpose(6).to_dict()
TORN = {
    "no dict": (None, r"got None for a frame"),
    "nothing": ({}, r"got a frame without 'size_hw'"),
    "id": ({**RECORD, "id": 3}, r"got a frame whose id is 3"),
    "size": ({**RECORD, "size_hw": [480.5, 640]}, r"\(height, width\) .*got \[480\.5, 640\]"),
    "no steps": ({key: RECORD[key] for key in ("id", "name", "size_hw")}, r"got a frame without 'steps'"),
    "steps": ({**RECORD, "steps": None}, r"got a frame whose steps is None"),
    "a step": ({**RECORD, "steps": ["x"]}, r"got 'x' for a step"),
}
STEP = {
    "through zero": ({"scale_yx": ["1/0", "1"]}, r"finite scales .*scale_yx=\['1/0', Fraction\(1, 1\)\]"),
    "zero": ({"scale_yx": ["0", "1"]}, r"finite scales other than zero"),
    "huge power": ({"shift_yx": ["1e99999999", "0"]}, r"finite shifts.*'1e99999999'"),
    "NaN in text": ({"shift_yx": ["nan", "0"]}, r"finite shifts.*'nan'"),
    "NaN": ({"shift_yx": [NAN, "0"]}, r"finite shifts.*nan"),
    "one": ({"shift_yx": ["0"]}, r"finite shifts"),
    "none": ({"shift_yx": None}, r"a step whose shift_yx is None"),
    "past float64": ({"scale_yx": ["9" * 400, "1"]}, r"finite scales"),
    "turned": ({"transposed": "yes"}, r"a step whose transposed is 'yes'"),
    "step's size": ({"size_hw": None}, r"after exif orientation 6; got None"),
    "step's name": ({"name": None}, r"a step whose name is None"),
}
TORN |= {key: ({**RECORD, "steps": [{**RECORD["steps"][1], **torn}]}, words) for key, (torn, words) in STEP.items()}


@pytest.mark.parametrize(("record", "words"), TORN.values(), ids=TORN)
def test_torn_records_are_refused(record, words):
    with pytest.raises(FrameError, match=f"^RA107: .*{words}"):
        Frame.from_dict(record)


def test_records_of_numbers_and_of_before_there_were_turns_are_read():
    step = {"name": "affine", "size_hw": [9, 9], "scale_yx": [0.5, 2], "shift_yx": ["-1/3", "0"]}
    frame = Frame.from_dict({"id": "a", "name": "b", "size_hw": [3, 4], "steps": [step]})
    assert frame == Frame.image((3, 4), id="a").affine((9, 9), (0.5, 2.0), (Fraction(-1, 3), 0))


def test_frames_cannot_be_changed():
    with pytest.raises(AttributeError):
        PHOTO.size_hw = (1, 1)
    assert re.fullmatch("[0-9a-f]{32}", PHOTO.id)
