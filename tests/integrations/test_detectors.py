"""`upgrade`: torchvision's detectors on this library's poolers: the same detections, exact grids, and back again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops
from torchvision.models import detection, mobilenet_v3_small
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.rpn import AnchorGenerator

import roialign
from roialign.errors import LevelError, OptionError, TraceError
from roialign.integrations.detectors import ExactPooler, TorchvisionPooler, downgrade, upgrade

pytestmark = pytest.mark.kernels

SIZES = {
    "min_size": 96,
    "max_size": 160,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 20,
    "box_batch_size_per_image": 16,
}


def one_map() -> nn.Module:
    """A Faster R-CNN on one map of stride 16, as C4 is."""
    backbone = mobilenet_v3_small(weights=None).features[:9]
    backbone.out_channels = 48
    pooler = ops.MultiScaleRoIAlign(["0"], 7, 2)
    anchors = AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),))
    options = {"num_classes": 5, "rpn_anchor_generator": anchors, "box_roi_pool": pooler}
    model = detection.FasterRCNN(backbone, **options, **SIZES)
    model.roi_heads.box_predictor.cls_score.weight.data.mul_(100)  # scores that are not all but equal
    return model


def on_resnet18(kind: Callable[..., nn.Module], classes: int | None = 3, **options: Any) -> nn.Module:
    return kind(resnet_fpn_backbone(backbone_name="resnet18", weights=None), classes, **options, **SIZES)


def second_version() -> nn.Module:
    """With the heads of fasterrcnn_resnet50_fpn_v2."""
    head = detection.faster_rcnn.FastRCNNConvFCHead((256, 7, 7), [64, 64], [128], nn.BatchNorm2d)
    predictor = detection.faster_rcnn.FastRCNNPredictor(128, 3)
    return on_resnet18(detection.FasterRCNN, None, box_head=head, box_predictor=predictor)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "faster": lambda: detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, **SIZES),
    "faster v2": second_version,
    "mask": lambda: on_resnet18(detection.MaskRCNN),
    "keypoint": lambda: on_resnet18(detection.KeypointRCNN),
    "one map": one_map,
}
IMAGES_HW = ((90, 120), (110, 80))


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size_hw, generator=generator) for size_hw in IMAGES_HW]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[10.0, 12.0, 60.0, 70.0], [5.0, 5.0, 40.0, 30.0]])
    found = []
    for height, width in IMAGES_HW:
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        masks[0, 12:70, 10:60] = 1
        masks[1, 5:30, 5:40] = 1
        points = torch.cat([(boxes[:, :2] + boxes[:, 2:]).div(2)[:, None].expand(2, 17, 2), torch.ones(2, 17, 1)], 2)
        found.append({"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64), "masks": masks, "keypoints": points})
    return found


def detections(model: nn.Module) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        found: list[dict[str, Tensor]] = model(images())
    return found


def step(model: nn.Module) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The losses of a training step, and the gradients of all weights."""
    model.train()
    torch.manual_seed(2)
    losses = model(images(), targets())
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("name", MODELS)
def test_detections_do_not_change(name: str) -> None:
    model = made(name)
    expected = detections(model)
    for found, wanted in zip(detections(upgrade(model)), expected, strict=True):
        assert len(wanted["boxes"]) > 10
        assert torch.equal(found["labels"], wanted["labels"])
        assert (found["boxes"] - wanted["boxes"]).abs().max() < 1e-3
        assert (found["scores"] - wanted["scores"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["faster", "mask", "keypoint"])
def test_losses_do_not_change_and_steps_repeat(name: str) -> None:
    model = made(name)
    expected, _ = step(model)
    found, gradients = step(upgrade(model))
    for key, loss in expected.items():
        assert found[key] == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
    _, again = step(model)
    assert all(torch.equal(one, other) for one, other in zip(gradients, again, strict=True))


@pytest.mark.parametrize("exact", [False, True])
def test_the_doctor_looks_at_the_calls_of_an_upgraded_detector(exact: bool) -> None:
    model = upgrade(on_resnet18(detection.MaskRCNN), exact=exact)
    for _ in range(2):
        with roialign.watch() as report:
            step(model)
        assert report.examined == 4  # boxes, masks, and the masks to be learnt of each of two images


def test_all_poolers_are_replaced_and_come_back() -> None:
    model = made("mask")
    before, names = detections(model), list(model.state_dict())
    assert upgrade(model) is model
    heads = model.roi_heads
    assert type(heads.box_roi_pool) is type(heads.mask_roi_pool) is TorchvisionPooler
    assert list(model.state_dict()) == names
    assert downgrade(model) is model
    assert type(heads.box_roi_pool) is type(heads.mask_roi_pool) is ops.MultiScaleRoIAlign
    assert heads.mask_roi_pool.output_size == (14, 14)
    for found, wanted in zip(detections(model), before, strict=True):
        assert torch.equal(found["boxes"], wanted["boxes"])


def test_a_pooler_that_two_heads_share_stays_one() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = ops.MultiScaleRoIAlign(["0"], 7, 2, canonical_scale=100, canonical_level=3)
            self.other = self.one

    heads = upgrade(Heads())
    assert heads.one is heads.other
    assert (heads.one.canonical_scale, heads.one.canonical_level) == (100, 3)


@pytest.mark.parametrize("name", ["RoIAlign", "RoIPool", "PSRoIAlign", "PSRoIPool"])
def test_operators_of_one_map(name: str) -> None:
    options: dict[str, Any] = {"output_size": 2, "spatial_scale": 0.25}
    if name.endswith("Align"):
        options["sampling_ratio"] = 2
    model = nn.ModuleDict({"pool": getattr(ops, name)(**options)})
    features = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 8.0, 40.0, 50.0]])]
    expected = model["pool"](features, boxes)
    upgrade(model)
    assert type(model["pool"]) is getattr(roialign, name)
    torch.testing.assert_close(model["pool"](features, boxes), expected)
    assert type(downgrade(model)["pool"]) is getattr(ops, name)


def test_exact_pools_at_the_traced_grid() -> None:
    """A dilated backbone whose sizes say stride 8 to torchvision where it is 8.0 times 20 / 16."""
    backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=5), nn.Conv2d(8, 8, 2, stride=2))
    backbone.out_channels = 8
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    pooler = ops.MultiScaleRoIAlign(["0"], 3, 2)
    torch.manual_seed(0)
    model = detection.FasterRCNN(
        backbone, 3, rpn_anchor_generator=anchors, box_roi_pool=pooler,
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(72, 1024)), min_size=100, max_size=200,
    )  # fmt: skip
    model.transform.size_divisible = 20
    upgrade(model, exact=True)
    exact = model.roi_heads.box_roi_pool
    assert type(exact) is ExactPooler
    features = torch.rand(1, 8, 10, 14, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 8.0, 90.0, 71.0]])]
    expected = roialign.roi_align(features, boxes, 3, spatial_scale=0.1, sampling_ratio=2, aligned=True)
    torch.testing.assert_close(exact({"0": features}, boxes, [(93, 128)]), expected)
    with pytest.raises(LevelError, match=r"RA401.*batch of 60 x 60.*10 x 14 cells"):
        exact({"0": features}, boxes, [(50, 60)])
    with pytest.raises(LevelError, match=r"RA401.*'0'; got '1'"):
        ExactPooler(["1"], 3, 2, traced=exact._traced)({"1": features}, boxes, [(93, 128)])


def test_exact_of_every_size_and_of_a_copy() -> None:
    model = upgrade(made("mask"), exact=True)
    pooler = model.roi_heads.box_roi_pool
    _, grids = pooler.grids_of(
        {str(i): torch.zeros(1, 1, 32 >> i, 48 >> i) for i in range(4)}, [(120, 190), (100, 170)]
    )
    assert [grid.stride_yx for grid in grids] == [(4.0, 4.0), (8.0, 8.0), (16.0, 16.0), (32.0, 32.0)]
    assert [grid.size_hw for grid in grids] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert len(detections(model)[0]["boxes"]) > 10
    twin = copy.deepcopy(model)
    assert twin.roi_heads.box_roi_pool._traced._backbone[0] is twin.backbone
    assert list(twin.state_dict()) == list(made("mask").state_dict())
    assert type(upgrade(model).roi_heads.box_roi_pool) is TorchvisionPooler


def test_torchvisions_wrong_guess_is_kept_and_said() -> None:
    """Patches of 14 pixels: torchvision takes 16, and a model that was trained so has to go on so."""
    pooler = upgrade(nn.ModuleDict({"pool": ops.MultiScaleRoIAlign(["0"], 2, 2)}))["pool"]
    features, boxes = torch.rand(1, 4, 32, 32), [torch.tensor([[14.0, 14.0, 200.0, 180.0]])]
    expected = ops.MultiScaleRoIAlign(["0"], 2, 2)({"0": features}, boxes, [(448, 448)])
    with pytest.warns(roialign.RoIWarning, match=r"RA403.*stride 16, as torchvision's.*14 vertically.*exact=True"):
        found = pooler({"0": features}, boxes, [(448, 448)])
    torch.testing.assert_close(found, expected)
    later = ops.MultiScaleRoIAlign(["0"], 2, 2)
    later({"0": features}, boxes, [(448, 448)])
    kept = pooler({"0": features}, boxes, [(64, 64)])  # the first batch's scales, as torchvision's
    torch.testing.assert_close(kept, later({"0": features}, boxes, [(64, 64)]))


class TheirOwn(ops.MultiScaleRoIAlign):
    pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Conv2d(3, 8, 1), r"RA506: expected a model with RoI poolers.*Conv2d with none.*RetinaNet"),
        (nn.ModuleDict({"pool": TheirOwn(["0"], 7, 2)}), r"RA506.*a class of its own, TheirOwn"),
        ("faster", r"RA506: expected a detector.*got a str"),
    ],
)
def test_nothing_to_upgrade(model: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        upgrade(model)


def test_exact_without_a_backbone() -> None:
    with pytest.raises(TraceError, match=r"RA308: expected a detector with a `backbone`.*ModuleDict"):
        upgrade(nn.ModuleDict({"pool": ops.MultiScaleRoIAlign(["0"], 7, 2)}), exact=True)


def test_fpn_backbones_of_ones_own() -> None:
    body = mobilenet_v3_small(weights=None).features
    backbone = BackboneWithFPN(body, {"3": "0", "8": "1", "12": "2"}, [24, 48, 576], 16)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4)
    pooler = ops.MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    torch.manual_seed(0)
    model = detection.FasterRCNN(backbone, 4, rpn_anchor_generator=anchors, box_roi_pool=pooler, **SIZES).eval()
    expected = detections(model)
    for found, wanted in zip(detections(upgrade(model)), expected, strict=True):
        torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=0, atol=1e-3)
    assert len(detections(upgrade(model, exact=True))) == 2
