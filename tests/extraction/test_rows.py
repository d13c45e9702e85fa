"""Rows: the features of each image alone, whatever the batch, the chunk and the part."""

import os
from pathlib import Path

import pytest
import torch

from roialign import Boxes, Frame, RegionExtractor
from roialign.errors import OptionError
from roialign.extraction import work
from roialign.extraction.recipe import Fit, Recipe, load_weights

from .scenes import backbone_file, boxes_of, coco, collection, picture

BCCD = os.environ.get("ROIALIGN_BCCD")


def alone(tmp_path, number, boxes, fit=None, reduce="mean"):
    """The features of one image's boxes by RegionExtractor."""
    extractor = RegionExtractor(backbone_file(tmp_path), pretrained=False, fit=fit)
    boxes_xyxy = torch.tensor(boxes)
    boxes_xyxy[:, 2:] += boxes_xyxy[:, :2]
    with torch.no_grad():
        pooled = extractor([tmp_path / "photos" / f"{number:04d}.png"], [boxes_xyxy])
    features = {"mean": pooled.features.mean((2, 3)), "none": pooled.features, "flatten": pooled.features.flatten(1)}
    return boxes_xyxy, features[reduce], pooled.coverage


@pytest.mark.parametrize("reduce", ["mean", "none", "flatten"])
@pytest.mark.parametrize("fit", [None, {"resize": (40, 56)}, {"resize": 32}, {"letterbox": (64, 64)}])
def test_rows_are_those_of_each_image_alone(tmp_path, extracted, reduce, fit):
    boxes = collection(tmp_path, 9)
    regions = extracted(tmp_path / "photos", boxes, reduce=reduce, batch_size=4, images_per_part=5, **(fit or {}))
    assert len(regions) == 27
    assert regions.finished
    for number in range(9):
        size_hw = (48, 64) if number % 2 == 0 else (64, 48)
        marked, features, coverage = alone(
            tmp_path, number, boxes_of(number, 3, size_hw), fit and Fit(*next(iter(fit.items()))), reduce
        )
        rows = regions.of_image(f"{number:04d}.png")
        torch.testing.assert_close(rows.features, features, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rows.boxes_xyxy, marked)
        torch.testing.assert_close(rows.coverage, coverage)
        assert rows.box_ids == [str(1000 * number + index) for index in range(3)]
        assert rows.box_indices.tolist() == [0, 1, 2]
        assert rows.columns["label"] == ["block", "blot", "block"]
        assert rows.image_sizes_hw.tolist() == [list(size_hw)] * 3
        assert set(rows.levels) == set(regions.grids)


def test_float16_are_the_same_rounded(tmp_path, extracted):
    boxes = collection(tmp_path, 3)
    wide = extracted(tmp_path / "photos", boxes)
    narrow = extracted(tmp_path / "photos", boxes, dtype="float16", out=tmp_path / "half")
    for one, other in zip(wide, narrow, strict=True):
        assert torch.equal(one.feature.half(), other.feature)


def test_chunks_change_no_bit(tmp_path, extracted, monkeypatch):
    boxes = collection(tmp_path, 4, boxes=7)
    whole = extracted(tmp_path / "photos", boxes)
    monkeypatch.setattr(work, "_MOST_NUMBERS", 8 * 49 * 2)  # two boxes at a time
    chunked = extracted(tmp_path / "photos", boxes, out=tmp_path / "chunked")
    assert [one.feature.tolist() for one in whole] == [one.feature.tolist() for one in chunked]


def test_many_sizes_wait_in_bounded_memory(tmp_path, extracted, monkeypatch):
    sizes_hw = [(40 + 8 * number, 48) for number in range(6)]
    boxes = collection(tmp_path, 18, sizes_hw=sizes_hw)
    together = extracted(tmp_path / "photos", boxes)
    waiting = []
    monkeypatch.setattr(work, "_MOST_PIXELS", 4 * 48 * 48)
    make = work.Embed.__call__
    monkeypatch.setattr(work.Embed, "__call__", lambda self, images: waiting.append(len(images)) or make(self, images))
    apart = extracted(tmp_path / "photos", boxes, out=tmp_path / "apart")
    assert sum(waiting[1:]) >= 18
    assert max(waiting) <= 4
    for one, other in zip(together, apart, strict=True):
        assert one.box_id == other.box_id
        torch.testing.assert_close(one.feature, other.feature, rtol=1e-5, atol=1e-5)


def test_ten_thousand_boxes_in_one_image(tmp_path, extracted, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture(0).save(photos / "0000.png")
    image = {"id": 0, "file_name": "0000.png", "height": 48, "width": 64}
    boxes = coco(tmp_path / "boxes.json", [image], {0: boxes_of(0, 10_000)})
    monkeypatch.setattr(work, "_MOST_NUMBERS", 1 << 18)
    regions = extracted(photos, boxes)
    assert len(regions) == 10_000
    assert not list(regions.errors())
    _, features, _ = alone(tmp_path, 0, boxes_of(0, 10_000))
    torch.testing.assert_close(regions.of_image("0000.png").features, features, rtol=1e-5, atol=1e-5)


def test_boxes_by_words(tmp_path, extracted):
    collection(tmp_path, 2)
    whole = extracted(tmp_path / "photos", "whole")
    assert [one.box_xyxy.tolist() for one in whole] == [[0, 0, 64, 48], [0, 0, 48, 64]]
    cells = extracted(tmp_path / "photos", "grid:2x2", out=tmp_path / "cells")
    assert cells[3].box_xyxy.tolist() == [32, 24, 64, 48]


def test_weights_from_a_file(tmp_path, extracted):
    boxes = collection(tmp_path, 2)
    recipe = Recipe(backbone_file(tmp_path), None, True, None, (7, 7), "mean", "float32", None, "cpu")
    model = recipe.build().backbone
    doubled = {f"module.{name}": value * 2 for name, value in model.state_dict().items()}
    torch.save({"state_dict": {**doubled, "head.weight": torch.ones(3)}}, tmp_path / "weights.pt")
    plain = extracted(tmp_path / "photos", boxes)
    other = extracted(tmp_path / "photos", boxes, weights=tmp_path / "weights.pt", out=tmp_path / "other")
    assert not torch.equal(plain[0].feature, other[0].feature)
    load_weights(model, str(tmp_path / "weights.pt"))
    assert torch.equal(model[0].weight, doubled["module.0.weight"])
    torch.save({"head.weight": torch.ones(3)}, tmp_path / "head.pt")
    with pytest.raises(OptionError, match=r"RA506: expected weights of all 4 .*lacks 4.*has 1, such as head\.weight"):
        extracted(tmp_path / "photos", boxes, weights=tmp_path / "head.pt", out=tmp_path / "head")
    (tmp_path / "broken.pt").write_bytes(b"")
    with pytest.raises(OptionError, match=r"RA506: expected .* in .*broken\.pt"):
        load_weights(model, str(tmp_path / "broken.pt"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reduce": "sum"}, "expected reduce, one of mean, none, flatten; got 'sum'"),
        ({"resize": 32, "letterbox": 32}, "expected resize or letterbox; got both"),
        ({"batch_size": 0}, "expected batch_size, a whole number of at least 1; got 0"),
        ({"engine": "spark"}, "expected engine, one of local, ray; got 'spark'"),
        ({"dtype": "bfloat16"}, "expected the type of features, one of float16, float32; got 'bfloat16'"),
        ({"maps": ["c5"]}, "expected maps among"),
    ],
)
def test_options_that_cannot_be(tmp_path, extracted, options, words):
    boxes = collection(tmp_path, 2)
    with pytest.raises(ValueError, match=words):
        extracted(tmp_path / "photos", boxes, **options)


@pytest.mark.skipif(BCCD is None, reason="needs ROIALIGN_BCCD, the folder of the BCCD data set")
def test_blood_cells(tmp_path, extracted):
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [path.name for path in sorted(Path(BCCD, "JPEGImages").glob("*.jpg"))[:6]]
    for name in names:
        (photos / name).symlink_to(Path(BCCD, "JPEGImages", name))
    regions = extracted(photos, BCCD)
    extractor = RegionExtractor(backbone_file(tmp_path), pretrained=False)
    for name in names:
        rows = regions.of_image(name)
        assert len(rows) > 0
        assert set(rows.columns["label"]) <= {"RBC", "WBC", "Platelets"}
        with torch.no_grad():
            pooled = extractor([photos / name], [Boxes(rows.boxes_xyxy, Frame.image((480, 640)))])
        torch.testing.assert_close(rows.features, pooled.features.mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert {error.code for error in regions.errors()} <= {"RA702", "RA204"}
