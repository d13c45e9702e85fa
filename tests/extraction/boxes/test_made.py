"""The whole image, and grids over it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy
import pytest
from PIL import Image

from roialign.backbones.reading import read
from roialign.errors import FeatureMapError
from roialign.extraction.items import ImageRef

from .scenes import IMAGES, opened


def image(folder: Path, size_hw: tuple[int, int], orientation: int = 1) -> ImageRef:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_hw[::-1]).save(folder / "a.jpg", exif=exif)
    return ImageRef("a.jpg", str(folder / "a.jpg"))


def test_the_whole_image(tmp_path: Path) -> None:
    source = opened("whole", tmp_path)
    for ref in IMAGES:
        found = source.of(ref)
        assert found is not None
        assert found.boxes_xyxy.tolist() == [[0, 0, 1, 1]]
        assert found.normalized
    assert source.matching is None
    assert list(source.unmatched([])) == []
    assert source.columns == {}


def test_cells_make_up_the_image_row_by_row(tmp_path: Path) -> None:
    found = opened("grid:2x4", tmp_path).of(IMAGES[0])
    assert found is not None
    assert found.boxes_xyxy[[0, 1, 4, 7]].tolist() == [
        *([0, 0, 0.25, 0.5], [0.25, 0, 0.5, 0.5]),
        *([0, 0.5, 0.25, 1], [0.75, 0.5, 1, 1]),
    ]
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    assert float(sides.prod(1).sum()) == 1
    assert len(found) == 8
    assert found.box_ids[5] == "5"


@pytest.mark.parametrize("size_hw", [(100, 130), (100, 128), (64, 64), (30, 200), (1, 1), (65, 96)])
def test_squares_cover_the_image_and_stay_in_it(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    found = opened("grid:64/32", tmp_path, "a.jpg").of(image(tmp_path, size_hw))
    assert found is not None
    assert found.size_hw == size_hw
    assert not found.normalized
    covered = numpy.zeros(size_hw, dtype=int)
    for x1, y1, x2, y2 in found.boxes_xyxy.astype(int):
        assert 0 <= x1 < x2 <= size_hw[1]
        assert 0 <= y1 < y2 <= size_hw[0]
        assert (x2 - x1, y2 - y1) == (min(64, size_hw[1]), min(64, size_hw[0]))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    assert len({tuple(box) for box in found.boxes_xyxy.tolist()}) == len(found)


def test_squares_are_every_step_and_the_last_ends_at_the_edge(tmp_path: Path) -> None:
    found = opened("grid:64/32", tmp_path, "a.jpg").of(image(tmp_path, (64, 130)))
    assert found is not None
    assert found.boxes_xyxy[:, 0].tolist() == [0, 32, 64, 66]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_squares_are_of_the_upright_picture(tmp_path: Path, orientation: int) -> None:
    ref = image(tmp_path, (40, 100), orientation)
    found = opened("grid:40/40", tmp_path, "a.jpg").of(ref)
    assert found is not None
    assert found.size_hw == read(ref.location).frame.size_hw == ((40, 100) if orientation < 5 else (100, 40))


def test_a_broken_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(FeatureMapError, match=r"^RA307: expected a\.jpg as "):
        opened("grid:64/32", tmp_path, "a.jpg").of(ImageRef("a.jpg", str(tmp_path / "a.jpg")))


def test_each_word_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    words = ("whole", "grid:1x2", "grid:2x1", "grid:64/32", "grid:32/64", "grid:64/64")
    assert len({opened(word, tmp_path).fingerprint for word in words}) == len(words)


def test_the_size_is_read_from_the_head_of_the_file(tmp_path: Path) -> None:
    ref = image(tmp_path, (1000, 2000))
    content = Path(ref.location).read_bytes()
    Path(ref.location).write_bytes(content[:1000])
    found = opened("grid:1000/1000", tmp_path, "a.jpg").of(ref)
    assert found is not None
    assert len(found) == 2
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(content[:1000])).load()
