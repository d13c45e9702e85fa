"""torchvision's detectors that pool with roialign's MultiScaleRoIAlign, exported as torchvision exports its own."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import roialign
from tests.ops.tolerances import assert_close

from .exporting import TRACED, run

detection = pytest.importorskip("torchvision.models.detection", reason="the detectors are torchvision's")
anchors = pytest.importorskip("torchvision.models.detection.anchor_utils")
NAMES = ["fine", "coarse"]


class Backbone(nn.Module):
    """Two maps, of strides 4 and 8."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.fine(images)
        return OrderedDict(fine=fine, coarse=self.coarse(fine))


class OneImage(nn.Module):
    """A detector of one image, whose results come as a tuple."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.detector([image])[0].values())


@pytest.mark.parametrize(("kind", "outputs"), [("FasterRCNN", 3), ("MaskRCNN", 4)])
def test_a_detector_gives_what_it_does_in_torch(kind, outputs):
    torch.manual_seed(3)
    detector = getattr(detection, kind)(
        Backbone(),
        num_classes=4,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=anchors.AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2),
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=30,
        box_score_thresh=0.0,
        box_detections_per_img=12,
    )
    heads = detector.roi_heads
    heads.box_roi_pool = roialign.MultiScaleRoIAlign(NAMES, 7, 2, canonical_scale=30, canonical_level=2.5)
    if heads.has_mask():
        heads.mask_roi_pool = roialign.MultiScaleRoIAlign(NAMES, 14, 2)
    model = OneImage(detector).eval()
    exported = TRACED(model, {"image": torch.rand(3, 70, 90)}, {"image": {1: "height", 2: "width"}})
    assert any(node.op_type == "RoiAlign" for node in exported.graph.node)
    for size_hw in ((70, 90), (96, 61)):
        image = torch.rand(3, *size_hw)
        with torch.no_grad():
            expected = model(image)
        actual = run(exported, {"image": image})
        assert len(expected) == len(actual) == outputs
        assert len(expected[0]) == 12
        for one, wanted in zip(actual, expected, strict=True):
            assert_close(one, wanted, scale=wanted, dtype=torch.float32)
