"""Boxes of detectron2 and supervision, by stand-ins with the attributes of theirs."""

import sys
import types

import numpy as np
import pytest
import torch

from roialign.errors import BoxesShapeError, DtypeError, FrameError
from roialign.geometry import Boxes, Frame
from roialign.integrations import detectron2, supervision

PHOTO = Frame.image((480, 640), name="photo")
ROWS = torch.tensor([[10.0, 20.0, 40.0, 60.0], [0.0, 0.0, 640.0, 480.0]])


class Detectron2Boxes:
    def __init__(self, tensor):
        self.tensor = tensor


class Instances:
    def __init__(self, image_size, **fields):
        self.image_size = image_size
        self.fields = fields

    def has(self, name):
        return name in self.fields

    def get(self, name):
        return self.fields[name]


class Detections:
    def __init__(self, xyxy, confidence=None):
        self.xyxy, self.confidence = xyxy, confidence


def test_detectron2_boxes():
    assert torch.equal(detectron2.boxes_from(Detectron2Boxes(ROWS), PHOTO).boxes_xyxy, ROWS)


@pytest.mark.parametrize("field", ["pred_boxes", "gt_boxes", "proposal_boxes"])
def test_detectron2_instances(field):
    instances = Instances((480, 640), scores=torch.ones(2), **{field: Detectron2Boxes(ROWS)})
    assert torch.equal(detectron2.boxes_from(instances, PHOTO).boxes_xyxy, ROWS)
    words = r"^RA107: .*frame's size, \(480, 640\); got image_size=\(800, 1066\) for \[photo 480x640\]"
    with pytest.raises(FrameError, match=words):
        detectron2.boxes_from(Instances((800, 1066), **instances.fields), PHOTO)


@pytest.mark.parametrize("given", [ROWS, Instances((480, 640)), None])
def test_what_is_not_of_detectron2(given):
    with pytest.raises(BoxesShapeError, match=r"^RA210: expected detectron2's Boxes, or Instances with boxes; got a "):
        detectron2.boxes_from(given, PHOTO)


def test_rotated_boxes_of_detectron2_are_refused():
    with pytest.raises(BoxesShapeError, match=r"^RA210: .*\[2, 5\]"):
        detectron2.boxes_from(Detectron2Boxes(torch.zeros(2, 5)), PHOTO)


def test_to_detectron2(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2.structures", types.SimpleNamespace(Boxes=Detectron2Boxes))
    small = PHOTO.resize((240, 320))
    assert detectron2.to_detectron2(Boxes(ROWS, PHOTO).to(small)).tensor.tolist() == (ROWS / 2).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_supervision(dtype):
    boxes = supervision.boxes_from(Detections(ROWS.numpy().astype(dtype)), PHOTO)
    assert boxes.boxes_xyxy.tolist() == ROWS.tolist()
    assert len(supervision.boxes_from(Detections(np.empty((0, 4))), PHOTO)) == 0
    with pytest.raises(DtypeError, match=r"^RA109: "):
        supervision.boxes_from(Detections(ROWS.numpy().astype(np.float16)), PHOTO)
    with pytest.raises(BoxesShapeError, match=r"^RA210: expected supervision's Detections.*got a Tensor"):
        supervision.boxes_from(ROWS, PHOTO)


def test_to_detections(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Detections))
    boxes = Boxes(ROWS.clone().requires_grad_(), PHOTO).to(PHOTO.resize((240, 320)))
    detections = supervision.to_detections(boxes, confidence=np.ones(2))
    assert type(detections.xyxy) is np.ndarray
    assert detections.xyxy.tolist() == (ROWS / 2).tolist()
    assert detections.confidence.tolist() == [1, 1]
