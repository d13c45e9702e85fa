"""Frames whose axes are exchanged, checked against the pixels that PIL turns."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from roialign.errors import FrameError
from roialign.geometry import AxisMap, Boxes, Frame
from roialign.regions.images import render

from . import chains

STORED = Frame.image((20, 33), name="stored")
BOX = [5, 3, 21, 9]
ORIENTATIONS = range(1, 9)


def painted(orientation: int) -> Image.Image:
    """A black picture with BOX in white, read from a file that says this orientation."""
    pixels = np.zeros(STORED.size_hw, np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "png", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_go_where_pil_turns_the_pixels(orientation):
    picture = painted(orientation)
    turned = ImageOps.exif_transpose(picture)
    upright = STORED.exif_transpose(orientation)
    assert upright.size_hw == (turned.height, turned.width)
    boxes = Boxes([BOX], STORED).to(upright)
    assert boxes.boxes_xyxy.tolist() == [list(turned.getbbox())]
    assert Boxes(boxes.boxes_xyxy, upright).to(STORED).boxes_xyxy.tolist() == [BOX]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_rendered_as_pil_turns_them(orientation):
    picture = painted(orientation)
    stored = torch.from_numpy(np.array(picture))[None]
    turned = torch.from_numpy(np.array(ImageOps.exif_transpose(picture)))[None]
    upright = STORED.exif_transpose(orientation)
    assert torch.equal(render(stored, STORED, upright), turned)
    resized = upright.resize((40, 50))
    expected = torch.nn.functional.interpolate(turned[None].float(), (40, 50), mode="bilinear", antialias=True)[0]
    assert torch.equal(render(stored.float(), STORED, resized), expected)


def test_an_upright_image_is_its_own_frame():
    assert STORED.exif_transpose(1) is STORED


def test_words_and_numbers():
    upright = STORED.resize((40, 33)).exif_transpose(6)
    assert str(upright) == "stored 20x33 > resize 40x33 > exif orientation 6 33x40"
    assert STORED.map_to(upright) == AxisMap((1.0, -2.0), (0.0, 40.0), transposed=True)
    assert upright.map_to(STORED) == AxisMap((-0.5, 1.0), (20.0, 0.0), transposed=True)
    assert repr(STORED.map_to(upright)) == "AxisMap(scale_yx=(1.0, -2.0), shift_yx=(0.0, 40.0), transposed=True)"
    assert upright.map_to(upright.transpose().transpose()) == AxisMap((1.0, 1.0), (0.0, 0.0))
    assert ">40 - y<" in upright._repr_html_()
    assert ">x<" in upright._repr_html_()


def test_turned_frames_are_what_their_steps_do():
    square = Frame.image((9, 9))
    assert square.transpose() == square.exif_transpose(5)
    assert hash(square.transpose()) == hash(square.exif_transpose(5))
    assert square.transpose() != square.affine((9, 9), (1, 1), (0, 0))
    assert len({square.exif_transpose(orientation) for orientation in ORIENTATIONS}) == 8


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_there_and_back_again_is_exact_and_maps_compose(data):
    root = Frame.image(data.draw(chains.SIZES))
    start, end = (data.draw(chains.chains(root)) for _ in range(2))
    boxes = Boxes(data.draw(chains.boxes_in(start)), start)
    assert torch.equal(boxes.to(end).to(start).boxes_xyxy, boxes.boxes_xyxy)
    turned = end.exif_transpose(data.draw(st.integers(5, 8)))
    assert start.map_to(turned).transposed is not start.map_to(end).transposed
    found = Boxes(boxes.to(turned).boxes_xyxy.double(), turned).to(end).boxes_xyxy
    largest = 1 + float(found.abs().max())
    assert float((found - boxes.to(end).boxes_xyxy.double()).abs().max()) <= 2.0**-20 * largest
    again = Frame.from_dict(json.loads(json.dumps(turned.to_dict())))
    assert again == turned
    assert str(again) == str(turned)


@pytest.mark.parametrize("orientation", [0, 9, -1, 1.5, True, None, "6", float("nan"), [6]])
def test_other_orientations_are_refused(orientation):
    with pytest.raises(FrameError, match=r"^RA107: expected an EXIF orientation, a whole number from 1 to 8; got"):
        STORED.exif_transpose(orientation)
