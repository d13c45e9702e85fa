"""RA108 and RA501 to RA504: where samples are read, how many, and what comes back from them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import roialign
from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.checks import sampling
from roialign.doctor.evidence import Caller, Evidence
from roialign.geometry import FeatureGrid
from roialign.ops.roi_align import as_call

BOX = [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]


def codes(*call: Any, **known: Any) -> list[str]:
    return [finding.code for finding in roialign.diagnose(*call, **known).findings]


def test_large_boxes_on_a_fine_map() -> None:
    rng = random.Random(0)
    for _ in range(40):
        stride, ratio, output = rng.choice([2, 4, 8]), rng.choice([1, 2]), rng.choice([3, 5, 7])
        side = rng.uniform(6.0, 9.0) * stride * ratio * output  # 6 cells or more from sample to sample
        x, y = rng.uniform(0, 50), rng.uniform(0, 50)
        cells = int((side + 60) / stride) + 1
        boxes = [torch.tensor([[x, y, x + side, y + side], [0.0, 0.0, 40.0, 40.0]])]
        call = (torch.rand(1, 2, cells, cells), boxes, output, 1 / stride, ratio, rng.random() < 0.5)
        (finding,) = roialign.diagnose(*call).findings
        assert (finding.code, finding.severity, finding.rois[:1]) == ("RA501", "warning", (0,))
        assert finding.fix is not None
        assert (finding.fix.argument, finding.fix.value) == ("sampling_ratio", -1)
        assert "sampling_ratio=-1" in finding.fix.code
        right = roialign.roi_align(call[0], boxes, output, 1 / stride, -1, call[5])
        torch.testing.assert_close(finding.fix.call.run()[0], right)
        assert codes(call[0], boxes, output, 1 / stride, -1, call[5]) == []


def test_the_unread_share_is_what_the_gradient_shows() -> None:
    features = torch.rand(1, 1, 256, 256, requires_grad=True)
    boxes = [torch.tensor([[64.0, 64.0, 960.0, 960.0]])]
    (finding,) = roialign.diagnose(features, boxes, 7, 1 / 4, 2, True).findings
    roialign.roi_align(features, boxes, 7, 1 / 4, 2, True).sum().backward()
    assert features.grad is not None
    unread = float((features.grad[0, 0, 16:240, 16:240] == 0).float().mean())
    assert f"leaves {100 * unread:.0f} % unread" in finding.evidence


def test_few_large_boxes_among_many_are_no_fault() -> None:
    small = torch.tensor([[10.0, 10.0, 60.0, 60.0]]).repeat(9, 1)
    boxes = [torch.cat([torch.tensor([[0.0, 0.0, 1000.0, 1000.0]]), small])]
    assert codes(torch.rand(1, 2, 256, 256), boxes, 7, 1 / 4, 2) == []


def test_boxes_smaller_than_a_cell() -> None:
    rng, named = random.Random(0), 0
    for _ in range(40):
        stride = rng.choice([14, 16, 32])
        sides = [rng.uniform(0.5, 0.24 * stride) for _ in range(4)]
        corners = [rng.uniform(100, 400) for _ in range(4)]
        rows = [[x, y, x + w, y + h] for x, y, w, h in zip(corners, corners[::-1], sides, sides[::-1], strict=True)]
        call = (torch.rand(1, 2, 40, 40), [torch.tensor(rows)], 7, 1 / stride, 2)
        (finding,) = roialign.diagnose(*call, image_size=(40 * stride, 40 * stride)).findings
        if finding.code == "RA107":  # specks may be boxes of a smaller copy of the image
            continue
        named += 1
        assert (finding.code, finding.severity, finding.rois) == ("RA502", "warning", (0, 1, 2, 3))
        assert "4 of 4 boxes (100 %)" in finding.evidence
        assert finding.decide is not None
        assert "RA102" in finding.decide
    assert named >= 28


def test_thin_boxes_and_a_minority_of_specks_are_no_fault() -> None:
    features = torch.rand(1, 2, 40, 40)
    assert codes(features, [torch.tensor([[100.0, 100.0, 102.0, 400.0]])], 7, 1 / 16, 2) == []
    speck, fair = [100.0, 100.0, 102.0, 102.0], [100.0, 100.0, 200.0, 200.0]
    assert codes(features, [torch.tensor([speck, fair, fair])], 7, 1 / 16, 2) == []
    other = [300.0, 420.0, 302.0, 423.0]
    assert codes(features, [torch.tensor([speck, other, fair])], 7, 1 / 16, 2) == ["RA502"]


@pytest.mark.parametrize("aligned", [False, True])
def test_half_a_cell_off(aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    claimed = 0.5 if aligned else 0.0
    for _ in range(40):
        offsets = torch.rand(2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
        grid = FeatureGrid(
            (40, 40), (16.0, 16.0), calibrated_offset_yx=(16 * float(offsets[0]), 16 * float(offsets[1]))
        )
        shift = float((offsets - claimed).abs().max())
        if abs(shift - 0.25) < 1e-3:
            continue
        features = torch.rand(1, 2, 40, 40, generator=generator)
        findings = roialign.diagnose(features, BOX, 7, 1 / 16, 2, aligned, grid=grid).findings
        assert [finding.code for finding in findings] == (["RA108"] if shift > 0.25 else [])
        for finding in findings:
            assert finding.fix is not None
            pasted = eval(
                finding.fix.code,
                {"pool_regions": roialign.pool_regions, "features": features, "boxes": BOX, "grid": grid},
            )
            torch.testing.assert_close(finding.fix.call.run()[0], pasted, rtol=1e-4, atol=1e-4)
            other = float((offsets - (0.5 - claimed)).abs().max())
            assert [fix.value for fix in finding.alternatives] == ([not aligned] if other <= 0.25 else [])


def test_an_offset_that_was_not_measured_says_nothing() -> None:
    grid = FeatureGrid((64, 64), (16.0, 16.0), structural_offset_yx=(0.5, 0.5))
    for aligned in (False, True):
        assert codes(torch.rand(1, 2, 64, 64), BOX, 7, 1 / 16, 2, aligned, grid=grid) == []


CALLER = Caller("torchvision", "cpu", features_require_grad=True, boxes_require_grad=False, deterministic=False)


def known(caller: Caller | None) -> Evidence:
    return Evidence(as_call(torch.rand(1, 2, 64, 64), BOX, 7, 1 / 16, 2, True), caller=caller)


def test_boxes_that_get_no_gradient() -> None:
    finding = sampling.boxes_without_gradient(known(replace(CALLER, boxes_require_grad=True)))
    assert finding is not None
    assert (finding.code, finding.severity) == ("RA503", "warning")
    assert finding.fix is not None
    assert finding.fix.code.startswith("roialign.roi_align(features, boxes, output_size=7, spatial_scale=0.0625")
    for healthy in (None, CALLER, replace(CALLER, library="roialign", boxes_require_grad=True)):
        assert sampling.boxes_without_gradient(known(healthy)) is None


def test_a_backward_that_is_not_deterministic() -> None:
    faulty = replace(CALLER, device_type="cuda", deterministic=True)
    finding = sampling.backward_not_deterministic(known(faulty))
    assert finding is not None
    assert (finding.code, finding.severity) == ("RA504", "warning")
    healthy = [
        None,
        replace(faulty, device_type="cpu"),
        replace(faulty, deterministic=False),
        replace(faulty, features_require_grad=False),
        replace(faulty, library="roialign"),
    ]
    assert [sampling.backward_not_deterministic(known(one)) for one in healthy] == [None] * len(healthy)


def test_the_caller_is_as_the_program_was() -> None:
    features, boxes = torch.rand(1, 2, 8, 8), torch.rand(3, 5, requires_grad=True)
    assert Caller.of("torchvision", features, boxes) == Caller("torchvision", "cpu", False, True, False)
    with torch.no_grad():
        assert not Caller.of("torchvision", features, boxes).boxes_require_grad
    torch.use_deterministic_algorithms(True)
    try:
        assert Caller.of("torchvision", features, boxes).deterministic
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:RA312")
@pytest.mark.parametrize("code", [code for code, entry in CATALOGUE.items() if entry.watched])
def test_the_examples_of_other_libraries_run(code: str) -> None:
    pytest.importorskip("torchvision", reason="the example calls it")
    entry = CATALOGUE[code]
    exec(f"{entry.setup}\n{entry.wrong}\n{entry.right}", {**vars(roialign), "torch": torch})
