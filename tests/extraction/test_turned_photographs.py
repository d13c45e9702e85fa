"""Photographs that EXIF turns, with annotations of the upright picture, of the stored one, and of a resized copy."""

import json

import pytest
import torch
from PIL import ImageOps

from roialign import Boxes, Frame

from .scenes import boxes_of, coco, picture


def photograph(folder, orientation, size_hw=(48, 64)):
    """A stored picture that is to be turned, beside others that are not, and the upright one on its own."""
    photos = folder / "photos"
    photos.mkdir()
    image = picture(0, size_hw)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(photos / "turned.png", exif=exif)
    picture(1).save(photos / "other.png")
    upright = folder / "upright"
    upright.mkdir()
    with_exif = picture(0, size_hw)
    with_exif.getexif()[0x0112] = orientation
    ImageOps.exif_transpose(with_exif).save(upright / "turned.png")
    return photos, upright


def annotated(path, size_hw, boxes, other=True):
    images = [{"id": 0, "file_name": "turned.png", "height": size_hw[0], "width": size_hw[1]}]
    images += [{"id": 1, "file_name": "other.png", "height": 48, "width": 64}] if other else []
    return coco(path, images, {0: boxes, 1: boxes_of(1, 3)} if other else {0: boxes})


@pytest.mark.parametrize("orientation", [6, 8])
def test_the_annotated_size_decides(tmp_path, extracted, orientation):
    photos, upright = photograph(tmp_path, orientation)
    stored_xywh = boxes_of(0, 3)
    stored = Frame.image((48, 64))
    turned = Boxes.from_xywh(torch.tensor(stored_xywh, dtype=torch.float64), stored).to(
        stored.exif_transpose(orientation)
    )
    of_stored = annotated(tmp_path / "stored.json", (48, 64), stored_xywh)
    of_upright = annotated(tmp_path / "upright.json", (64, 48), turned.to_xywh().tolist())
    alone = annotated(tmp_path / "alone.json", (64, 48), turned.to_xywh().tolist(), other=False)
    expected = extracted(upright, alone, out=tmp_path / "expected").of_image("turned.png")
    for boxes in (of_stored, of_upright):
        rows = extracted(photos, boxes, out=tmp_path / boxes.stem).of_image("turned.png")
        torch.testing.assert_close(rows.boxes_xyxy, expected.boxes_xyxy)
        torch.testing.assert_close(rows.features, expected.features, rtol=1e-5, atol=1e-5)
        assert rows.image_sizes_hw.tolist() == [[64, 48]] * 3


@pytest.mark.parametrize(("orientation", "size_hw"), [(3, (48, 64)), (6, (64, 64))])
def test_where_both_sizes_are_alike_the_boxes_are_of_the_upright_picture(tmp_path, extracted, orientation, size_hw):
    photos, upright = photograph(tmp_path, orientation, size_hw)
    boxes = annotated(tmp_path / "boxes.json", size_hw, boxes_of(0, 3, size_hw), other=False)
    expected = extracted(upright, boxes, out=tmp_path / "expected").of_image("turned.png")
    rows = extracted(photos, boxes).of_image("turned.png")
    torch.testing.assert_close(rows.features, expected.features, rtol=1e-5, atol=1e-5)


def test_annotations_of_a_resized_copy_are_an_error_of_that_image(tmp_path, extracted):
    photos, _ = photograph(tmp_path, 6)
    boxes = annotated(tmp_path / "boxes.json", (96, 128), boxes_of(0, 3))
    regions = extracted(photos, boxes)
    assert {region.image_id for region in regions} == {"other.png"}
    (error,) = regions.errors()
    assert (error.image_id, error.box_id, error.code) == ("turned.png", None, "RA107")
    for size in ("64 x 48", "48 x 64", "96", "128"):
        assert size in error.reason


def test_yolo_is_of_the_upright_picture(tmp_path, extracted):
    photos, _ = photograph(tmp_path, 6)
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "turned.txt").write_text("0 0.5 0.25 0.5 0.25\n")
    (labels / "other.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    regions = extracted(photos, labels)
    assert [region.box_xyxy.tolist() for region in regions] == [[24, 12, 40, 36], [12, 8, 36, 24]]


def test_a_voc_size_of_zero_is_none(tmp_path, extracted):
    photos, _ = photograph(tmp_path, 6)
    boxes = annotated(tmp_path / "boxes.json", (64, 48), [[2, 2, 20, 30]], other=False)
    record = json.loads(boxes.read_text())
    for side in ("height", "width"):
        del record["images"][0][side]
    boxes.write_text(json.dumps(record))
    (region,) = extracted(photos, boxes)
    assert region.box_xyxy.tolist() == [2, 2, 22, 32]
