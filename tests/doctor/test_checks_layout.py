"""RA303, RA304 and RA305: maps whose axes are not what they are taken for."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

import roialign
from roialign.doctor.checks import layout
from roialign.doctor.evidence import Evidence
from roialign.geometry import FeatureGrid
from roialign.ops.roi_align import as_call
from tests.doctor.calls import Scene, scenes
from tests.doctor.test_diagnose import pooled


def repaired(diagnosis: roialign.Diagnosis, features: Tensor, right: Tensor) -> bool:
    """Whether the proven call and the pasted line both give the right features."""
    fix = diagnosis.findings[0].fix
    assert fix is not None
    assert fix.argument == "input"
    given: list[Any] = []
    names = {"features": features, "boxes": None, "roi_align": lambda *args, **_: given.append(args[0])}
    exec(fix.code, names)
    return torch.equal(given[0], fix.call.input) and torch.allclose(fix.call.run()[0], right, atol=1e-5)


def with_channels(scene: Scene, channels: int) -> Scene:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, channels, *scene.features.shape[2:], generator=generator)
    return Scene(features, scene.boxes_xyxy, scene.stride, scene.size_hw)


@pytest.mark.parametrize("channels", [96, 192])
def test_channels_last(channels: int) -> None:
    found = 0
    for scene in (with_channels(scene, channels) for scene in scenes(16)):
        features = scene.features.permute(0, 2, 3, 1)
        diagnosis = roialign.diagnose(features, [scene.boxes_xyxy], 7, scene.scale, 2, True, image_size=scene.size_hw)
        right = pooled(scene, scene.boxes_xyxy, scene.scale)
        codes = [finding.code for finding in diagnosis.findings]
        found += codes == ["RA303"] and repaired(diagnosis, features, right)
    assert found == 16


def test_channels_last_without_the_image_only_where_the_shape_is_unmistakable() -> None:
    boxes = [torch.tensor([[30.0, 40.0, 120.0, 200.0], [100.0, 10.0, 220.0, 90.0]])]
    diagnosis = roialign.diagnose(torch.rand(1, 14, 14, 384), boxes, 7, 1 / 16)
    assert [finding.code for finding in diagnosis.findings] == ["RA303"]
    assert diagnosis.findings[0].decide is not None
    assert "image_size=(H, W)" in diagnosis.findings[0].decide
    assert roialign.diagnose(torch.rand(1, 64, 64, 256), boxes, 7, 1 / 4).ok  # a long image has such a map too
    assert roialign.diagnose(torch.rand(1, 3, 14, 384), boxes, 7, 1 / 16).ok


def test_height_and_width_swapped() -> None:
    oblong = [scene for scene in scenes(60) if max(scene.size_hw) > 1.3 * min(scene.size_hw)]
    found = 0
    for scene in oblong:
        features = scene.features.transpose(2, 3)
        diagnosis = roialign.diagnose(features, [scene.boxes_xyxy], 7, scene.scale, 2, True, image_size=scene.size_hw)
        codes = [finding.code for finding in diagnosis.findings]
        found += codes == ["RA304"] and repaired(diagnosis, features, pooled(scene, scene.boxes_xyxy, scene.scale))
    assert len(oblong) >= 25
    assert found == len(oblong)


def test_boxes_that_fit_both_ways_leave_it_open_whether_image_size_was_swapped() -> None:
    fits_both = [torch.tensor([[30.0, 40.0, 120.0, 200.0]])]
    (finding,) = roialign.diagnose(torch.rand(1, 8, 64, 40), fits_both, 7, 1 / 16, image_size=(640, 1024)).findings
    assert finding.code == "RA304"
    assert finding.decide is not None
    assert "if image_size was given as (width, height), that is the mistake instead" in finding.decide
    fits_as_called = [torch.tensor([[30.0, 40.0, 120.0, 1000.0], [99.0, 700.0, 200.0, 900.0]])]
    findings = roialign.diagnose(torch.rand(1, 8, 64, 40), fits_as_called, 7, 1 / 16, image_size=(640, 1024)).findings
    assert "RA304" not in [finding.code for finding in findings]


def test_y_first_without_the_image_says_that_the_map_may_be_swapped() -> None:
    boxes = [torch.tensor([[100.0, 700.0, 200.0, 900.0], [300.0, 40.0, 600.0, 400.0]])]
    (finding,) = roialign.diagnose(torch.rand(1, 8, 40, 64), boxes, 7, 1 / 16).findings
    assert finding.code == "RA203"
    assert finding.decide is not None
    assert "RA304" in finding.decide
    (finding,) = roialign.diagnose(torch.rand(1, 8, 40, 64), boxes, 7, 1 / 16, image_size=(640, 1024)).findings
    assert finding.code == "RA203"
    assert "RA304" not in str(finding.decide)


def flat(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2)[:, :, None]


def column(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2)[:, :, :, None]


def untransposed(tokens: Tensor) -> Tensor:
    return tokens[:, None]


@pytest.mark.parametrize("extra", [0, 1, 5])
@pytest.mark.parametrize("shape", [flat, column, untransposed])
def test_tokens_that_are_no_grid(shape: Any, extra: int) -> None:
    patched = [with_channels(scene, 48) for scene in scenes(24) if scene.stride in (14, 16)]
    for scene in patched:
        tokens = torch.cat([torch.randn(1, extra, 48), scene.features.flatten(2).transpose(1, 2)], 1)
        diagnosis = roialign.diagnose(
            shape(tokens), [scene.boxes_xyxy], 7, scene.scale, 2, True, image_size=scene.size_hw
        )
        assert [finding.code for finding in diagnosis.findings] == ["RA305"]
        assert repaired(diagnosis, shape(tokens), pooled(scene, scene.boxes_xyxy, scene.scale))
    assert len(patched) >= 6


def test_a_class_token_in_a_map_of_another_shape() -> None:
    tokens = torch.randn(1, 8, 37 * 37 + 1)  # 1370 = 10 x 137
    boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]
    (finding,) = roialign.diagnose(tokens.unflatten(2, (10, 137)), boxes, 7, 1 / 14, image_size=(518, 518)).findings
    assert finding.code == "RA305"
    assert finding.fix is not None
    torch.testing.assert_close(finding.fix.call.input, tokens[:, :, 1:].unflatten(2, (37, 37)))


def test_strides_that_differ_are_no_fault_of_the_axes() -> None:
    rng = random.Random(0)
    for _ in range(200):
        down, across = rng.sample([4, 8, 12.5, 16, 32, 64], 2)
        rows, columns, channels = rng.randint(8, 40), rng.randint(8, 40), rng.choice([8, 32, 64, 256])
        size = (round(rows * down), round(columns * across))
        boxes = [torch.tensor([[0.1, 0.2, 0.6, 0.5], [0.5, 0.5, 1.0, 0.9]]) * torch.tensor([size[1], size[0]] * 2)]
        call = as_call(torch.rand(1, channels, rows, columns), boxes, 7, 1 / rng.choice([down, across]), 2, True)
        assert not layout.misread(Evidence(call, size)), (call.input.shape, size, call.spatial_scale)


def test_one_row_of_a_text_line_is_no_token_sequence() -> None:
    boxes = [torch.tensor([[30.0, 2.0, 60.0, 30.0]])]
    for height, width in ((64, 256), (32, 128), (32, 512), (64, 512)):
        for cells in (width // 4, width // 8, width // 16):
            for stride in (width / cells, height):
                call = as_call(torch.rand(1, 64, 1, cells), boxes, 7, 1 / stride, 2, True)
                assert layout.tokens(Evidence(call, (height, width))) is None


def test_a_grid_decides_too() -> None:
    boxes = [torch.tensor([[30.0, 40.0, 120.0, 200.0]])]
    grid = FeatureGrid((40, 64), (16.0, 16.0))
    for shape, check in (((1, 40, 64, 256), layout.channels_last), ((1, 8, 64, 40), layout.transposed)):
        known = Evidence(as_call(torch.rand(shape), boxes, 7, 1 / 16, 2, True), None, grid)
        assert check(known) is not None
    known = Evidence(as_call(torch.rand(1, 64, 40, 64), boxes, 7, 1 / 16, 2, True), None, grid)
    assert not layout.misread(known)
