"""A folder of hostile files: one of each kind, with boxes for all."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from .scenes import boxes_of, coco, picture

GOOD = {
    "good.png": "a picture, with four boxes that are NaN, inverted, outside and empty, and one that is half outside",
    "räksmörgås och 猫.png": "a name that is not ASCII",
    "sub dir/with space.jpg": "spaces, and a folder with a link to the one above it",
    "wrong exif.jpg": "EXIF that is none",
    "grey.png": "grey",
    "alpha.png": "with alpha",
    "16.png": "16 bits",
    "crowded.png": "very many boxes",
}
"""What can be extracted, by name, and what is odd about it; most have three boxes."""

BAD = {
    "truncated.jpg": "half of a JPEG",
    "empty.jpg": "no byte",
    "text.png": "text",
    "gone.png": "a link to nothing",
    "dot.png": "1 x 1 pixel, too small for the backbone",
    "bomb.png": "200 million pixels in 25 kB",
    "missing.png": "in the annotations only",
    "none.png": "a picture without boxes",
    "unknown.png": "a picture that the annotations do not name",
}
"""What cannot be."""


def hostile(folder: Path, crowd: int = 500) -> tuple[Path, Path]:
    """The folder of images, and the file of their boxes; more good ones than bad ones, or the sample stops it.

    Args:
        crowd: boxes in crowded.png.
    """
    photos = folder / "photos"
    (photos / "sub dir").mkdir(parents=True)
    picture(0).save(photos / "good.png")
    picture(1).save(photos / "räksmörgås och 猫.png")
    picture(2).save(photos / "sub dir" / "with space.jpg")
    picture(3).save(photos / "wrong exif.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xffnonsense")
    picture(4).convert("L").save(photos / "grey.png")
    picture(5).convert("RGBA").save(photos / "alpha.png")
    Image.fromarray((torch.arange(48 * 64).view(48, 64) * 20).numpy().astype("uint16")).save(photos / "16.png")
    picture(6).save(photos / "crowded.png")
    whole = (photos / "sub dir" / "with space.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no image at all")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    Image.new("1", (20_000, 10_000)).save(photos / "bomb.png")
    (photos / "sub dir" / "loop").symlink_to(photos)
    picture(8).save(photos / "none.png")
    picture(9).save(photos / "unknown.png")
    names = [*GOOD, *(name for name in BAD if name != "unknown.png")]
    sizes = {"dot.png": (1, 1), "bomb.png": (10_000, 20_000)}
    images = [
        {"id": number, "file_name": name, "height": sizes.get(name, (48, 64))[0], "width": sizes.get(name, (48, 64))[1]}
        for number, name in enumerate(names)
    ]
    marked = {number: boxes_of(number, 3) for number, name in enumerate(names) if name != "none.png"}
    marked[names.index("dot.png")] = [[0, 0, 1, 1]]
    marked[names.index("crowded.png")] = boxes_of(7, crowd)
    marked[names.index("good.png")] += [
        [float("nan"), 0, 5, 5],
        [9, 9, -4, 5],
        [70, 10, 5, 5],
        [3, 3, 0, 4],
        [60, 40, 9, 9],
    ]
    return photos, coco(folder / "boxes.json", images, marked)
