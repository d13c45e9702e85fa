"""`watch(model)`: the grids of the model's maps are evidence, and the model is left as it is."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign
from roialign.doctor.images import SeenImages
from roialign.doctor.model import ModelGrids
from roialign.ops.calls import RoICall

BOXES = torch.tensor([[0.0, 20.0, 30.0, 120.0, 140.0], [0.0, 100.0, 90.0, 200.0, 210.0]])


class Backbone(nn.Module):
    """A stem of stride 4 and a stage of stride 8, of which it counts the runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.stage = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 16, 3, stride=2, padding=1))
        self.runs = 0

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.runs += 1
        fine = self.norm(self.stem(image))
        return {"fine": fine, "coarse": self.stage(fine)}


def seen(images: SeenImages, features: Tensor) -> roialign.FeatureGrid | None:
    return images.of(RoICall(features, BOXES, (2, 2), 1 / 8, 2, True)).grid


def test_the_grid_of_each_map_and_of_what_is_made_of_it() -> None:
    backbone, neck = Backbone(), nn.Conv2d(16, 5, 1)
    images = SeenImages(nn.ModuleDict({"body": backbone, "neck": neck}))
    with images.watching(), torch.no_grad():
        maps = backbone(torch.rand(2, 3, 256, 320))
        for features, stride in (
            (maps["fine"], 4.0),
            (maps["coarse"], 8.0),
            (maps["coarse"][1:], 8.0),
            (neck(maps["coarse"]), 8.0),
            (maps["fine"].double(), 4.0),
        ):
            grid = seen(images, features)
            assert grid is not None
            assert (grid.stride_yx, grid.size_hw) == ((stride, stride), tuple(features.shape[2:]))
        assert seen(images, torch.rand(2, 16, 31, 40)) is None
        other = seen(images, Backbone()(torch.rand(1, 3, 256, 320))["fine"])
        assert other is not None, "of a model that was not handed over"
        assert other.stride_yx == (4.0, 4.0)


def test_one_trace_serves_all_sizes_that_its_strides_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[tuple[int, int]] = []

    def counting(module: nn.Module, image_size: tuple[int, int], **options: Any) -> Any:
        traced.append(image_size)
        return roialign.trace(module, image_size, **options)

    monkeypatch.setattr("roialign.doctor.model.trace", counting)
    backbone = Backbone()
    images = SeenImages(backbone)
    rng = random.Random(0)
    with images.watching(), torch.no_grad():
        for _ in range(10):
            size = (rng.randint(100, 300), rng.randint(100, 300))
            for name, features in backbone(torch.rand(1, 3, *size)).items():
                grid = seen(images, features)
                assert grid is not None
                assert grid == roialign.FeatureGrid(
                    tuple(features.shape[2:]),
                    grid.stride_yx,
                    structural_offset_yx=grid.structural_offset_yx,
                    receptive_field_hw=grid.receptive_field_hw,
                    receptive_field_centre_yx=grid.receptive_field_centre_yx,
                    channels=features.shape[1],
                    offset_range_yx=grid.offset_range_yx,
                )
                assert grid.stride_yx[0] == {"fine": 4.0, "coarse": 8.0}[name]
    assert len(traced) == 1


def test_a_map_whose_stride_depends_on_the_image_is_traced_at_each_size() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.AdaptiveAvgPool2d(16))
    images = SeenImages(backbone)
    with images.watching(), torch.no_grad():
        for size, stride in ((256, 16.0), (512, 32.0), (128, 8.0)):
            grid = seen(images, backbone(torch.rand(1, 3, size, size)))
            assert grid is not None
            assert grid.stride_yx == (stride, stride)


def test_the_model_and_the_program_are_left_as_they_are() -> None:
    """Mode, counters, buffers, random state; the program's hooks see no tensors of the trace."""
    backbone = Backbone().train()
    caught: list[Tensor] = []
    backbone.stage.register_forward_hook(lambda module, args, output: caught.append(output))
    backbone.stem.register_forward_pre_hook(lambda module, args: None)
    image = torch.rand(1, 3, 128, 128)

    def program(watched: nn.Module | None) -> tuple[Any, ...]:
        caught.clear()
        torch.manual_seed(0)
        backbone.runs = 0
        backbone.norm.reset_running_stats()
        with roialign.watch(watched):
            features = backbone(image)["coarse"]
            roialign.roi_align(caught[0], BOXES / 2, 2, 1 / 8)
            roialign.roi_align(features, BOXES / 2, 2, 1 / 8)
        state = [value.clone() for value in backbone.state_dict().values()]
        return [features, torch.rand(3), *state, *caught], (backbone.runs, backbone.training, backbone.stage.training)

    plain, watched = program(None), program(backbone)
    assert watched[1] == plain[1] == (1, True, True)
    assert len(caught) == 1
    assert len(backbone.stage._forward_hooks) == len(backbone.stem._forward_pre_hooks) == 1
    for one, other in zip(plain[0], watched[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class Branching(nn.Module):
    """Cannot be traced: it looks at the values of the image."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 8 if float(image.sum()) > -1 else 4)


def test_a_model_that_cannot_be_traced_is_watched_by_sizes() -> None:
    model = Branching()
    assert ModelGrids(model).of(model, (256, 256), 3, (1, 3, 32, 32)) is None
    with roialign.watch(model) as report:
        roialign.roi_align(model(torch.rand(1, 3, 256, 256)), BOXES, 2, 1 / 16)
    (finding,) = report.findings
    assert finding.code == "RA106"
    assert "From an image of 256 x 256 on a map of 32 x 32 the stride is 8" in finding.evidence


def test_the_grid_is_the_evidence() -> None:
    model = Backbone()
    with roialign.watch(nn.ModuleList([model])) as report, torch.inference_mode():
        maps = model(torch.rand(1, 3, 256, 256))
        roialign.roi_align(maps["coarse"], BOXES, 2, 1 / 8)
        roialign.roi_align(maps["fine"], BOXES, 2, 1 / 8)
    (finding,) = report.findings
    assert finding.code == "RA106"
    assert "From the grid of the 64 x 64 map the stride is 4" in finding.evidence
    assert finding.fix is not None
    assert finding.fix.value == 1 / 4


class Tokens(nn.Module):
    """The tokens of patches of 14, a class token before them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 14, stride=14)
        self.first = nn.Parameter(torch.zeros(1, 1, 12))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(image), -1, -1), tokens], 1)


def test_tokens_that_the_program_made_a_map_of() -> None:
    model = Tokens()
    with torch.no_grad(), roialign.watch(model) as report:
        tokens = model(torch.rand(1, 3, 196, 280))[:, 1:].transpose(1, 2)
        roialign.roi_align(tokens.unflatten(2, (14, 20)), 0.8 * BOXES, 2, 1 / 14)
        roialign.roi_align(tokens.unflatten(2, (14, 20)), 0.8 * BOXES, 2, 1 / 16)
        roialign.roi_align(tokens.unflatten(2, (20, 14)), 0.8 * BOXES, 2, 1 / 14)
    assert [[finding.code for finding in call.findings] for call in report.calls] == [[], ["RA106"], ["RA304"]]


def test_channels_last() -> None:
    """The trace knows the order of the axes."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 64, 16, stride=16)

        def forward(self, image: Tensor) -> Tensor:
            return self.patches(image).permute(0, 2, 3, 1)

    model = Last()
    grid = ModelGrids(model).of(model, (256, 256), 3, (1, 16, 16, 64))
    assert grid is not None
    assert grid.size_hw == (16, 16)
    with torch.no_grad(), roialign.watch(model) as report:
        features = model(torch.rand(1, 3, 256, 256))
        roialign.roi_align(features, 0.8 * BOXES, 2, 1 / 16)
        roialign.roi_align(features.permute(0, 3, 1, 2), 0.8 * BOXES, 2, 1 / 16)
    assert [[finding.code for finding in call.findings] for call in report.calls] == [["RA303"], []]


def test_a_grid_of_swapped_axes_is_evidence_and_another_grid_a_mistake() -> None:
    grid = roialign.FeatureGrid((16, 20), (16.0, 16.0))
    boxes = [BOXES[:, 1:]]
    swapped = roialign.diagnose(torch.rand(1, 64, 20, 16), boxes, 2, 1 / 16, grid=grid)
    assert [finding.code for finding in swapped.findings] == ["RA304"]
    last = roialign.diagnose(torch.rand(1, 16, 20, 64), boxes, 2, 1 / 16, grid=grid)
    assert [finding.code for finding in last.findings] == ["RA303"]
    for features in (torch.rand(1, 64, 20, 20), torch.rand(1, 64, 8, 10)):
        with pytest.raises(roialign.RoIError, match=r"^RA306: expected the grid of a map of"):
            roialign.diagnose(features, boxes, 2, 1 / 16, grid=grid)
    with pytest.raises(roialign.RoIError, match=r"^RA306: expected the grid of a map of"):
        roialign.diagnose(torch.rand(1, 64, 20, 16), [torch.empty(0, 4)], 2, 1 / 16, grid=grid)


@pytest.mark.parametrize("patch", [14, 16])
def test_a_transformer_of_timm_whose_features_come_from_a_method(patch: int) -> None:
    timm = pytest.importorskip("timm", reason="its transformer is watched")
    name = {14: "vit_small_patch14_dinov2", 16: "vit_tiny_patch16_224"}[patch]
    model = timm.create_model(name, pretrained=False, img_size=14 * patch, dynamic_img_size=True).eval()
    with torch.no_grad(), roialign.watch(model) as report:
        for cells in ((14, 14), (14, 18)):
            image = torch.rand(1, 3, cells[0] * patch, cells[1] * patch)
            tokens = model.forward_features(image)[:, model.num_prefix_tokens :]
            features = tokens.transpose(1, 2).unflatten(2, cells)
            roialign.roi_align(features, 0.8 * BOXES, 2, 1 / patch)
            roialign.roi_align(features, 0.8 * BOXES, 2, 1 / (30 - patch))
    assert [[finding.code for finding in call.findings] for call in report.calls] == [[], ["RA106"]] * 2


@pytest.mark.parametrize("model", ["x", 3, torch.relu, torch.nn.Conv2d])
def test_only_a_module_is_a_model(model: Any) -> None:
    with pytest.raises(roialign.RoIError, match=r"^RA506: expected model, an nn\.Module or none; got"):
        roialign.watch(model)
