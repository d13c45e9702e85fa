"""Boxes and frames as a notebook shows them."""

import re

import pytest
import torch

from roialign import Boxes, Frame
from roialign.geometry import html

HOSTILE = "</td></table><script>alert(1)</script>'\"\u202e\ud800"


def rows_of(shown):
    rows = re.findall(r"<tr [^>]*>(.*?)</tr>", shown)
    return [re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_a_frame_shows_its_steps_and_what_they_do_to_coordinates():
    photo = Frame.image((480, 640), name="photo")
    frame = photo.resize((240, 320)).pad(8, 0, 0, 80).crop(40, 0, 200, 300).flip_horizontal().normalize()
    assert rows_of(frame._repr_html_()) == [
        ["step", "height x width", "x becomes", "y becomes"],
        ["photo", "480 x 640", "", ""],
        ["resize", "240 x 320", "0.5 x", "0.5 y"],
        ["pad", "320 x 328", "x + 8", "y"],
        ["crop", "200 x 300", "x", "y - 40"],
        ["flip horizontally", "200 x 300", "300 - x", "y"],
        ["normalize", "1 x 1", "0.00333333 x", "0.005 y"],
    ]
    turned = photo.affine((10, 10), (-2, -1), (0, -3))
    assert rows_of(turned._repr_html_())[2] == ["affine", "10 x 10", "-3 - x", "-2 y"]


def test_boxes_show_their_frame_their_numbers_and_their_sizes():
    photo = Frame.image((480, 640), name="photo")
    boxes = Boxes([[100, 50, 300.5, 250], [0, 0, 640, 480]], photo).to(photo.resize((960, 1280)))
    shown = boxes._repr_html_()
    assert "Boxes(2, float32, in photo 480x640 &gt; resize 960x1280)" in shown
    assert rows_of(shown) == [
        ["row", "x1", "y1", "x2", "y2", "width", "height"],
        ["0", "200", "100", "601", "500", "401", "400"],
        ["1", "0", "0", "1280", "960", "1280", "960"],
    ]


def test_no_boxes_and_boxes_with_a_gradient():
    frame = Frame.image((480, 640))
    assert len(rows_of(Boxes(torch.empty(0, 4), frame)._repr_html_())) == 1
    values = torch.tensor([[1.0, 2, 3, 4]], requires_grad=True)
    assert rows_of(Boxes(values, frame)._repr_html_())[1] == ["0", "1", "2", "3", "4", "2", "2"]


def paths_of(shown):
    return [[float(number) for number in re.findall(r"-?[\d.]+", path)] for path in re.findall(r'd="(.*?)"', shown)]


def test_boxes_are_drawn_in_their_frame():
    frame = Frame.image((120, 240))
    shown = Boxes([[20, 30, 60, 90], [180, 0, 240, 120]], frame)._repr_html_()
    assert '<svg width="244.0" height="124.0"' in shown
    assert paths_of(shown) == [[0, 0, 240, 120, 0], [20, 30, 60, 90, 20], [180, 0, 240, 120, 180]]


def test_what_is_far_outside_is_cut_off_and_what_is_near_is_seen():
    frame = Frame.image((120, 240))
    near, far = (Boxes([box], frame)._repr_html_() for box in ([-120, 0, 60, 120], [-1e9, 5e8, 60, 1e9]))
    scale = 240 / 360  # half of the frame at the left
    assert paths_of(near) == [[80, 0, 240, 80, 80], [0, 0, 120, 80, 0]]
    assert paths_of(near)[1][2] == (120 + 60) * scale
    assert paths_of(far) == [[120, 0, 240, 60, 120], [0, 120, 150, 120, 0]]


def test_a_frame_draws_the_image_that_it_was_made_of():
    photo = Frame.image((120, 240), name="photo")
    shown = photo.letterbox((240, 240))._repr_html_()
    assert "This frame, and in orange all of photo:" in shown
    assert paths_of(shown) == [[0, 0, 240, 240, 0], [0, 60, 240, 180, 0]]
    assert not paths_of(photo._repr_html_())


@pytest.mark.parametrize("count", [html.MOST_ROWS, html.MOST_ROWS + 1, 200_000])
def test_only_so_many_boxes_are_shown(count):
    shown = Boxes(torch.ones(count, 4), Frame.image((480, 640)))._repr_html_()
    assert len(rows_of(shown)) == html.MOST_ROWS + 1
    assert (f"and {count - html.MOST_ROWS} more" in shown) == (count > html.MOST_ROWS)


def test_only_so_many_steps_are_shown_and_the_last_is_among_them():
    frame = Frame.image((480, 640), name=HOSTILE * 1000)
    for _ in range(100):
        frame = frame.pad(0, 1, 0, 0)
    shown = frame.normalize()._repr_html_()
    rows = rows_of(shown)
    assert len(rows) == html.MOST_ROWS + 1
    assert rows[-1][0] == "normalize"
    assert "and 82 more" in shown
    assert len(shown) < 50_000


def test_names_stay_text():
    for shown in (
        Frame.image((4, 4), name=HOSTILE)._repr_html_(),
        Boxes([[0, 0, 1, 1]], Frame.image((4, 4), name=HOSTILE))._repr_html_(),
    ):
        shown.encode()
        assert "<script" not in shown
        assert "&lt;/td&gt;&lt;/table&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#x27;&quot;\\u202e\\ud800" in shown


def test_no_style_reaches_another_cell_and_no_colour_is_fixed():
    shown = Boxes([[0, 0, 1, 1]], Frame.image((4, 4)))._repr_html_()
    assert not re.search(r"<(style|script|link)|\b(id|class|on[a-z]+)=", shown)
    assert set(re.findall(r"(?<![\w-])color:([^;\"]*)", shown)) == {"inherit"}
