"""Features within outlines: on pictures whose colours are coordinates they are the centre of the outline."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from roialign import Frame
from roialign.errors import SampleError, StoreError
from roialign.extraction import work

from .scenes import coco, collection

NUCLEI = os.environ.get("ROIALIGN_NUCLEI")
RAMPS = '''
"""The first two colours, averaged over squares of 4 pixels."""

import torch
from torch import nn


def squares():
    layer = nn.Conv2d(3, 2, 4, stride=4, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0] = layer.weight[1, 1] = 1 / 16
    return layer
'''
STEP_X, STEP_Y = 3, 5  # of the colours, from pixel to pixel
TRIANGLE = [[6, 8, 58, 8, 6, 42]]
STEPS = [[8, 6, 24, 6, 24, 30, 8, 30], [24, 18, 56, 18, 56, 30, 24, 30]]  # parts side by side
DIAGONAL = [[4, 4, 8, 4, 60, 42, 60, 44, 56, 44]]  # a strip across its box


@pytest.fixture
def ramps(tmp_path):
    """A photograph of 48 x 64 pixels: red counts columns, green counts rows. The options to extract from it with."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    colours = torch.stack([STEP_X * columns, STEP_Y * rows, 0 * rows], -1).to(torch.uint8)
    Image.fromarray(colours.numpy()).save(photos / "0.png")
    (tmp_path / "squares.py").write_text(RAMPS, encoding="utf-8")
    return photos, {"backbone": f"{tmp_path / 'squares.py'}:squares", "masked": True}


def annotated(path, outlines, size_hw=(48, 64), boxes=None):
    """A COCO file of one image: an outline each, and the box around it if no other is given."""
    image = {"id": 0, "file_name": "0.png", "height": size_hw[0], "width": size_hw[1]}
    page = json.loads(coco(path, [image], {}).read_text())
    for number, outline in enumerate(outlines):
        box = (boxes or {}).get(number) or around(outline)
        page["annotations"].append({"id": number, "image_id": 0, "bbox": box, "segmentation": outline})
    path.write_text(json.dumps(page))
    return path


def around(outline):
    xs, ys = [x for part in outline for x in part[0::2]], [y for part in outline for y in part[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def area_and_centre(part):
    """Of a polygon, by the formula of surveyors."""
    points = torch.tensor(part, dtype=torch.float64).view(-1, 2)
    x, y = points.T
    next_x, next_y = points.roll(-1, 0).T
    twice = x * next_y - next_x * y
    area = twice.sum() / 2
    return area.abs(), torch.stack([((x + next_x) * twice).sum(), ((y + next_y) * twice).sum()]) / (6 * area)


def centre(outline):
    areas, centres = zip(*map(area_and_centre, outline), strict=True)
    return sum(area * one for area, one in zip(areas, centres, strict=True)) / sum(areas)


def read(features):
    """The places that colours stand for, x and y."""
    return features.double() * 255 / torch.tensor([STEP_X, STEP_Y], dtype=torch.float64) + 0.5


@pytest.mark.parametrize("fit", [{}, {"resize": (96, 128)}, {"resize": (60, 72)}, {"letterbox": (128, 128)}])
@pytest.mark.parametrize("reduce", ["mean", "none"])
def test_the_feature_is_that_of_the_outline(tmp_path, ramps, extracted, fit, reduce):
    photos, options = ramps
    outlines = [TRIANGLE, STEPS, DIAGONAL]
    boxes = annotated(tmp_path / "boxes.json", outlines)
    size = {} if reduce == "mean" else {"output_size": 1}
    regions = extracted(photos, boxes, reduce=reduce, **size, **options, **fit)
    assert not list(regions.errors())
    for region, outline in zip(regions, outlines, strict=True):
        found = read(region.feature.flatten())
        torch.testing.assert_close(found, centre(outline), atol=0.2, rtol=0)
        x, y, width, height = around(outline)
        share = sum(area_and_centre(part)[0] for part in outline) / (width * height)
        assert region.columns["mask_share"] == pytest.approx(float(share), abs=0.02)
        if outline is not DIAGONAL:
            assert (found - torch.tensor([x + width / 2, y + height / 2])).abs().max() > 1.5


def test_an_outline_that_is_the_box_changes_nothing(tmp_path, extracted):
    boxes = collection(tmp_path, 6, boxes=5)
    page = json.loads(boxes.read_text())
    for one in page["annotations"]:
        x, y, width, height = one["bbox"]
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        one["segmentation"] = [] if one["id"] % 1000 == 4 else outline
    boxes.write_text(json.dumps(page))
    for reduce in ("mean", "none", "flatten"):
        plain = extracted(tmp_path / "photos", boxes, reduce=reduce, out=tmp_path / f"plain {reduce}")
        masked = extracted(tmp_path / "photos", boxes, reduce=reduce, masked=True, out=tmp_path / reduce)
        assert len(masked) == len(plain) == 30
        for one, other in zip(masked, plain, strict=True):
            torch.testing.assert_close(one.feature, other.feature, atol=1e-6, rtol=1e-5)
            assert (one.coverage, one.level) == (other.coverage, other.level)
            assert one.columns["mask_share"] == (None if int(one.box_id) % 1000 == 4 else 1.0)
            assert "mask_share" not in other.columns


def test_without_the_option_outlines_change_nothing(tmp_path, ramps, extracted):
    photos, options = ramps
    regions = extracted(photos, annotated(tmp_path / "boxes.json", [TRIANGLE]), **{**options, "masked": False})
    torch.testing.assert_close(read(regions[0].feature), torch.tensor([32.0, 25.0], dtype=torch.float64))


def test_bins_without_a_part_of_the_outline_are_zero(tmp_path, ramps, extracted):
    photos, options = ramps
    boxes = annotated(tmp_path / "boxes.json", [STEPS], boxes={0: [8, 6, 48, 24]})
    (region,) = extracted(photos, boxes, reduce="none", output_size=(2, 3), **options)
    assert (region.feature[:, 0, 1:] == 0).all()
    assert (region.feature[:, 1] > 0).all()
    torch.testing.assert_close(read(region.feature[:, 1, 2]), torch.tensor([48.0, 24.0], dtype=torch.float64))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("form", ["polygon", "run lengths"])
def test_outlines_of_the_stored_picture_turn_with_it(tmp_path, ramps, extracted, orientation, form):
    photos, options = ramps
    turn(photos / "0.png", orientation)
    boxes = annotated(tmp_path / "boxes.json", [TRIANGLE])
    if form == "run lengths":
        page = json.loads(boxes.read_text())
        page["annotations"][0]["segmentation"] = runs_of_triangle()
        boxes.write_text(json.dumps(page))
    (region,) = extracted(photos, boxes, letterbox=(96, 96), **options)
    assert region.image_size_hw == (64, 48)
    torch.testing.assert_close(read(region.feature), centre(TRIANGLE), atol=0.3, rtol=0)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_outlines_of_the_upright_picture_stay(tmp_path, ramps, extracted, orientation):
    photos, options = ramps
    turn(photos / "0.png", orientation)
    stored = Frame.image((48, 64))
    upright = stored.exif_transpose(orientation)
    corners = torch.tensor(TRIANGLE[0], dtype=torch.float64).view(-1, 2)
    turned = stored.map_to(upright).boxes(corners.repeat(1, 2))[:, :2]
    boxes = annotated(tmp_path / "boxes.json", [[turned.flatten().tolist()]], upright.size_hw)
    (region,) = extracted(photos, boxes, **options)
    torch.testing.assert_close(read(region.feature), centre(TRIANGLE), atol=0.2, rtol=0)


def turn(path, orientation):
    """Say in EXIF that the picture is to be turned."""
    with Image.open(path) as image:
        image.load()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def runs_of_triangle():
    """The pixels of the triangle, in run lengths of 48 rows and 64 columns."""
    counts, before = [0], False
    for x in range(64):
        for y in range(48):
            within = y + 0.5 > 8 and x + 0.5 > 6 and (x + 0.5 - 6) / 52 + (y + 0.5 - 8) / 34 < 1
            if within != before:
                counts.append(0)
            counts[-1] += 1
            before = within
    return {"size": [48, 64], "counts": counts}


def test_labelme_and_yolo(tmp_path, ramps, extracted):
    photos, options = ramps
    points = [[6, 8], [58, 8], [6, 42]]
    circle = {"label": "disc", "shape_type": "circle", "points": [[32, 24], [32, 44]]}
    rectangle = {"label": "box", "shape_type": "rectangle", "points": [[10, 10], [50, 40]]}
    page = {"imageHeight": 48, "imageWidth": 64, "shapes": [{"label": "t", "points": points}, circle, rectangle]}
    (tmp_path / "labelme").mkdir()
    (tmp_path / "labelme" / "0.json").write_text(json.dumps(page))
    triangle, disc, box = extracted(photos, tmp_path / "labelme", out=tmp_path / "a", **options)
    torch.testing.assert_close(read(triangle.feature), centre(TRIANGLE), atol=0.2, rtol=0)
    assert disc.columns["mask_share"] == pytest.approx(math.pi / 4, abs=0.01)
    assert box.columns["mask_share"] is None
    (tmp_path / "yolo").mkdir()
    numbers = " ".join(f"{x / 64} {y / 48}" for x, y in points)
    (tmp_path / "yolo" / "0.txt").write_text(f"0 {numbers}\n0 0.5 0.5 0.5 0.5\n")
    outlined, plain = extracted(photos, tmp_path / "yolo", out=tmp_path / "b", **options)
    torch.testing.assert_close(outlined.feature, triangle.feature, atol=1e-4, rtol=0)
    assert plain.columns["mask_share"] is None


def test_outlines_that_cannot_be_used_are_errors_of_their_boxes(tmp_path, ramps, extracted):
    photos, options = ramps
    outlines = [
        TRIANGLE,
        {"size": [64, 48], "counts": [0, 48 * 64]},
        [[1, 2, 3]],
        [[1, 2, 30, 2]],
        [[50, 40, 60, 40, 60, 46]],
        {"size": [48, 64], "counts": [48 * 64]},
    ]
    boxes = annotated(tmp_path / "boxes.json", outlines, boxes={number: [2, 2, 40, 30] for number in range(6)})
    regions = extracted(photos, boxes, force=True, **options)
    assert [region.box_id for region in regions] == ["0"]
    errors = {error.box_id: (error.code, error.reason) for error in regions.errors()}
    assert [errors[str(number)][0] for number in range(1, 6)] == ["RA701", "RA701", "RA309", "RA309", "RA309"]
    assert errors["1"][1] == "expected run lengths of the annotated picture, 48 x 64; got those of [64, 48]."
    assert errors["4"][1] == "expected an outline of which a part lies in its box; none is within 2, 2, 42, 32."


def test_crowds_are_pooled_as_others(tmp_path, ramps, extracted):
    photos, options = ramps
    boxes = annotated(tmp_path / "boxes.json", [TRIANGLE])
    page = json.loads(boxes.read_text())
    page["annotations"][0] |= {"iscrowd": 1, "segmentation": runs_of_triangle()}
    boxes.write_text(json.dumps(page))
    (region,) = extracted(photos, boxes, **options)
    assert region.columns["iscrowd"] == 1
    torch.testing.assert_close(read(region.feature), centre(TRIANGLE), atol=0.3, rtol=0)


def test_boxes_of_which_none_has_an_outline_are_refused(tmp_path, extracted):
    boxes = collection(tmp_path, 2)
    for name, given in (("boxes", boxes), ("grid", "grid:2x2")):
        with pytest.raises(SampleError, match=r"RA706: expected boxes with outlines.*none of the [68] boxes.*--masked"):
            extracted(tmp_path / "photos", given, masked=True, out=tmp_path / name)
    assert len(extracted(tmp_path / "photos", "grid:2x2", masked=True, force=True, out=tmp_path / "grid")) == 8


def test_another_store(tmp_path, ramps, extracted):
    photos, options = ramps
    boxes = annotated(tmp_path / "boxes.json", [TRIANGLE])
    extracted(photos, boxes, **options)
    with pytest.raises(StoreError, match=r"RA711.*options\.masked is true there, false here"):
        extracted(photos, boxes, **{**options, "masked": False})


@pytest.fixture
def four(tmp_path, ramps):
    """Four photographs, of which not all have all three outlines: their annotations."""
    photos, _ = ramps
    for number in range(1, 4):
        shutil.copy(photos / "0.png", photos / f"{number}.png")
    boxes = annotated(tmp_path / "boxes.json", [TRIANGLE, STEPS, DIAGONAL])
    page = json.loads(boxes.read_text())
    page["images"] = [{**page["images"][0], "id": number, "file_name": f"{number}.png"} for number in range(4)]
    page["annotations"] = [
        {**one, "image_id": number, "id": 10 * number + one["id"]}
        for number in range(4)
        for one in page["annotations"][number % 3 :]
    ]
    boxes.write_text(json.dumps(page))
    return boxes


def assert_same(one, other):
    assert len(one) == len(other) == 9
    assert [region.feature.tolist() for region in one] == [region.feature.tolist() for region in other]
    assert [region.columns for region in one] == [region.columns for region in other]


def test_chunks_change_no_bit(tmp_path, ramps, four, extracted, monkeypatch):
    photos, options = ramps
    whole = extracted(photos, four, **options)
    monkeypatch.setattr(work, "_MOST_NUMBERS", 2 * 49 * 2)  # two boxes at a time
    assert_same(whole, extracted(photos, four, out=tmp_path / "chunked", **options))


@pytest.mark.rare  # each process imports torch
def test_processes_make_the_same_rows(tmp_path, ramps, four, extracted):
    photos, options = ramps
    whole = extracted(photos, four, images_per_part=1, **options)
    assert_same(whole, extracted(photos, four, images_per_part=1, workers=2, out=tmp_path / "apart", **options))


@pytest.mark.skipif(NUCLEI is None, reason="needs ROIALIGN_NUCLEI, the folder that make train-nuclei trains on")
def test_nuclei_are_as_bright_as_their_pixels(tmp_path, ramps, extracted):
    coco_mask = pytest.importorskip("pycocotools.mask")
    _, options = ramps
    folder = Path(NUCLEI)
    boxes = folder / "annotations" / "test.json"
    page = json.loads(boxes.read_text())
    names = {one["id"]: one["file_name"] for one in page["images"]}
    (tmp_path / "tiles").mkdir()
    for name in names.values():
        shutil.copy(folder / "images" / name, tmp_path / "tiles")
    within = extracted(tmp_path / "tiles", boxes, **options)
    whole = extracted(tmp_path / "tiles", boxes, out=tmp_path / "whole", **{**options, "masked": False})
    marks = {str(one["id"]): one for one in page["annotations"]}
    errors = []
    for rows in zip(within, whole, strict=True):
        mark = marks[rows[0].box_id]
        mask = torch.from_numpy(coco_mask.decode(mark["segmentation"])).bool()
        with Image.open(folder / "images" / names[mark["image_id"]]) as tile:
            grey = torch.from_numpy(numpy.array(tile.convert("L"))).double() / 255
        brightness = grey[mask].mean()
        errors.append([abs(one.feature[0].item() / brightness - 1) for one in rows])
        assert rows[0].columns["mask_share"] == pytest.approx(int(mask.sum()) / math.prod(mark["bbox"][2:]), abs=0.03)
    assert len(errors) > 50
    of_outlines, of_boxes = torch.tensor(errors).median(0).values
    assert of_outlines < 0.05 < 0.1 < of_boxes
