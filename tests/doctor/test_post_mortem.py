"""Calls in which a program raises: they are diagnosed, said once, and the exception goes on as it was."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
import torch
from torch import nn

import roialign

ops = pytest.importorskip("torchvision").ops

FEATURES = torch.rand(1, 8, 16, 20, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[50.0, 40.0, 180.0, 240.0], [10.0, 20.0, 90.0, 100.0]])


def raised_in(run: Callable[[], object]) -> tuple[roialign.Report, Exception]:
    with (
        pytest.raises((AssertionError, IndexError, RuntimeError, ValueError), match=r".") as caught,
        roialign.watch() as report,
    ):
        run()
    return report, caught.value


def test_boxes_without_an_index() -> None:
    for operator in (ops.roi_align, ops.roi_pool, ops.ps_roi_align, ops.ps_roi_pool):
        maps = torch.rand(1, 49, 16, 20) if operator in (ops.ps_roi_align, ops.ps_roi_pool) else FEATURES
        report, error = raised_in(lambda operator=operator, maps=maps: operator(maps, BOXES, 7, 1 / 16))
        assert isinstance(error, AssertionError)
        (finding,) = report.findings
        assert finding.code == "RA207", operator
        assert "[boxes]" in finding.evidence
        assert (finding.call_site or "").startswith("tests/doctor/test_post_mortem.py:")
        assert report.examined == 1
    report, _ = raised_in(lambda: ops.RoIAlign(7, 1 / 16, 2)(FEATURES, BOXES))
    assert [finding.code for finding in report.findings] == ["RA207"]


def test_the_exception_goes_on_with_its_traceback() -> None:
    def program() -> None:
        ops.roi_align(FEATURES, BOXES, 7, 1 / 16)

    try:
        program()
    except AssertionError as error:
        unwatched = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    _, error = raised_in(program)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-len(unwatched) + 1 :] == unwatched[1:]
    assert error.__cause__ is error.__context__ is None


def test_what_was_refused_and_then_raised_is_said_once() -> None:
    report, error = raised_in(lambda: ops.roi_align(FEATURES, [BOXES.long()], 7, 1 / 16))
    assert "RoI" not in type(error).__name__, "torchvision's own error"
    assert [finding.code for finding in report.findings] == ["RA505"]
    assert report.examined == 1


def test_no_kernel_for_a_type() -> None:
    def program() -> object:
        return ops.roi_align(FEATURES.bfloat16(), [BOXES.bfloat16()], 7, 1 / 16, 2, True)

    report, _ = raised_in(program)
    (finding,) = [finding for finding in report.findings if finding.code == "RA505"]
    assert "not implemented for 'BFloat16'" in finding.evidence
    assert ".cpp" not in finding.evidence
    assert report.examined == 1
    assert finding.fix is not None
    held = {"roi_align": ops.roi_align, "features": FEATURES.bfloat16(), "boxes": [BOXES.bfloat16()]}
    assert eval(finding.fix.code, held).shape == (2, 8, 7, 7)


def test_half_features_with_float_boxes() -> None:
    report, _ = raised_in(lambda: ops.roi_align(FEATURES.half(), [BOXES], 7, 1 / 16, 2, True))
    assert [finding.code for finding in report.findings] == ["RA505"]
    assert ops.roi_align(FEATURES, [BOXES], 7, 1 / 16, 2, True).isfinite().all()


class Backbone(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"coarse": x[..., ::2, ::2], "fine": x}


def test_names_that_the_pooler_does_not_know() -> None:
    maps = Backbone()(FEATURES)
    pooler = ops.MultiScaleRoIAlign(["0", "1"], 7, 2)
    report, error = raised_in(lambda: pooler(maps, [BOXES], [(256, 320)]))
    assert isinstance(error, IndexError)
    (finding,) = report.findings
    assert finding.code == "RA401"
    assert '"coarse" (8 x 10)' in finding.evidence
    assert "'0', '1'" in finding.evidence
    assert finding.fix is not None
    assert finding.fix.code.startswith('MultiScaleRoIAlign(featmap_names=["fine", "coarse"], ')
    with roialign.watch() as sound:  # those that it knows
        ops.MultiScaleRoIAlign(["fine", "coarse"], 7, 2)(
            {"fine": maps["fine"], "coarse": maps["coarse"]}, [BOXES], [(256, 320)]
        )
    assert sound.ok, sound


def test_errors_of_other_code_are_no_findings() -> None:
    def program() -> None:
        ops.roi_align(FEATURES, [BOXES], 7, 1 / 16, 2)
        raise ValueError("of the program")

    report, error = raised_in(program)
    assert isinstance(error, ValueError)
    assert report.ok, report
    assert report.examined == 1
