"""A folder of COCO's form with the nuclei of the stardist wheel and their masks: `make train-nuclei`.

It is one fluorescence micrograph of 512 x 512 pixels in which each nucleus is outlined. The left half becomes
overlapping tiles to learn from, the right half tiles to test on.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy
from hotcoco import mask as rle
from PIL import Image

_TILE = 128  # pixels
_LEAST_VISIBLE = 0.3  # of a nucleus in a tile
_SPLITS = {  # the corners of the tiles, x and y
    "train": [(x, y) for y in range(0, 385, 64) for x in (0, 64, 128)],
    "test": [(x, y) for y in range(0, 385, 128) for x in (256, 384)],
}


def write(wheel: Path, folder: Path) -> None:
    """Write `annotations/SPLIT.json` and `images/*.png` for both splits."""
    with zipfile.ZipFile(wheel) as archive:
        levels, numbers = (
            numpy.asarray(Image.open(archive.open(f"stardist/data/images/{name}.tif"))) for name in ("img2d", "mask2d")
        )
    grey = (levels.astype("float32") / levels.max() * 255).round().astype("uint8")
    areas = dict(zip(*numpy.unique(numbers, return_counts=True), strict=True))
    for name in ("annotations", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, corners in _SPLITS.items():
        content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "nucleus"}],
        }
        for x, y in corners:
            image = {"id": len(content["images"]) + 1, "file_name": f"{x}_{y}.png", "height": _TILE, "width": _TILE}
            content["images"].append(image)
            Image.fromarray(grey[y : y + _TILE, x : x + _TILE]).save(folder / "images" / image["file_name"])
            tile = numbers[y : y + _TILE, x : x + _TILE]
            for number in numpy.unique(tile[tile > 0]):
                mask = tile == number
                if mask.sum() >= _LEAST_VISIBLE * areas[number]:
                    content["annotations"].append(_mark(len(content["annotations"]) + 1, image["id"], mask))
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def _mark(number: int, image: int, mask: numpy.ndarray) -> dict[str, Any]:
    run_lengths = rle.encode(numpy.asfortranarray(mask.astype("uint8")))
    box = [float(side) for side in rle.toBbox(run_lengths)]
    outline = {"size": list(mask.shape), "counts": run_lengths["counts"].decode("ascii")}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": box,
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": outline,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True, help="the stardist wheel, which is read as an archive")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args()
    write(options.wheel, options.out)


if __name__ == "__main__":
    main()
