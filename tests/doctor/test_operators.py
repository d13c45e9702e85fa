"""Every operator shows its calls to who watches, and what is found makes sense for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import roialign
from roialign.ops import calls

from .calls import scenes

SIZE_HW = (512, 640)
STRIDE = 16
BOXES = torch.tensor([[24.0, 40, 200, 300], [100, 16, 610, 500], [330, 180, 480, 330], [8, 350, 250, 505]])
FEATURES = torch.rand(2, 8, 32, 40, generator=torch.Generator().manual_seed(0))
MASKS = torch.ones(8, *SIZE_HW, dtype=torch.bool)
ALIGNED = {"aligned": True}


class Operator(NamedTuple):
    name: str
    tensors: tuple[Any, ...]
    """Features and boxes of a healthy call at this stride, by the names of `call_line`."""
    options: Mapping[str, Any] = MappingProxyType({})
    size: Any = 2

    def __call__(
        self, spatial_scale: Any = 1 / STRIDE, tensors: tuple[Any, ...] | None = None, **options: Any
    ) -> Tensor:
        function: Callable[..., Tensor] = getattr(roialign, self.name)
        return function(*(tensors or self.tensors), self.size, spatial_scale, **{**self.options, **options})

    def __str__(self) -> str:
        return "-".join([self.name, *map(str, self.options.values())])


def turned(boxes_xyxy: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Rotated boxes with the centres and, nearly, the sizes of these."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    angle = torch.arange(len(low))[:, None] * 35.0
    return torch.cat([(low + high) / 2, (high - low) * 0.7, angle.deg2rad() if options else angle], 1)


VOLUME = FEATURES.unsqueeze(2).repeat(1, 1, 20, 1, 1)
BOXES_3D = [torch.cat([BOXES[:, :2], BOXES[:, :1] * 0 + 20, BOXES[:, 2:], BOXES[:, :1] * 0 + 300], 1)] * 2
MMCV = {"compat": "mmcv", "clockwise": True}
PLAIN = (FEATURES, [BOXES] * 2)
OPERATORS = [
    Operator("roi_align", PLAIN, {"sampling_ratio": 8}, (3, 2)),
    Operator("roi_align", PLAIN, {**ALIGNED, "mode": "max"}),
    Operator("roi_align", PLAIN, {"mode": "max", "compat": "onnx"}),
    Operator("roi_align", PLAIN, {"compat": "detectron2"}),
    Operator("roi_pool", PLAIN),
    Operator("roi_pool", PLAIN, {"compat": "torchvision"}),
    Operator("ps_roi_align", PLAIN),
    Operator("ps_roi_pool", PLAIN),
    Operator("prroi_pool", PLAIN, size=(2, 3)),
    Operator("roi_align_rotated", (FEATURES, [turned(BOXES, {})] * 2)),
    Operator("roi_align_rotated", (FEATURES, [turned(BOXES, MMCV)] * 2), MMCV),
    Operator("masked_roi_align", (*PLAIN, MASKS)),
    Operator("masked_roi_align", (*PLAIN, MASKS), {"aligned": False, "masks_in": "box"}),
    Operator("roi_align_1d", (FEATURES[:, :, 0], [BOXES[:, ::2].contiguous()] * 2), ALIGNED, 5),
    Operator("roi_align_3d", (VOLUME, BOXES_3D), ALIGNED, (3, 2, 2)),
    Operator("roi_align_3d", (VOLUME, BOXES_3D), {}, 2),
]
each = pytest.mark.parametrize("operator", OPERATORS, ids=str)


def watched(call: Callable[[], Tensor]) -> roialign.Report:
    with roialign.watch() as report, roialign.set_policy("ignore"):
        call()
    return report


def codes(report: roialign.Report) -> list[str]:
    return [finding.code for finding in report.findings]


@each
def test_a_healthy_call_is_seen_once_and_nothing_is_found(operator: Operator) -> None:
    report = watched(operator)
    assert [diagnosis.call.operator for diagnosis in report.calls if diagnosis.call] == [operator.name]
    assert codes(report) == []


@each
def test_pixels_at_scale_one_are_found_and_the_line_to_type_runs(operator: Operator) -> None:
    report = watched(lambda: operator(1.0))
    assert codes(report) == ["RA101"]
    fix = report.findings[0].fix
    assert fix is not None
    assert fix.value == 1 / STRIDE
    assert fix.code.startswith(f"{operator.name}(features, ")
    named = {"features": operator.tensors[0], "boxes": operator.tensors[1], "segments": operator.tensors[1]}
    output = eval(fix.code, {**vars(roialign), **named, "masks": MASKS})
    assert torch.equal(output, operator())


@each
def test_the_notice_names_the_cause_and_that_line(operator: Operator) -> None:
    with pytest.raises(roialign.errors.CoverageError) as raised, roialign.set_policy("raise"):
        operator(1.0)
    if operator.name == "roi_align_3d":  # says of all three axes what it sees
        assert str(raised.value).startswith("RA209: 8 of 8 RoIs lie mostly or wholly off the volume")
        return
    assert str(raised.value).startswith("RA101: ")
    assert f"Write instead: {operator.name}(features, " in str(raised.value)


@each
def test_the_stride_for_its_inverse(operator: Operator) -> None:
    report = watched(lambda: operator(float(STRIDE)))
    assert codes(report) == ["RA104"]
    assert "spatial_scale=0.0625" in report.findings[0].fix.code


@each
def test_features_that_are_not_finite(operator: Operator) -> None:
    features = operator.tensors[0].clone()
    features[1] = torch.nan
    report = watched(lambda: operator(tensors=(features, *operator.tensors[1:])))
    assert codes(report) == ["RA302"]


@each
def test_healthy_calls_of_random_scenes(operator: Operator) -> None:
    for scene in scenes(12):
        boxes = scene.boxes_xyxy
        tensors: tuple[Any, ...] = (scene.features, [boxes])
        if operator.name == "roi_align_rotated":
            tensors = (scene.features, [turned(boxes, operator.options)])
        elif operator.name == "masked_roi_align":
            tensors = (*tensors, torch.ones(len(boxes), *scene.size_hw))
        elif operator.name == "roi_align_1d":
            tensors = (scene.features[:, :, 0], [boxes[:, ::2].contiguous()])
        elif operator.name == "roi_align_3d":
            volume = scene.features.unsqueeze(2).repeat(1, 1, 9, 1, 1)
            depth = torch.tensor([[0.0, 9 * scene.stride]]).expand(len(boxes), 2)
            tensors = (volume, [torch.cat([boxes[:, :2], depth[:, :1], boxes[:, 2:], depth[:, 1:]], 1)])
        report = watched(lambda tensors=tensors, scale=scene.scale: operator(scale, tensors))
        assert codes(report) == [], report.findings[0].evidence


def test_axes_of_a_volume_that_differ_are_no_fault() -> None:
    scales = (1 / 4, 1 / 16, 1 / 8)
    boxes = [torch.tensor([[8.0, 40, 8, 310, 500, 60]])] * 2
    assert codes(watched(lambda: roialign.roi_align_3d(VOLUME, boxes, 2, scales))) == []


def test_crops_may_reach_beyond_the_image_in_its_own_units() -> None:
    image = torch.rand(1, 3, 64, 64)
    image[:, :, :32] = 0
    boxes = torch.tensor([[-0.5, 0.0, 1.5, 1.0], [0.0, 0.0, 0.4, 0.4], [0.2, 0.3, 0.2, 0.3], [2.0, 2.0, 3.0, 3.0]])
    report = watched(lambda: roialign.crop_and_resize(image, boxes, torch.zeros(4, dtype=torch.int64), 8))
    assert [diagnosis.call.operator for diagnosis in report.calls if diagnosis.call] == ["crop_and_resize"]
    assert codes(report) == []


def test_rows_without_an_area_keep_their_place_beside_their_masks() -> None:
    boxes = torch.cat([BOXES[:3], BOXES[3:, [0, 1, 0, 3]]])
    others = torch.empty(0, 4)
    report = watched(lambda: roialign.masked_roi_align(FEATURES, [boxes, others], MASKS[:4], 2, 1 / STRIDE))
    (finding,) = report.findings
    assert (finding.code, finding.rois, finding.fix) == ("RA204", (3,), None)
    assert "Row 3 keeps its place: mask what is pooled (pooled[[3]] = 0)" in (finding.decide or "")


@pytest.mark.parametrize("operator", [one for one in OPERATORS if one.name[-2:] in ("3d", "ed")], ids=str)
def test_boxes_that_are_shown_as_others_get_no_line_that_changes_them(operator: Operator) -> None:
    features, (boxes, others) = operator.tensors
    strayed = boxes.clone()
    strayed[3, :2] += 5000
    if operator.name == "roi_align_3d":  # both corners, not the centre
        strayed[3, 3:5] += 5000
    report = watched(lambda: operator(tensors=(features, [strayed, others])))
    assert codes(report) == ["RA209"]
    assert report.findings[0].fix is None
    assert "boxes[3], within [" in report.findings[0].evidence


@pytest.mark.parametrize("name", ["roi_pool", "ps_roi_pool"])
def test_boxes_that_are_rounded_get_no_gradient(name: str) -> None:
    boxes = torch.cat([torch.zeros(4, 1), BOXES], 1).requires_grad_()
    report = watched(lambda: getattr(roialign, name)(FEATURES, boxes, 2, 1 / STRIDE))
    assert codes(report) == ["RA503"]
    assert f"{name} rounds them to whole cells" in report.findings[0].evidence
    assert codes(watched(lambda: roialign.prroi_pool(FEATURES, boxes, 2, 1 / STRIDE))) == []


def test_nobody_is_shown_a_call_that_nobody_watches() -> None:
    assert calls.observers == []
