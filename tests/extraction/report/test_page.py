"""The page about a store."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from roialign.extraction.images import list_images
from roialign.extraction.items import ImageRef
from roialign.extraction.report import save_report
from roialign.extraction.report.thumbnails import thumbnails
from tests.extraction.store.made import BOXES, image_id, store_in


def page_of(folder: Path, parts: int | None = None, images: list[ImageRef] | None = None) -> str:
    regions = store_in(folder / "store", parts=parts)
    save_report(regions, images or [], folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def test_it_says_what_is_there(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    assert f"{30 * BOXES} regions of 30 images" in text
    assert "not finished" not in text
    for words in ("timm/resnet50", "8 x 3 x 3, float16", "roialign extract photos", "stride 16, offset 8, 8"):
        assert words in text
    assert "OSError</b>: 1" in text
    assert "bad/1.jpg: cannot identify image file" in text
    counts = [int(count) for count in re.findall(r'<td class="count">(\d+)</td>', text)]
    assert len(counts) == 10
    assert sum(counts) == 30 * BOXES


def test_the_same_store_gives_the_same_page(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    assert page_of(first) == page_of(second)


def test_a_store_that_is_not_finished(tmp_path: Path) -> None:
    text = page_of(tmp_path, parts=1)
    assert f"{10 * BOXES} regions of 30 images" in text
    assert "not finished" in text


def test_an_empty_store(tmp_path: Path) -> None:
    assert "There is no region to show" in page_of(tmp_path, parts=0)


def test_names_are_only_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\u202e.jpg"
    rows = store_in(tmp_path / "store")
    object.__setattr__(rows.manifest, "command", hostile)
    save_report(rows, [], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "\u202e" not in text


def test_pictures_are_of_the_boxes(tmp_path: Path) -> None:
    """A red square on blue: red fills the box of its thumbnail and nothing else."""
    photo = Image.new("RGB", (200, 120), (0, 0, 255))
    photo.paste((255, 0, 0), (50, 30, 90, 70))
    photo.save(tmp_path / "a.png")
    box = (50.0, 30.0, 90.0, 70.0)
    (found,) = thumbnails(list_images(tmp_path), [("a.png", box), ("a.png", box), ("gone.png", box)]).values()
    content = found.uri.partition("base64,")[2].encode()
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    values = torch.from_numpy(numpy.array(picture))
    left, top, width, height = (round(share / 100 * picture.width) for share in found[1:])
    assert (left, top, width, height) == pytest.approx((21, 21, 70, 70), abs=1)
    inside = values[top + 3 : top + height - 3, left + 3 : left + width - 3].float().mean((0, 1))
    outside = values[: top - 3].float().mean((0, 1))
    assert inside.tolist() == pytest.approx([254, 0, 0], abs=4)
    assert outside.tolist() == pytest.approx([0, 0, 254], abs=4)


def test_images_that_are_broken_or_gone_have_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    images = [ImageRef(image_id(0), str(tmp_path / "a.jpg")), ImageRef(image_id(1), str(tmp_path / "gone.jpg"))]
    text = page_of(tmp_path, images=images)
    assert "no picture" in text
    assert "<img" not in text


def test_images_are_upright(tmp_path: Path) -> None:
    stored = Image.new("RGB", (120, 200), (0, 0, 255))
    stored.paste((255, 0, 0), (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the stored top left corner comes to the top right
    stored.save(tmp_path / "a.png", exif=exif)
    box = (160.0, 0.0, 200.0, 40.0)
    (found,) = thumbnails(list_images(tmp_path), [("a.png", box)]).values()
    content = found.uri.partition("base64,")[2].encode()
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.getpixel((picture.width // 2, picture.height // 2))[0] > 240
