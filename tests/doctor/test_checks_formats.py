"""RA201 and RA202: boxes with a size in place of the second corner, told apart where they can be."""

from __future__ import annotations

import torch
from torch import Tensor

import roialign
from tests.doctor.calls import Scene, scenes
from tests.doctor.test_diagnose import changes_the_features, pasted, pooled


def as_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    return torch.cat([(boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)


def diagnosed(scene: Scene, boxes: Tensor, known: bool = True) -> roialign.Diagnosis:
    size = scene.size_hw if known else None
    return roialign.diagnose(scene.features, [boxes], 7, scene.scale, 2, True, image_size=size)


def test_centre_and_size_are_named_or_stand_beside_corner_and_size() -> None:
    first, repaired = [], []
    for scene in scenes(120, (5, 8, 20, 60)):
        boxes = as_cxcywh(scene.boxes_xyxy)
        if not changes_the_features(scene, boxes, scene.scale):
            continue
        finding = diagnosed(scene, boxes).findings[0]
        first.append(finding.code)
        if finding.code == "RA201":  # then it must say that it cannot tell
            assert finding.decide is not None
            assert "The evidence also fits RA202 (centre and size)" in finding.decide
            assert len(finding.alternatives) == 1
        fix = finding.fix if finding.code == "RA202" else finding.alternatives[0]
        assert fix is not None
        right = pooled(scene, scene.boxes_xyxy, scene.scale)
        repaired.append(bool(torch.allclose(fix.call.run()[0], right, atol=1e-4)))
    assert len(first) >= 100
    assert first.count("RA202") / len(first) >= 0.9
    assert all(repaired)


def test_corner_and_size_are_not_taken_for_centre_and_size() -> None:
    for scene in scenes(120):
        boxes = torch.cat([scene.boxes_xyxy[:, :2], scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2]], 1)
        for known in (False, True):
            codes = [finding.code for finding in diagnosed(scene, boxes, known).findings]
            assert "RA202" not in codes


def test_one_box_that_fits_both_ways_says_so() -> None:
    boxes = [torch.tensor([[500.0, 400.0, 100.0, 60.0]])]
    (finding,) = roialign.diagnose(torch.rand(1, 3, 64, 64), boxes, 7, 1 / 16, image_size=(1024, 1024)).findings
    assert finding.code == "RA201"
    assert finding.decide is not None
    assert finding.decide.startswith("The evidence also fits RA202 (centre and size): look at one box")
    assert finding.alternatives[0].call.rois[0, 1:].tolist() == [450, 370, 550, 430]


def test_boxes_clipped_to_the_border_decide() -> None:
    boxes = [torch.tensor([[100.0, 400.0, 200.0, 60.0], [500.0, 300.0, 100.0, 100.0]])]  # the first begins at x = 0
    (finding,) = roialign.diagnose(torch.rand(1, 3, 64, 64), boxes, 7, 1 / 16, image_size=(1024, 1024)).findings
    assert finding.code == "RA202"


def test_the_line_to_paste_does_what_was_proven() -> None:
    rois = torch.tensor([[0, 960.0, 300.0, 120.0, 100.0], [0, 640.0, 900.0, 100.0, 240.0]])
    (finding,) = roialign.diagnose(torch.rand(1, 3, 64, 64), rois, 7, 1 / 16).findings
    assert finding.code == "RA202"
    assert finding.fix is not None
    again, _ = pasted(finding.fix.code, finding.fix.call.input, rois)
    torch.testing.assert_close(again, finding.fix.call.rois)
    (finding,) = roialign.diagnose(torch.rand(1, 3, 64, 64), [rois[:, 1:]], 7, 1 / 16).findings
    assert finding.fix is not None
    again, _ = pasted(finding.fix.code, finding.fix.call.input, [rois[:, 1:]])
    torch.testing.assert_close(again, [finding.fix.call.rois[:, 1:]])
