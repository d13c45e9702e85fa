"""`diagnose` of calls that cannot be made: a finding in place of the error, and no work that they would ask for."""

from __future__ import annotations

import re
import resource
from typing import Any

import pytest
import torch

import roialign
from tests.ops.refusals import MAP, REFUSED, ROIS

DIAGNOSED = [row for row in REFUSED if not row[1].keys() & {"mode", "compat"} and "quantized" not in row[0]]


@pytest.mark.parametrize(("bad", "message"), [(row[1], row[4]) for row in DIAGNOSED], ids=[row[0] for row in DIAGNOSED])
def test_what_the_operator_refuses_is_a_finding(bad: dict[str, Any], message: str) -> None:
    diagnosis = roialign.diagnose(**({"input": MAP, "boxes": ROIS, "output_size": 2} | bad))
    assert re.match(message.partition(":")[0], diagnosis.findings[0].code)
    assert diagnosis.findings[0].severity == "error"


@pytest.mark.parametrize("size", [2**31, 2**31 - 1, (2**31 - 1, 1), (1, 2**31 - 1), 2**24])
def test_a_result_that_no_machine_has_room_for_is_not_tried(size: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [finding.code for finding in roialign.diagnose(MAP, ROIS, size).findings] == ["RA506"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # of 1 KB


def test_it_is_the_program_that_hears_of_boxes_without_strides() -> None:
    torchvision = pytest.importorskip("torchvision")
    for boxes in (ROIS.to_sparse(), torch.nested.nested_tensor([ROIS[:, 1:], ROIS[:1, 1:]])):
        with pytest.raises(Exception) as unwatched:  # noqa: PT011  whatever torchvision says
            torch.ops.torchvision.roi_align(MAP, boxes, 1.0, 2, 2, 2, False)
        with roialign.watch() as report, pytest.raises(type(unwatched.value)):
            torch.ops.torchvision.roi_align(MAP, boxes, 1.0, 2, 2, 2, False)
        assert [finding.code for finding in report.findings] == ["RA505"]
    assert torchvision
