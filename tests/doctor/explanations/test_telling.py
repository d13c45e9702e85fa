"""From weights to findings: how sure it must be, what else is listed, and where no line is offered."""

from __future__ import annotations

import math

import pytest
import torch

import roialign
from roialign.doctor.explanations import findings, split, table
from tests.doctor.explanations.weighing import BOXES, weighed_call


def test_nothing_is_said_of_healthy_boxes() -> None:
    assert findings(weighed_call([BOXES])) == []


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.05, 1.2, 1.5, 2.5])
def test_severity_follows_the_odds(scale: float) -> None:
    weighed = weighed_call([BOXES * scale])
    against = -weighed.healthy_log_odds
    found = findings(weighed)
    assert len(found) == (against >= math.log(table.LIKELY))
    for finding in found:
        assert finding.doubtful == (against < math.log(table.SURE))
        assert finding.severity == ("warning" if finding.doubtful else "error")


def test_what_fits_as_well_is_listed() -> None:
    weighed = weighed_call([torch.tensor([[500.0, 400.0, 100.0, 60.0]])])
    first, others = split(weighed)
    (finding,) = findings(weighed)
    assert {first.codes, *(one.codes for one in others)} >= {("RA201",), ("RA202",)}
    assert finding.decide is not None
    assert "RA202" in finding.decide
    assert len(finding.alternatives) >= 1
    assert finding.fix is not None
    assert finding.fix.code not in [other.code for other in finding.alternatives]


def test_what_is_sure_lists_nothing_else() -> None:
    (finding,) = findings(weighed_call([BOXES / torch.tensor([1024.0, 640.0] * 2)]))
    assert (finding.code, finding.alternatives, finding.severity) == ("RA103", (), "error")
    assert finding.odds is not None
    assert finding.odds > table.SURE


def test_two_faults_are_mended_by_one_fix() -> None:
    right = BOXES + 0.3
    boxes = right[:, [1, 0, 3, 2]]
    (finding,) = findings(weighed_call([boxes], 1.0))
    assert finding.code == "RA101"
    assert finding.fix is not None
    torch.testing.assert_close(finding.fix.call.rois[:, 1:] * finding.fix.call.spatial_scale, right / 16)
    names = {"boxes": [boxes.clone()], "features": None, "torch": torch, "roi_align": lambda *_, **options: options}
    exec(finding.fix.code, names)
    torch.testing.assert_close(names["boxes"], [right])


def test_a_fix_says_what_it_was_checked_against() -> None:
    features = torch.rand(1, 4, 40, 64, generator=torch.Generator().manual_seed(0))
    (finding,) = roialign.diagnose(features, [BOXES], 7, 1.0, 2, True, image_size=(640, 1024)).findings
    assert finding.fix is not None
    assert finding.fix.checked.startswith("5 of 5 RoIs change with it")
