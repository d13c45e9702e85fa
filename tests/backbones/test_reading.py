"""Images of any kind become the picture that a person sees, as floats from 0 to 1; or are refused with what to type."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from roialign.backbones.pictures import sources_of, tensors_of
from roialign.backbones.reading import read
from roialign.errors import FeatureMapError, FrameError
from roialign.geometry import Frame

RAMP = np.linspace(0, 1, 48).reshape(6, 8)  # 6 high, 8 wide
BYTES = (RAMP * 255).round().astype("uint8")
WORDS = (RAMP * 65535).round().astype("uint16")
COLOURS = np.stack([BYTES, BYTES[::-1], BYTES[:, ::-1]], 2)
GREY = torch.from_numpy(RAMP).float().expand(3, -1, -1)
RGB = torch.from_numpy(COLOURS).permute(2, 0, 1) / 255
DOUBLE = torch.from_numpy(COLOURS / 255).permute(2, 0, 1)


def pixels(image: Any) -> Tensor:
    return read(image).pixels_chw


def png_of_16_bits(values: np.ndarray, path: Path) -> Path:
    """A PNG of 16 bits a channel, grey or RGB, as Pillow does not write it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


RGB_IMAGE, GREY_IMAGE = Image.fromarray(COLOURS), Image.fromarray(BYTES)
MODES = {
    "RGB": (RGB_IMAGE, RGB, 0),
    "RGBX": (RGB_IMAGE.convert("RGBX"), RGB, 0),
    "RGBA": (RGB_IMAGE.convert("RGBA"), RGB, 0),
    "CMYK": (RGB_IMAGE.convert("CMYK"), RGB, 0),
    "YCbCr": (RGB_IMAGE.convert("YCbCr"), RGB, 0.012),
    "HSV": (RGB_IMAGE.convert("HSV"), RGB, 0.03),
    "LAB": (Image.new("LAB", (8, 6), (128, 128, 128)), torch.full((3, 6, 8), 0.466), 0.01),  # L* = 50: middle grey
    "L": (GREY_IMAGE, GREY, 0.002),
    "LA": (GREY_IMAGE.convert("LA"), GREY, 0.002),
    "La": (GREY_IMAGE.convert("LA").convert("La"), GREY, 0.002),
    "RGBa": (RGB_IMAGE.convert("RGBA").convert("RGBa"), RGB, 0),
    "P": (GREY_IMAGE.convert("P"), GREY, 0.002),
    "PA": (GREY_IMAGE.convert("P").convert("PA"), GREY, 0.002),
    "1": (GREY_IMAGE.point(lambda value: 255 * (value > 127)).convert("1"), (GREY > 0.5).float(), 0),
    "I;16": (Image.fromarray(WORDS), GREY, 1e-5),
    "I;16B": (Image.frombytes("I;16B", (8, 6), WORDS.astype(">u2").tobytes()), GREY, 1e-5),
    "F": (Image.fromarray(RAMP.astype("float32")), GREY, 1e-6),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pil_is_the_same_picture(mode: str) -> None:
    image, expected, off = MODES[mode]
    assert image.mode == mode
    picture = read(image)
    torch.testing.assert_close(picture.pixels_chw, expected, atol=off, rtol=0)
    assert picture.frame.size_hw == (6, 8)
    assert picture.frame.parent is None


def test_transparency_is_dropped_as_torchvision_and_opencv_drop_it(tmp_path: Path) -> None:
    unseen = RGB_IMAGE.convert("RGBA")
    unseen.putalpha(0)
    assert torch.equal(pixels(unseen), RGB)
    palette = unseen.quantize(256)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(pixels(tmp_path / "palette.png"), pixels(palette), atol=0, rtol=0)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "jp2"])
def test_grey_files_of_16_bits_are_not_clipped(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"words.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 6 65535\n" + WORDS.astype(">u2").tobytes())
    else:
        Image.fromarray(WORDS).save(path)
    torch.testing.assert_close(pixels(path), GREY, atol=1e-5, rtol=0)


def test_colour_files_of_16_bits_and_tiffs_of_12(tmp_path: Path) -> None:
    path = png_of_16_bits(np.stack([WORDS, WORDS[::-1], WORDS[:, ::-1]], 2), tmp_path / "colours.png")
    torch.testing.assert_close(pixels(path), RGB, atol=0.005, rtol=0)
    torch.testing.assert_close(pixels(png_of_16_bits(WORDS, tmp_path / "grey.png")), GREY, atol=1e-5, rtol=0)
    twelve = Image.fromarray((RAMP * 4095).round().astype("uint16"))
    twelve.tag_v2 = {258: (12,)}  # as of a file that says so; Pillow does not write any
    torch.testing.assert_close(pixels(twelve), GREY, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", [str, Path])
def test_files_by_path(kind: type, tmp_path: Path) -> None:
    RGB_IMAGE.save(tmp_path / "photo.png")
    assert torch.equal(pixels(kind(tmp_path / "photo.png")), RGB)


def test_of_several_pages_the_first_of_a_file_and_the_chosen_one_of_an_image(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 6), (value, 0, 0)) for value in (51, 102)]
    for suffix in ("gif", "tiff"):
        path = tmp_path / f"pages.{suffix}"
        pages[0].save(path, save_all=True, append_images=pages[1:])
        assert float(pixels(path)[0].mean()) == pytest.approx(0.2, abs=0.01)
        with Image.open(path) as opened:
            opened.seek(1)
            assert float(pixels(opened)[0].mean()) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_an_unknown_range_are_refused(mode: str) -> None:
    image = Image.fromarray(WORDS).convert("I").convert(mode)
    with pytest.raises(FeatureMapError, match=rf'RA307: .*mode "{mode}" with values from 0 to 65535.*numpy\.asarray'):
        read(image)


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no image")
    RGB_IMAGE.resize((200, 200)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:150])
    (tmp_path / "head.png").write_bytes((tmp_path / "whole.png").read_bytes()[:20])
    for name in ("words.png", "cut.png", "head.png", "none.png", ""):
        with pytest.raises(FeatureMapError, match=rf"^RA307: expected image 3 as the path .*{name}'"):
            read(tmp_path / name, "image 3")
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(FeatureMapError, match=r"^RA307: .*cut\.png"):
        read(cut)


def test_exif_that_is_none_is_ignored(tmp_path: Path) -> None:
    RGB_IMAGE.save(tmp_path / "a.jpg", quality=100, exif=b"Exif\0\0garbage")
    assert read(tmp_path / "a.jpg").orientation == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_made_upright_and_their_frame_says_so(orientation: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    stored = Image.fromarray(COLOURS).resize((64, 48), Image.Resampling.NEAREST)
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored.save(
        path, exif=tags, **({"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {})
    )
    with Image.open(path) as opened:
        upright = np.array(ImageOps.exif_transpose(opened))
    for image in (path, Image.open(path)):
        picture = read(image)
        assert torch.equal(picture.pixels_chw, torch.from_numpy(upright).permute(2, 0, 1) / 255)
        assert picture.frame.size_hw == upright.shape[:2]
        assert picture.frame.root.size_hw == (48, 64)
        assert picture.frame == picture.frame.root.exif_transpose(orientation)
    if suffix != "jpg":  # a box's pixels are the same ones, turned
        (left, top, right, bottom), _ = box = torch.tensor([[8.0, 4, 30, 21], [0, 0, 64, 48]])
        there = picture.frame.root.map_to(picture.frame).boxes(box).int().tolist()
        x1, y1, x2, y2 = there[0]
        part = torch.from_numpy(np.array(stored))[int(top) : int(bottom), int(left) : int(right)].flatten(0, 1)
        seen = torch.from_numpy(upright)[y1:y2, x1:x2].flatten(0, 1)
        assert sorted(part.tolist()) == sorted(seen.tolist())


def test_a_folder_is_read_upright(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    for index in range(2):
        Image.fromarray(COLOURS).save(tmp_path / f"{index}.png", exif=tags)
    for image in tensors_of(sources_of(tmp_path), None, None):
        assert image.shape == (3, 8, 6)
        assert torch.equal(image, RGB.rot90(-1, (1, 2)))


STORED = Frame.image((6, 8), name="photo")


def turned(orientation: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    image = Image.new("RGB", size)
    image.getexif()[0x0112] = orientation
    return image


def test_a_frame_that_is_given_may_be_of_the_stored_picture_or_of_the_upright_one() -> None:
    picture = read(turned(6))
    upright = Frame.image((8, 6))
    assert picture.frame_named(None, "it") is picture.frame
    assert picture.frame_named(STORED, "it") == STORED.exif_transpose(6)
    assert picture.frame_named(upright, "it") is upright
    assert picture.frame_named(STORED.exif_transpose(6), "it") == STORED.exif_transpose(6)
    with pytest.raises(FrameError, match=r"RA107: .*image 2 .*8 x 6, or as stored \(EXIF orientation 6\) 6 x 8;"):
        picture.frame_named(Frame.image((9, 9)), "image 2")


@pytest.mark.parametrize(("orientation", "size"), [(3, (8, 6)), (2, (8, 6)), (4, (8, 6)), (6, (7, 7))])
def test_where_a_size_does_not_tell_the_frame_has_to(orientation: int, size: tuple[int, int]) -> None:
    picture, stored = read(turned(orientation, size)), Frame.image(size[::-1])
    said = stored.exif_transpose(orientation)
    assert picture.frame_named(said, "it") is said
    assert picture.frame_named(picture.frame, "it") is picture.frame
    with pytest.raises(FrameError, match=rf"RA107: .*frames=\[frame\.exif_transpose\({orientation}\)\]"):
        picture.frame_named(stored, "it")


CHW = COLOURS.transpose(2, 0, 1)
ARRAYS = {
    "uint8": (COLOURS, RGB),
    "bool": (COLOURS > 99, (torch.from_numpy(COLOURS) > 99).permute(2, 0, 1).float()),
    "grey": (BYTES, torch.from_numpy(BYTES)[None] / 255),
    "uint16": (COLOURS.astype("uint16") * 257, RGB),
    "uint16 of the other byte order": (COLOURS.astype(">u2") * np.array(257, ">u2"), RGB),
    "float32": ((COLOURS / 255).astype("float32"), RGB),
    "float64": (COLOURS / 255, DOUBLE),
    "float of the other byte order": ((COLOURS / 255).astype(">f8"), DOUBLE),
    "normalised": ((COLOURS / 255 - 0.5) / 0.2, (DOUBLE - 0.5) / 0.2),
    "BGR as RGB": (COLOURS[..., ::-1], RGB.flip(0)),
    "upside down": (COLOURS[::-1], RGB.flip(1)),
    "many channels": (np.tile(COLOURS, (1, 1, 4)), RGB.repeat(4, 1, 1)),
    "the other memory order": (np.asfortranarray(COLOURS), RGB),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_any_memory_and_type(name: str) -> None:
    array, expected = ARRAYS[name]
    array = array.view()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(array)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_tensors() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        image = (RGB * 300).to(dtype)
        assert pixels(image) is image
    torch.testing.assert_close(pixels(torch.from_numpy(CHW.copy())), RGB)
    torch.testing.assert_close(pixels((torch.from_numpy(CHW).int() * 257).to(torch.uint16)), RGB)
    assert torch.equal(pixels(torch.ones(1, 2, 3, dtype=torch.bool)), torch.ones(1, 2, 3))
    assert pixels(torch.rand(3, 9, 3)).shape == (3, 9, 3), "3 columns: as a tensor is documented"
    assert pixels(np.zeros((3, 9, 3))).shape == (3, 3, 9), "3 rows: as an array is documented"


REFUSED: dict[str, tuple[Any, str]] = {
    "channels first": (CHW, r"array uint8 \[3, 6, 8\].*transpose\(1, 2, 0\).*torch\.from_numpy"),
    "channels last": (torch.from_numpy(COLOURS), r"uint8 tensor \[6, 8, 3\].*permute\(2, 0, 1\)"),
    "floats up to 255": (COLOURS.astype("float32"), r"values from 0 to 255\. Pass image / 255"),
    "integers of bytes": (COLOURS.astype("int64"), r'from 0 to 255\. If 255 is white, pass image\.astype\("uint8"\)'),
    "a tensor of bytes": (torch.from_numpy(CHW).int(), r"int32 .*from 0 to 255\. .*image\.to\(torch\.uint8\)"),
    "integers": (WORDS.astype("int32"), r"from 0 to 65535\. Their range is not known: pass image / the largest"),
    "signed": (torch.full((3, 6, 8), -4, dtype=torch.int16), r"from -4 to -4\. Their range is not known"),
    "large": (WORDS.astype("uint32"), r"from 0 to 65535\. Their range"),
    "complex": (COLOURS * 1j, r"Pass its magnitude, image\.abs\(\)"),
    "words": (np.full((6, 8), "a"), r"array <U1 \[6, 8\]"),
    "a batch": (np.zeros((2, 6, 8, 3)), r"array float64 \[2, 6, 8, 3\]\. Pass a list of images: list\(images\)"),
    "a row": (np.zeros(9), r"array float64 \[9\]"),
    "nothing": (np.zeros((0, 8, 3)), r"array float64 \[0, 8, 3\]"),
    "no pixels": (torch.zeros(3, 0, 8), r"tensor \[3, 0, 8\]"),
    "a number": (7, r"int 7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_with_what_to_type(name: str) -> None:
    image, message = REFUSED[name]
    with pytest.raises(FeatureMapError, match=f"^RA307: expected image 1 .*{message}"):
        read(image, "image 1")
