"""RegionExtractor and pictures whose file says that they are turned: boxes of the upright picture, or of the stored."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from roialign.errors import FrameError
from roialign.geometry import Boxes, Frame
from roialign.regions import RegionExtractor

UPRIGHT_HW = (96, 128)
BOXES = torch.tensor([[16.0, 8, 48, 56], [40, 24, 120, 72]])
STORED_BOXES = {  # by hand: where the boxes lie in the picture as it is stored
    3: torch.tensor([[80.0, 40, 112, 88], [8, 24, 88, 72]]),
    6: torch.tensor([[8.0, 80, 56, 112], [24, 8, 72, 88]]),
    8: torch.tensor([[40.0, 16, 88, 48], [24, 40, 72, 120]]),
}
UNDO = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


class Pixels(nn.Module):
    """Means of 4 x 4 pixels: a box's feature is the picture's colour there."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels, 4)


def upright() -> Image.Image:
    y, x = np.meshgrid(np.linspace(0, 1, UPRIGHT_HW[0]), np.linspace(0, 1, UPRIGHT_HW[1]), indexing="ij")
    return Image.fromarray((np.stack([x, y, x * y], 2) * 255).round().astype("uint8"))


@pytest.fixture
def stored(tmp_path: Path, orientation: int) -> Path:
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / "photo.png"
    upright().transpose(UNDO[orientation]).save(path, exif=tags)
    return path


FITS = {"as it is": None, "letterboxed": partial(Frame.letterbox, size_hw=(160, 160)), "flipped": Frame.flip_horizontal}


@pytest.mark.parametrize("orientation", STORED_BOXES)
@pytest.mark.parametrize("fit", FITS)
def test_plain_boxes_are_of_the_upright_picture_and_stored_ones_of_a_frame(
    stored: Path, orientation: int, fit: str
) -> None:
    extractor = RegionExtractor(Pixels(), 2, fit=FITS[fit])
    wanted = extractor(upright(), BOXES).features
    torch.testing.assert_close(extractor(stored, BOXES).features, wanted)
    torch.testing.assert_close(extractor([Image.open(stored)], [BOXES]).features, wanted)
    batch = extractor.prepare(stored)
    (frame,) = batch.frames
    with Image.open(stored) as opened:
        assert frame.root.size_hw == (opened.height, opened.width)
    assert frame.chain[1].size_hw == UPRIGHT_HW
    framed = Boxes(STORED_BOXES[orientation], frame.root)
    torch.testing.assert_close(extractor(batch, framed).features, wanted, atol=1e-5, rtol=0)
    of_file = Frame.image(frame.root.size_hw, id="photo.png")
    framed, turned = Boxes(STORED_BOXES[orientation], of_file), of_file.exif_transpose(orientation)
    assert_same = partial(torch.testing.assert_close, expected=wanted, atol=1e-5, rtol=0)
    assert_same(extractor(stored, framed, frames=turned).features)
    assert_same(extractor(stored, Boxes(BOXES, turned)).features)
    if orientation == 3:
        with pytest.raises(FrameError, match=r"RA107: .*upright: .*orientation is 3.*frames=\[frame\.exif_transpose"):
            extractor(stored, framed)
    else:
        assert_same(extractor(stored, framed).features)
        assert_same(extractor(stored, Boxes(BOXES, Frame.image(UPRIGHT_HW))).features)


@pytest.mark.parametrize("orientation", [6])
def test_a_frame_of_neither_is_refused(stored: Path, orientation: int) -> None:
    with pytest.raises(FrameError, match=r"RA107: .*of its size, 96 x 128, or as stored .* 128 x 96; got image"):
        RegionExtractor(Pixels(), 2).prepare(stored, [Frame.image((64, 64))])
