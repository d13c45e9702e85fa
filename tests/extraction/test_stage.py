"""Features for batches of columns, as pipelines pass them."""

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from roialign import RegionExtractor, extraction
from roialign.errors import OptionError
from roialign.extraction import EmbedRegions

from .scenes import backbone_file, boxes_of, picture

NAN = float("nan")
SIZES_HW = ((48, 64), (64, 48), (48, 64))


def boxes_xyxy(number, count):
    boxes = torch.tensor(boxes_of(number, count, SIZES_HW[number])).view(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def file_of(number):
    file = io.BytesIO()
    picture(number, SIZES_HW[number]).save(file, "PNG")
    return file.getvalue()


def alone(tmp_path, number, boxes):
    extractor = RegionExtractor(backbone_file(tmp_path), pretrained=False)
    with torch.no_grad():
        return extractor([picture(number, SIZES_HW[number])], [boxes])


def objects(values):
    """An array of objects, as pipelines hold what is ragged."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def of_kind(tmp_path, kind, number):
    if kind == "path":
        (tmp_path / f"{number}.png").write_bytes(file_of(number))
    kinds = {
        "bytes": lambda: file_of(number),
        "path": lambda: str(tmp_path / f"{number}.png"),
        "struct": lambda: {"bytes": file_of(number), "path": "elsewhere"},
        "pillow": lambda: picture(number, SIZES_HW[number]),
        "array": lambda: np.asarray(picture(number, SIZES_HW[number])),
    }
    return kinds[kind]()


@pytest.mark.parametrize("kind", ["bytes", "path", "struct", "pillow", "array"])
def test_features_are_those_of_each_image_alone(tmp_path, kind):
    embed = EmbedRegions(backbone_file(tmp_path), boxes="marked", batch_size=2)
    marked = [boxes_xyxy(number, count) for number, count in enumerate((3, 0, 2))]
    nested = objects([objects([np.array(box) for box in some.tolist()]) for some in marked])
    batch = {
        "image": objects([of_kind(tmp_path, kind, number) for number in range(3)]),
        "marked": nested,
        "id": [5, 6, 7],
    }
    found = embed(batch)
    assert list(found) == ["image", "marked", "id", "features", "coverage", "levels", "error"]
    assert (found["id"], found["error"]) == ([5, 6, 7], ["", "", ""])
    for number, boxes in enumerate(marked):
        expected = alone(tmp_path, number, boxes)
        features = torch.from_numpy(found["features"][number])
        torch.testing.assert_close(features, expected.features.mean((2, 3)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(found["coverage"][number]), expected.coverage)
        assert len(found["levels"][number]) == len(boxes)


def test_what_cannot_be_made_is_said_in_its_row(tmp_path):
    embed = EmbedRegions(backbone_file(tmp_path), dtype="float16", reduce="none", output_size=2)
    good = [1.0, 2.0, 30.0, 40.0]
    rows = [
        (file_of(0), [good, [NAN, 0, 5, 5], [9, 9, 5, 14], good]),
        (b"no image", [good]),
        (str(tmp_path / "gone.png"), [good, good]),
        (file_of(2), [[1, 2, 3]]),
        (file_of(2), None),
        (None, [good]),
        (np.asarray(picture(0, (2, 2))), [[0, 0, 2, 2]]),  # of which the backbone makes no map
        (file_of(2), [good]),
    ]
    found = embed({"image": [image for image, _ in rows], "boxes_xyxy": [boxes for _, boxes in rows]})
    shapes = [one.shape for one in found["features"]]
    assert shapes == [(count, 8, 2, 2) for count in (4, 1, 2, 1, 0, 1, 1, 1)]
    assert {one.dtype for one in found["features"]} == {np.dtype("float16")}
    made = [np.isfinite(one).all((1, 2, 3)).tolist() for one in found["features"]]
    assert made == [[True, False, False, True], [False], [False, False], [False], [], [False], [False], [True]]
    assert [[level != "" for level in one] for one in found["levels"]] == made
    assert [[share > 0 for share in one] for one in found["coverage"]] == made
    errors = [error.partition(" expected")[0] for error in found["error"]]
    assert errors[:2] == ["box 1: RA205:", "RA307:"]
    assert "box 2: RA204: expected x1 < x2 and y1 < y2" in found["error"][0]
    assert errors[2].startswith(("FileNotFoundError: No such file", "RA307:"))
    assert errors[3:6] == ["RA210:", "RA210:", "RA307:"]
    assert errors[6].startswith("RuntimeError: ")
    assert errors[7] == ""


def test_a_batch_of_which_nothing_can_be_read(tmp_path):
    embed = EmbedRegions(backbone_file(tmp_path))
    found = embed({"image": [b""], "boxes_xyxy": [[[0, 0, 9, 9]]]})
    assert found["features"][0].shape == (1, 8)
    assert found["error"][0].startswith("RA307: ")
    assert embed({"image": [], "boxes_xyxy": []})["features"] == []


def test_batches_that_lack_a_column_are_refused(tmp_path):
    embed = EmbedRegions(backbone_file(tmp_path), image="photo")
    with pytest.raises(
        OptionError, match=r"RA506: expected a batch with the columns 'photo' and 'boxes_xyxy'.*image, box"
    ):
        embed({"image": [], "boxes_xyxy": []})
    with pytest.raises(OptionError, match="RA506"):
        embed({"photo": [], "boxes_xyxy": [], "coverage": []})
    with pytest.raises(OptionError, match="RA506: expected resize or letterbox"):
        EmbedRegions(backbone_file(tmp_path), resize=32, letterbox=32)


def test_it_can_be_pickled_before_and_after(tmp_path):
    embed = EmbedRegions(backbone_file(tmp_path))
    batch = {"image": [file_of(0)], "boxes_xyxy": [boxes_xyxy(0, 2)]}
    (before,) = pickle.loads(pickle.dumps(embed))(batch)["features"]
    (features,) = embed(batch)["features"]
    (after,) = pickle.loads(pickle.dumps(embed))(batch)["features"]
    assert np.array_equal(before, features)
    assert np.array_equal(after, features)


def test_the_block_of_the_page_for_daft_runs():
    pytest.importorskip("daft", reason="daft is not installed")
    page = (Path(__file__).parents[2] / "docs/extraction.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(import daft.*?)```", page, re.DOTALL)
    backbone, images = torch.nn.Conv2d(3, 8, 4, stride=4), []
    for number in range(4):
        file = io.BytesIO()
        picture(number, (480, 640)).save(file, "PNG")
        images.append(file.getvalue())
    names = {"backbone": backbone, "extraction": extraction, "images": images}
    exec(block, names)
    expected = EmbedRegions(backbone)({"image": images, "boxes_xyxy": [[[200, 100, 400, 300]]] * 4})["features"]
    for one, other in zip(names["frame"].to_pydict()["features"], expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
