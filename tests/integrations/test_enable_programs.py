"""`enable` under programs as they are: modules, scripted, traced, exported, compiled, detectors, and the doctor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torchvision import ops
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads

import roialign
from tests.ops.tolerances import assert_close

pytestmark = [pytest.mark.kernels, pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")]

FEATURES = torch.rand(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
DEEP = torch.rand(2, 18, 16, 16, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0.0, 16.0, 32.0, 144.0, 192.0], [1.0, 8.0, 0.0, 240.0, 112.0]])


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    yield
    roialign.disable()


class Pools(nn.Module):
    """All four operators, as a program has them."""

    def __init__(self) -> None:
        super().__init__()
        self.align = ops.RoIAlign(3, 1 / 16, 2, True)
        self.pool = ops.RoIPool(3, 1 / 16)
        self.ps_align = ops.PSRoIAlign(3, 1 / 16, 2)
        self.ps_pool = ops.PSRoIPool(3, 1 / 16)

    def forward(self, features: Tensor, deep: Tensor, rois: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self.align(features, rois),
            self.pool(features, rois),
            self.ps_align(deep, rois),
            self.ps_pool(deep, rois),
        )


ARGUMENTS = (FEATURES, DEEP, ROIS)
FORMS: dict[str, Callable[[], Callable[..., Any]]] = {
    "module": Pools,
    "scripted": lambda: torch.jit.script(Pools()),
    "traced": lambda: torch.jit.trace(Pools(), ARGUMENTS),
    "exported": lambda: torch.export.export(Pools(), ARGUMENTS).module(),
    "compiled": lambda: torch.compile(Pools(), backend="aot_eager", fullgraph=True),
}


class Counted:
    """How often roialign's own operators run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from roialign.integrations import enable as module

        self.count = 0
        for name, (ours, pool) in module._SERVED.items():
            monkeypatch.setitem(module._SERVED, name, (ours, self._counting(pool)))

    def _counting(self, pool: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.count += 1
            return pool(*arguments)

        return counted


@pytest.mark.parametrize("made_enabled", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_programs_of_any_form_run_on_it_whenever_they_were_made(
    form: str, made_enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, expected = Counted(monkeypatch), Pools()(*ARGUMENTS)
    torch._dynamo.reset()
    with ExitStack() as stack:
        if made_enabled:
            stack.enter_context(roialign.enable())
        program = FORMS[form]()
        program(*ARGUMENTS)
    counted.count = 0
    with roialign.enable():
        for actual, wanted in zip(program(*ARGUMENTS), expected, strict=True):
            assert_close(actual, wanted, wanted)
        assert counted.count == 4
    for actual, wanted in zip(program(*ARGUMENTS), expected, strict=True):
        assert torch.equal(actual, wanted)
    assert counted.count == 4


def test_compiled_gradients_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counted, features = Counted(monkeypatch), FEATURES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(Pools()(features, DEEP, ROIS)[0].square().sum(), features)
    compiled = torch.compile(Pools(), backend="aot_eager", fullgraph=True)
    with roialign.enable():
        (gradient,) = torch.autograd.grad(compiled(features, DEEP, ROIS)[0].square().sum(), features)
    assert_close(gradient, expected, expected)
    assert counted.count > 4, "the gradients, too"


def test_multi_scale_roi_align_runs_on_it() -> None:
    pooler = ops.MultiScaleRoIAlign(["0", "1"], 7, 2)
    maps = {"0": torch.rand(1, 4, 64, 64), "1": torch.rand(1, 4, 16, 16)}
    boxes = [torch.tensor([[10.0, 20.0, 40.0, 60.0], [5.0, 5.0, 250.0, 240.0]])]
    expected = pooler(maps, boxes, [(256, 256)])
    with roialign.enable():
        assert_close(pooler(maps, boxes, [(256, 256)]), expected, expected)


class Backbone(nn.Module):
    """Two maps, of strides 8 and 16, of few channels."""

    out_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, 16, 2, 2)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        first = self.first(images).relu()
        return OrderedDict({"0": first, "1": self.second(first)})


DETECTORS: dict[str, tuple[type[nn.Module], Callable[[], dict[str, Any]]]] = {
    "Faster R-CNN": (FasterRCNN, dict),
    "Mask R-CNN": (
        MaskRCNN,
        lambda: {
            "mask_roi_pool": ops.MultiScaleRoIAlign(["0", "1"], 6, 2),
            "mask_head": MaskRCNNHeads(16, (256,), 1),
        },
    ),
    "Keypoint R-CNN": (
        KeypointRCNN,
        lambda: {
            "keypoint_roi_pool": ops.MultiScaleRoIAlign(["0", "1"], 6, 2),
            "keypoint_head": KeypointRCNNHeads(16, (16,)),
            "keypoint_predictor": KeypointRCNNPredictor(16, 17),
        },
    ),
}
IMAGES = list(torch.rand(2, 3, 96, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    anchors = AnchorGenerator(((16,), (48,)), ((0.5, 1.0, 2.0),) * 2)
    kind, parts = DETECTORS[name]
    model = kind(
        *(Backbone(), 2),
        rpn_anchor_generator=anchors,
        box_roi_pool=ops.MultiScaleRoIAlign(["0", "1"], 3, 2),
        box_detections_per_img=10,
        box_score_thresh=0.0,
        min_size=96,
        max_size=128,
        **parts(),
    )
    return model.double()  # in float32 a ReLU may turn on the last bit


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[8.0, 8.0, 60.0, 70.0], [40.0, 20.0, 120.0, 90.0]], dtype=torch.float64)
    masks = torch.zeros(2, 96, 128, dtype=torch.uint8)
    masks[0, 20:50, 20:40], masks[1, 30:80, 50:100] = 1, 1
    keypoints = torch.rand(2, 17, 3) * 40 + 20
    keypoints[..., 2] = 1
    one = {"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64), "masks": masks, "keypoints": keypoints}
    return [one, one]


def trained(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses and the gradients of one step."""
    model.train()
    torch.manual_seed(1)
    losses = model(IMAGES, targets())
    sum(losses.values()).backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return losses, gradients


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_and_learn_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, model = Counted(monkeypatch), detector(name)
    with torch.no_grad():
        expected = model.eval()(IMAGES)
        with roialign.enable():
            found = model(IMAGES)
    assert counted.count >= 2
    for actual, wanted in zip(found, expected, strict=True):
        assert len(wanted["boxes"])
        assert torch.equal(actual["labels"], wanted["labels"])
        for key in wanted.keys() - {"labels"}:
            assert_close(actual[key], wanted[key], wanted[key], torch.float32)
    expected_losses, expected_gradients = trained(model)
    counted.count = 0
    with roialign.enable():
        losses, gradients = trained(model)
    assert counted.count >= 4
    for key, wanted in expected_losses.items():
        assert_close(losses[key], wanted, wanted, torch.float32)
    largest = torch.stack([one.abs().max() for one in expected_gradients.values()])
    for key, wanted in expected_gradients.items():
        assert_close(gradients[key], wanted, largest, torch.float32)


CALLS: dict[str, Callable[[], Tensor]] = {
    "roi_align": lambda: ops.roi_align(FEATURES, ROIS, 3, 1 / 16, 2, True),
    "roi_pool": lambda: ops.roi_pool(FEATURES, ROIS, 3, 1 / 16),
    "ps_roi_align": lambda: ops.ps_roi_align(DEEP, ROIS, 3, 1 / 16, 2),
    "ps_roi_pool": lambda: ops.ps_roi_pool(DEEP, ROIS, 3, 1 / 16),
}
SCRIPTED = torch.jit.script(Pools())


def seen(report: roialign.Report) -> list[str]:
    return [diagnosis.call.operator for diagnosis in report.calls if diagnosis.call is not None]


def test_the_doctor_sees_each_call_once_by_torchvisions_name() -> None:
    with roialign.enable(), roialign.watch() as report:
        for call in CALLS.values():
            call()
        SCRIPTED(*ARGUMENTS)
    assert seen(report) == [*CALLS] * 2
    assert report.ok


def test_enabling_and_disabling_under_the_doctors_eyes_hides_nothing() -> None:
    before = torch.library.get_kernel("torchvision::roi_align", "CPU")
    with roialign.watch() as report:
        SCRIPTED(*ARGUMENTS)
        roialign.enable()
        SCRIPTED(*ARGUMENTS)
        roialign.disable()
        SCRIPTED(*ARGUMENTS)
        roialign.enable()
        CALLS["roi_pool"]()
    assert seen(report) == [*CALLS] * 3 + ["roi_pool"]
    SCRIPTED(*ARGUMENTS)
    roialign.disable()
    assert repr(torch.library.get_kernel("torchvision::roi_align", "CPU")) == repr(before)


def test_the_doctor_finds_what_is_wrong() -> None:
    with roialign.enable(), roialign.watch() as report:
        ops.roi_align(FEATURES, ROIS, 3)
    assert [finding.code for finding in report.findings] == ["RA101"]
