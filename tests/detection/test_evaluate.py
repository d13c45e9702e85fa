"""Average precision: of what is known by hand, and equal to pycocotools's on results of all kinds."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("hotcoco", reason="needs the extra `detection`")
pytest.importorskip("timm", reason="needs the extra `detection`")

from examples.detection.data import Photos, read
from examples.detection.evaluate import as_results, as_truth, average_precision

from .scenes import write_coco, write_voc

SPLITS = {"test": range(20)}
SMALL_PX = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any) -> Photos:
    return read(write_coco(tmp_path_factory.mktemp("coco"), SPLITS), "test")


def found_in(photos: Photos, shift_px: float = 0.0) -> list[dict[str, Any]]:
    """Detections of all that is there, boxes moved to the right, with masks where they are drawn."""
    results = []
    for number, photo in enumerate(photos, start=1):
        masks = photo.masks()
        assert masks is not None
        moved = photo.boxes_xyxy + torch.tensor([shift_px, 0, shift_px, 0])
        found = {"boxes": moved, "labels": photo.labels, "scores": torch.linspace(0.9, 0.5, len(moved))}
        results += as_results(number, found | {"masks": masks[:, None].float()})
    return results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_all_found(photos: Photos, kind: str) -> None:
    scores = average_precision(as_truth(photos), found_in(photos), kind, small_px=1000)
    assert scores == dict.fromkeys(["AP", "AP50", "AP75", "AP small", "AP50 disc", "AP50 square"], pytest.approx(1))


def test_boxes_that_are_moved(photos: Photos) -> None:
    scores = average_precision(as_truth(photos), found_in(photos, shift_px=4))  # IoU 0.67 to 0.82
    assert scores["AP50"] == pytest.approx(1)
    assert scores["AP75"] < 0.9
    assert average_precision(as_truth(photos), found_in(photos, shift_px=30))["AP50"] < 0.1
    assert average_precision(as_truth(photos), [])["AP50"] == 0


def test_of_two_classes_one_is_missed(photos: Photos) -> None:
    discs = [result for result in found_in(photos) if result["category_id"] == 1]
    scores = average_precision(as_truth(photos), discs)
    assert scores["AP50 disc"] == pytest.approx(1)
    assert scores["AP50 square"] == 0
    assert scores["AP50"] == pytest.approx(0.5)


def test_difficult_things_are_not_counted(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, {"test": range(1)})
    page = folder / "Annotations" / "0.xml"
    page.write_text(page.read_text().replace("<difficult>0", "<difficult>1", 1))
    photos = read(folder, "test")
    (photo,) = photos
    assert photo.crowd.tolist() == [True, False]
    second = {"boxes": photo.boxes_xyxy[1:], "labels": photo.labels[1:], "scores": torch.ones(1)}
    assert average_precision(as_truth(photos), as_results(1, second))["AP50"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_parity_with_pycocotools(photos: Photos, kind: str, seed: int) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="compares with pycocotools, where it is installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth, results = as_truth(photos), noisy(photos, random.Random(seed))
    scores = average_precision(copy.deepcopy(truth), copy.deepcopy(results), kind, small_px=SMALL_PX)
    marked = coco.COCO()
    marked.dataset = copy.deepcopy(truth)
    marked.createIndex()
    evaluation = cocoeval.COCOeval(marked, marked.loadRes(copy.deepcopy(results)), kind)
    evaluation.params.areaRng[1] = [0, SMALL_PX**2]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = dict(zip(("AP", "AP50", "AP75", "AP small"), evaluation.stats, strict=False))
    assert 0.1 < expected["AP"] < 0.9
    assert 0.02 < expected["AP small"] != expected["AP"]
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def noisy(photos: Photos, draws: random.Random) -> list[dict[str, Any]]:
    """Detections as detectors make them: moved, doubled, of the wrong class, missed, and of nothing."""
    results = []
    for number, photo in enumerate(photos, start=1):
        rows, labels = [], []
        for box, label in zip(photo.boxes_xyxy.tolist(), photo.labels.tolist(), strict=True):
            for _ in range(draws.randrange(4)):
                rows.append([side + draws.gauss(0, 2) for side in box])
                labels.append(label if draws.random() < 0.8 else 3 - label)
        rows.append([5.0, 5.0, 25.0, 30.0])
        labels.append(1)
        boxes = torch.tensor(rows)
        scores = torch.tensor([draws.choice((0.3, 0.5, draws.random())) for _ in rows])
        found = {"boxes": boxes, "labels": torch.tensor(labels), "scores": scores, "masks": _filled(boxes)}
        results += as_results(number, found)
    return results


def _filled(boxes_xyxy: Tensor) -> Tensor:
    masks = torch.zeros(len(boxes_xyxy), 1, 80, 112)
    for mask, (left, top, right, bottom) in zip(masks[:, 0], boxes_xyxy.round().int().tolist(), strict=True):
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    return masks
