"""RA218: a file says by EXIF how to turn its picture, and boxes and network are of different ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

import roialign
from roialign.backbones.reading import read
from roialign.doctor.findings import Finding
from roialign.doctor.images import SeenImages
from roialign.doctor.surroundings import Turned, stored_turned
from tests.doctor.explanations.weighing import pasted
from tests.doctor.test_picture import scene
from tests.doctor.test_trails import frames

UPRIGHT_HW = (360, 480)
UNDO = {  # how a camera stores it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
NET = nn.Conv2d(3, 8, 16, stride=16)
Load = Callable[[Path], Tensor]


def photograph(path: Path, seed: int, orientation: int) -> tuple[Tensor, Tensor]:
    """Written as a JPEG; its boxes, drawn around things, in the upright picture and in the stored one."""
    picture, boxes = scene(seed, size_hw=UPRIGHT_HW)
    upright = Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = upright.transpose(UNDO[orientation])
    stored.save(path, quality=95, exif=tags)
    frame = roialign.Frame.image((stored.height, stored.width))
    return boxes, frame.exif_transpose(orientation).map_to(frame).boxes(boxes)


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] / 255


def turned(path: Path) -> Tensor:
    return as_tensor(ImageOps.exif_transpose(Image.open(path)))


def turned_late(path: Path) -> Tensor:
    return as_tensor(ImageOps.exif_transpose(Image.open(path).convert("RGB").copy()))


def as_stored(path: Path) -> Tensor:
    with Image.open(path) as image:
        return as_tensor(image)


def converted(path: Path) -> Tensor:
    image = Image.open(path)
    return as_tensor(image.convert("RGB"))


def loaded_by_roialign(path: Path) -> Tensor:
    return read(path).pixels_chw[None]


UPRIGHT: dict[str, Load] = {"turned": turned, "turned late": turned_late, "roialign": loaded_by_roialign}
STORED: dict[str, Load] = {"as stored": as_stored, "converted": converted}


def halved(image: Tensor) -> Tensor:
    return interpolate(image, (image.shape[2] // 2, image.shape[3] // 2), mode="bilinear")


def letterboxed(image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    image = interpolate(image, (height * 256 // 480, width * 256 // 480), mode="bilinear")
    across, down = 256 - image.shape[3], 256 - image.shape[2]
    return pad(image, (across // 2, across - across // 2, down // 2, down - down // 2))


def watched(load: Load, path: Path, boxes: Tensor, then: Callable[[Tensor], Tensor] = lambda image: image) -> Any:
    with roialign.watch() as report, torch.no_grad(), roialign.set_policy("ignore"):
        features = NET(then(load(path)))
        roialign.roi_align(features, [boxes], 2, 1 / 16, 2, True)
    return report


def assert_mends(finding: Finding, boxes: Tensor, right: Tensor) -> None:
    assert finding.fix is not None
    torch.testing.assert_close(finding.fix.call.rois[:, 1:], right, atol=0.01, rtol=0)
    after, _ = pasted(finding.fix.code, [boxes])
    torch.testing.assert_close(after, right, atol=0.01, rtol=0)


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("load", UPRIGHT)
def test_boxes_of_the_stored_picture(load: str, orientation: int, tmp_path: Path) -> None:
    boxes, stored = photograph(tmp_path / "a.jpg", 3, orientation)
    (finding,) = watched(UPRIGHT[load], tmp_path / "a.jpg", stored).findings
    assert (finding.code, finding.severity) == ("RA218", "error")
    assert "as its file stores it" in finding.evidence
    assert_mends(finding, stored, boxes)


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("load", STORED)
def test_boxes_of_the_upright_picture(load: str, orientation: int, tmp_path: Path) -> None:
    boxes, stored = photograph(tmp_path / "a.jpg", 4, orientation)
    (finding,) = watched(STORED[load], tmp_path / "a.jpg", boxes).findings
    assert (finding.code, finding.severity) == ("RA218", "error")
    assert f"the network got it as stored (upright picture 360x480 > stored with EXIF orientation {orientation}" in (
        finding.evidence
    )
    assert "exif_transpose(image)" in (finding.decide or "")
    assert_mends(finding, boxes, stored)


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("load", [*UPRIGHT, *STORED])
@pytest.mark.parametrize("then", [None, halved, letterboxed])
def test_boxes_of_the_picture_that_entered_are_healthy(
    load: str, orientation: int, then: Callable[[Tensor], Tensor] | None, tmp_path: Path
) -> None:
    boxes, stored = photograph(tmp_path / "a.jpg", 5, orientation)
    right, image_hw = (boxes, UPRIGHT_HW) if load in UPRIGHT else (stored, UPRIGHT_HW[:: -1 if orientation > 4 else 1])
    if then is halved:
        right = right / 2
    elif then is letterboxed:
        photo = roialign.Frame.image(image_hw)
        right = photo.map_to(photo.letterbox((256, 256))).boxes(right)
    report = watched({**UPRIGHT, **STORED}[load], tmp_path / "a.jpg", right, then or (lambda image: image))
    assert report.ok, report


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("then", [halved, letterboxed])
@pytest.mark.parametrize("only_turned", [False, True])
def test_what_is_done_after_the_turn_is_done_to_the_boxes_too(
    orientation: int, then: Callable[[Tensor], Tensor], only_turned: bool, tmp_path: Path
) -> None:
    """Boxes of the file, or boxes that everything was done to but the turn."""
    boxes, stored = photograph(tmp_path / "a.jpg", 6, orientation)
    photo = roialign.Frame.image(UPRIGHT_HW[:: -1 if orientation > 4 else 1])
    upright = photo.exif_transpose(orientation)

    def done(frame: roialign.Frame) -> roialign.Frame:
        size_hw = (frame.size_hw[0] // 2, frame.size_hw[1] // 2)
        return frame.resize(size_hw) if then is halved else frame.letterbox((256, 256))

    right = upright.map_to(done(upright)).boxes(boxes)
    given = photo.map_to(done(photo)).boxes(stored) if only_turned else stored
    (finding,) = watched(turned, tmp_path / "a.jpg", given, then).findings
    assert finding.code == "RA218"
    assert ("every step but the rotation applied" in finding.evidence) == only_turned
    assert_mends(finding, given, right)


def test_an_image_without_a_tag_has_its_trail_as_before(tmp_path: Path) -> None:
    picture, boxes = scene(7, size_hw=UPRIGHT_HW)
    Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    for load in (turned, as_stored):
        assert watched(load, tmp_path / "a.png", boxes).ok
        (finding,) = watched(load, tmp_path / "a.png", boxes, halved).findings
        assert finding.code == "RA107"
        assert "photograph" in finding.evidence


def test_a_batch_of_turned_and_other_pictures(tmp_path: Path) -> None:
    """Each by its own file: what is healthy stays so, and no line would mend boxes of both kinds."""
    turned_boxes, stored_boxes = photograph(tmp_path / "a.jpg", 8, 6)
    picture, boxes = scene(9, size_hw=UPRIGHT_HW)
    Image.fromarray((picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / "b.png")
    for first, codes in ((turned_boxes, []), (stored_boxes, ["RA218"])):
        with roialign.watch() as report, torch.no_grad(), roialign.set_policy("ignore"):
            images = torch.cat([halved(turned(tmp_path / name)) for name in ("a.jpg", "b.png")])
            roialign.roi_align(NET(images), [first / 2, boxes / 2], 2, 1 / 16, 2, True)
        assert [finding.code for finding in report.findings] == codes
    assert report.findings[0].fix is None


@pytest.mark.parametrize("hold", [False, True])
def test_files_of_one_size_are_not_taken_for_one_another(hold: bool, tmp_path: Path) -> None:
    """Cameras make pictures of one size, of which some are turned."""
    photograph(tmp_path / "a.jpg", 8, 3)
    Image.new("RGB", UPRIGHT_HW[::-1]).save(tmp_path / "b.jpg")
    seen = SeenImages()
    with seen.watching(), torch.no_grad():
        turned_file = Image.open(tmp_path / "a.jpg")
        if not hold:
            del turned_file
        other = as_tensor(Image.open(tmp_path / "b.jpg"))
        assert all(frame is None for frame in frames(seen, other))


def test_tiffs_are_turned_by_pil_itself(tmp_path: Path) -> None:
    boxes, stored = photograph(tmp_path / "a.tiff", 10, 6)
    assert watched(as_stored, tmp_path / "a.tiff", boxes).ok
    (finding,) = watched(as_stored, tmp_path / "a.tiff", stored).findings
    assert finding.code == "RA218"
    assert_mends(finding, stored, boxes)


@pytest.mark.parametrize("orientation", UNDO)
def test_what_is_known_of_a_turned_file(orientation: int) -> None:
    stored = stored_turned((480, 640), orientation)
    upright_hw = (640, 480) if orientation > 4 else (480, 640)
    assert (stored.size_hw, stored.root.size_hw) == ((480, 640), upright_hw)
    assert Turned.of(stored) == (False, 1, stored.root)
    assert Turned.of(stored.resize((240, 320))) == (False, 1, stored.root)
    upright = stored.exif_transpose(orientation)
    assert not stored.root.map_to(upright).transposed
    assert Turned.of(upright.resize((100, 100))) == (True, 2, stored)
    late = stored.resize((240, 320)).exif_transpose(orientation)
    assert Turned.of(late) == (True, 3, stored)
    assert Turned.of(roialign.Frame.image((480, 640)).exif_transpose(orientation)) is None


def test_pil_is_left_as_it_was() -> None:
    before = Image.open, Image.Image.convert, Image.Image.copy
    with roialign.watch():
        assert Image.open is not before[0]
    assert (Image.open, Image.Image.convert, Image.Image.copy) == before
