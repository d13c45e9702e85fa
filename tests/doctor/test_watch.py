"""`watch`: calls are seen whichever library makes them, and the program runs as it would without."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, RoIAlign, roi_align

import roialign

PIXELS = torch.tensor([[0.0, 100.0, 100.0, 200.0, 200.0], [0.0, 300.0, 300.0, 400.0, 400.0]])


def codes(report: roialign.Report) -> list[list[str]]:
    return [[finding.code for finding in diagnosis.findings] for diagnosis in report.calls]


def line_of(diagnosis: roialign.Diagnosis) -> int:
    assert diagnosis.call_site is not None
    path, _, line = diagnosis.call_site.rpartition(":")
    assert path.endswith("test_watch.py")
    return int(line)


def test_torchvisions_function_module_and_roialigns_own() -> None:
    features = torch.rand(1, 8, 64, 64)
    with roialign.watch() as report, roialign.set_policy("ignore"):
        outputs = [roi_align(features, PIXELS, 7)]
        outputs.append(RoIAlign(7, 1 / 16, 2)(features, PIXELS))
        outputs.append(roialign.roi_align(features, PIXELS, 7))
    assert codes(report) == [["RA101"], [], ["RA101"]]
    assert not report.ok
    first = line_of(report.calls[0])
    assert [line_of(diagnosis) for diagnosis in report.calls] == [first, first + 1, first + 2]
    assert torch.equal(outputs[0], roi_align(features, PIXELS, 7))
    assert len(report.calls) == 3, "what happens after the block is not seen"


def test_the_operator_is_put_back() -> None:
    before = torch.ops.torchvision.roi_align
    with pytest.raises(KeyError), roialign.watch():
        raise KeyError
    assert torch.ops.torchvision.roi_align is before
    with roialign.watch() as outer, roialign.watch() as inner:
        roi_align(torch.rand(1, 3, 64, 64), PIXELS, 7)
    assert len(outer.calls) == len(inner.calls) == 1
    assert torch.ops.torchvision.roi_align is before


def test_multi_scale_pooling() -> None:
    pooler = MultiScaleRoIAlign(["0", "1"], 7, 2)
    pyramid = {"0": torch.rand(1, 8, 64, 64), "1": torch.rand(1, 8, 32, 32)}
    boxes = [torch.tensor([[10.0, 10.0, 60.0, 60.0], [100.0, 100.0, 500.0, 500.0]])]
    with roialign.watch() as report:
        pooler(pyramid, boxes, [(512, 512)])
    assert codes(report) == [[], []]


@pytest.mark.parametrize(("scale", "expected"), [(1 / 8, []), (1 / 16, ["RA106"])])
def test_scales_that_the_program_wrote_down_are_doubted(scale: float, expected: list[str]) -> None:
    backbone = nn.Conv2d(3, 8, 8, stride=8)
    pooler = roialign.MultiScaleRoIAlign(["0"], 7, 2, scales=[scale], aligned=True)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 90.0], [0.0, 0.0, 448.0, 320.0], [300.0, 200.0, 440.0, 310.0]])
    with roialign.watch() as report:
        pooler({"0": backbone(torch.rand(1, 3, 320, 448))}, [boxes], [(320, 448)])
    assert codes(report) == [expected]
    if expected:
        (fix,) = report.findings[0].fixes
        assert fix.code == "MultiScaleRoIAlign(names, 7, 2, scales=[0.125], aligned=True)(features, boxes, sizes)"


def test_grids_are_believed() -> None:
    backbone = nn.Conv2d(3, 8, 8, stride=8)
    grid = roialign.FeatureGrid((40, 56), (16.0, 16.0))
    pooler = roialign.MultiScaleRoIAlign(["0"], 7, 2, grids=[grid], aligned=True)
    with roialign.watch() as report:
        pooler({"0": backbone(torch.rand(1, 3, 320, 448))}, [PIXELS[:1, 1:]], [(320, 448)])
    assert codes(report) == [[]]


class Pooling(nn.Module):
    """A backbone of stride 16."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(image, 16)


class Detector(nn.Module):
    """A backbone and its pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pooling()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return roi_align(self.backbone(image), PIXELS, 7, 1 / 16)


@pytest.mark.filterwarnings("ignore:.*global hooks on modules:UserWarning")
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_modules_run_as_they_would(fullgraph: bool) -> None:
    """The hooks that look for images must stay out of what is compiled."""
    image = torch.rand(1, 3, 480, 480)
    with roialign.watch() as report:
        compiled = torch.compile(Detector(), backend="aot_eager", fullgraph=fullgraph)(image)
        torch.export.export(Detector(), (image,))
    assert torch.equal(compiled, Detector()(image))
    assert codes(report) == [[]]


def test_the_image_that_entered_the_backbone_is_evidence() -> None:
    image = torch.rand(1, 3, 320, 480)
    with roialign.watch() as report:
        features = Pooling()(image)
        roi_align(features.repeat(1, 4, 1, 1), [torch.tensor([[100.0, 100.0, 200.0, 200.0]])], 7)
        roi_align(features, [torch.tensor([[100.0, 100.0, 200.0, 200.0]])], 7, spatial_scale=1 / 8)
    assert codes(report) == [["RA101"], ["RA106"]]
    assert all(f.fix is not None and f.fix.value == 1 / 16 and not f.alternatives for f in report.findings)
    assert report.calls[0].image is not None
    assert torch.equal(report.calls[0].image, image[0])


def test_an_unrelated_image_is_no_evidence() -> None:
    with roialign.watch() as report:
        Pooling()(torch.rand(1, 3, 320, 480))
        roi_align(torch.rand(1, 4, 64, 64), [torch.tensor([[100.0, 100.0, 200.0, 200.0]])], 7, spatial_scale=1 / 16)
    assert report.ok


def test_a_detection_model_is_healthy_and_its_detections_unchanged() -> None:
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    model.eval()
    images = [torch.rand(3, 240, 320), torch.rand(3, 200, 300)]
    with torch.no_grad():
        expected = model(images)
        with roialign.watch() as report:
            found = model(images)
    assert report.calls
    assert report.ok, [finding.evidence for finding in report.findings]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_problems_are_counted_by_line() -> None:
    with roialign.watch() as report:
        for _ in range(3):
            roi_align(torch.rand(1, 3, 64, 64), PIXELS, 7)
        roi_align(torch.rand(1, 3, 64, 64), PIXELS, 7)
    assert [problem.count for problem in report.problems] == [3, 1]
    assert report.to_dict()["calls"] == 4


def test_feature_maps_are_kept_for_pictures_only() -> None:
    boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 900.0, 700.0]])]
    with roialign.watch() as report:
        for scale in (1.0, 1.0, 1 / 16):
            roi_align(torch.rand(1, 3, 64, 64), boxes, 7, scale)
    assert [diagnosis.call is not None and diagnosis.call.input.shape[1] for diagnosis in report.calls] == [3, 0, 0]
    assert [finding.fix is not None and finding.fix.value for finding in report.findings] == [1 / 16, 1 / 16]


def test_boxes_that_torchvision_gives_no_gradient_are_named() -> None:
    boxes = torch.tensor([[0.0, 16, 16, 200, 200]], requires_grad=True)
    features = torch.rand(1, 8, 16, 16, requires_grad=True)
    with roialign.watch() as report:
        torchvision.ops.roi_align(features, boxes, 7, 1 / 16, 2, True)
        roialign.roi_align(features, boxes, 7, 1 / 16, 2, True)
        torchvision.ops.roi_align(features, boxes.detach(), 7, 1 / 16, 2, True)
    assert [[finding.code for finding in diagnosis.findings] for diagnosis in report.calls] == [["RA503"], [], []]
