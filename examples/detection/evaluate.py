"""Average precision of a trained detector, as COCO counts it: `python -m examples.detection.evaluate --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import numpy
import torch
from hotcoco import COCO, COCOeval
from hotcoco import mask as rle
from torch import Tensor, nn

from .checkpoint import restore
from .data import Photos, read, run_lengths
from .model import Pooler

Results = list[dict[str, Any]]
_MOST_DETECTIONS = 100  # of an image, those of the highest scores


def detections(model: nn.Module, photos: Photos) -> Iterator[dict[str, Tensor]]:
    """What the detector finds in each photograph, in its pixels, on the CPU."""
    kind = next(model.parameters())
    trained = model.training
    model.eval()
    with torch.inference_mode():
        for photo in photos:
            (found,) = model([photo.pixels().to(kind) / 255])
            yield {key: value.cpu() for key, value in found.items()}
    model.train(trained)


def as_truth(photos: Photos) -> dict[str, Any]:
    """The ground truth, in COCO's form. The photographs are numbered from 1."""
    annotations: Results = []
    for number, photo in enumerate(photos, start=1):
        sides = photo.boxes_xyxy[:, 2:] - photo.boxes_xyxy[:, :2]
        for index, (corner, side) in enumerate(zip(photo.boxes_xyxy[:, :2].tolist(), sides.tolist(), strict=True)):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(photo.labels[index]),
                "bbox": [*corner, *side],
                "area": side[0] * side[1],
                "iscrowd": int(photo.crowd[index]),
            }
            if photo.outlines is not None:
                annotation["segmentation"] = run_lengths(photo.outlines[index], photo.size_hw)
                annotation["area"] = float(rle.area(annotation["segmentation"]))
            annotations.append(annotation)
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": photo.path.name, "height": photo.size_hw[0], "width": photo.size_hw[1]}
            for number, photo in enumerate(photos, start=1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(photos.classes, start=1)],
        "annotations": annotations,
    }


def as_results(number: int, found: dict[str, Tensor]) -> Results:
    """What was found in photograph `number`, in COCO's form."""
    corners, sides = found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]
    rows = torch.cat([corners, sides], 1).tolist()
    outlines: list[Any] = [None] * len(rows)
    if "masks" in found and rows:
        filled = (found["masks"][:, 0] > 0.5).permute(1, 2, 0).to(torch.uint8)
        outlines = rle.encode(numpy.asfortranarray(filled.numpy()))
    return [
        {"image_id": number, "category_id": label, "bbox": row, "score": score}
        | ({"segmentation": outline} if outline is not None else {})
        for row, label, score, outline in zip(
            rows, found["labels"].tolist(), found["scores"].tolist(), outlines, strict=True
        )
    ]


def average_precision(
    truth: dict[str, Any], results: Results, kind: str = "bbox", small_px: float = 32
) -> dict[str, float]:
    """AP over IoU 0.5 to 0.95, AP50, AP75, AP of small objects, and AP50 of each class.

    Args:
        kind: "bbox" compares boxes, "segm" masks.
        small_px: an object whose area is less than the square of it is small.
    """
    names = [one["name"] for one in truth["categories"]]
    if not results:
        return dict.fromkeys(["AP", "AP50", "AP75", "AP small", *(f"AP50 {name}" for name in names)], 0.0)
    with redirect_stdout(StringIO()):  # it tells how long it took
        ground_truth = COCO(truth)
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), kind)
        evaluation.params.maxDets = [1, 10, _MOST_DETECTIONS]
        evaluation.params.areaRng = [[0, 1e10], [0, small_px**2]]
        evaluation.params.areaRngLbl = ["all", "small"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, of_small = (evaluation.eval["precision"][:, :, :, area, -1] for area in (0, 1))  # IoU, recall, class
    wanted = {"AP": precision, "AP50": precision[:1], "AP75": precision[5:6], "AP small": of_small}
    wanted |= {f"AP50 {name}": precision[:1, :, index] for index, name in enumerate(names)}
    return {key: float(some[some > -1].mean()) if (some > -1).any() else float("nan") for key, some in wanted.items()}


def evaluate(model: nn.Module, photos: Photos, small_px: float = 32) -> tuple[dict[str, dict[str, float]], Results]:
    """The average precision of boxes and, where there are some, of masks, and what it was computed from."""
    results = [
        result
        for number, found in enumerate(detections(model, photos), start=1)
        for result in as_results(number, found)
    ]
    truth = as_truth(photos)
    has_masks = photos.has_masks and any("segmentation" in result for result in results)
    kinds = {"boxes": "bbox"} | ({"masks": "segm"} if has_masks else {})
    return {name: average_precision(truth, results, kind, small_px) for name, kind in kinds.items()}, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder of VOC's or COCO's form")
    parser.add_argument("--checkpoint", type=Path, required=True, help="what the training wrote")
    parser.add_argument("--split", default="test", help="which photographs (default: test)")
    parser.add_argument("--pooler", choices=get_args(Pooler), help="another than it was trained with")
    parser.add_argument("--results", type=Path, help="write what was found there, as JSON in COCO's form")
    options = parser.parse_args()
    model, classes = restore(options.checkpoint, options.pooler)
    scores, results = evaluate(model, read(options.data, options.split, classes))
    if options.results:
        options.results.write_text(json.dumps(results, default=_as_text))
    print(told(scores))


def told(scores: dict[str, dict[str, float]]) -> str:
    """The scores in lines of text."""
    return "\n".join(
        f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in of_kind.items())
        for name, of_kind in scores.items()
    )


def _as_text(value: bytes) -> str:
    return value.decode("ascii")  # run lengths


if __name__ == "__main__":
    main()
