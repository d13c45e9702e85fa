"""Severity says how sure it is: toys, as tests of shapes and of operators have them, are no errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import roialign
from roialign.doctor.findings import Diagnosis, Finding, Report

ops = pytest.importorskip("torchvision", reason="its operators are called as in its tests").ops

FACTS = ("RA109", "RA204", "RA205", "RA206", "RA207", "RA208", "RA209", "RA21", "RA3", "RA4", "RA5")
"""Codes that are seen, not concluded from where boxes lie."""
OPERATORS = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
CORNERS = torch.tensor([[0.0, 0, 0, 9, 9], [0, 0, 5, 4, 9], [0, 5, 5, 9, 9], [1, 0, 0, 9, 9]])


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def whole_boxes(count: int = 300, side: int = 10) -> Tensor:
    """Rows with whole coordinates, each from the lower to the upper half of a small map."""
    rows = (seeded(count, 5, seed=1) * side // 2).floor()
    rows[:, 0] = (rows[:, 0] > 2).float()
    rows[:, 3:] += side // 2
    return rows


def every_operator(rows: Tensor, maps: Tensor, scale: float) -> None:
    for name in OPERATORS:
        getattr(ops, name)(maps, rows, 5, scale)


def a_head(size: int, scale: float, batch: int, numbers: Tensor) -> None:
    """A head that pools, called without an image, on features and boxes made up to see the shape that comes out."""
    index = torch.arange(len(numbers)) % batch
    rows = torch.cat([index[:, None].float(), numbers], 1)
    ops.RoIAlign(7, scale, 0, aligned=True)(seeded(batch, 8, size, size), rows)


TOYS: dict[str, Callable[[], object]] = {
    "corners": lambda: every_operator(CORNERS, seeded(2, 50, 10, 10), 1.0),
    "corners at half scale": lambda: every_operator(CORNERS, seeded(2, 50, 10, 10), 0.5),
    "whole boxes": lambda: every_operator(whole_boxes(), seeded(2, 50, 10, 10), 1.0),
    "whole boxes in double": lambda: every_operator(whole_boxes().double(), seeded(2, 50, 10, 10).double(), 0.25),
    "half": lambda: ops.roi_align(seeded(2, 3, 10, 10).half(), CORNERS.half(), 5, 1.0, 2, True),
    "two boxes of some pixels": lambda: a_head(7, 1.0, 1, torch.tensor([[0.0, 1, 2, 3], [1, 1, 4, 4]])),
    "the same at stride 16": lambda: a_head(7, 1 / 16, 2, torch.tensor([[0.0, 1, 2, 3], [1, 1, 4, 4]])),
    "beyond a tiny map": lambda: a_head(2, 1.0, 1, torch.tensor([[4.0, 4, 7, 8]])),
    "one cell": lambda: a_head(1, 1.0, 2, torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]])),
    "one cell at stride 32": lambda: a_head(1, 1 / 32, 2, torch.tensor([[0.0, 0, 4, 4], [8, 9, 30, 30]])),
    "random fractions": lambda: a_head(7, 1 / 16, 2, seeded(4, 4).sort(1).values),
    "random numbers": lambda: a_head(7, 1.0, 2, seeded(4, 4) * 4 - 2),
    "ones": lambda: a_head(8, 1 / 16, 1, torch.ones(3, 4)),
    "zeros": lambda: ops.roi_align(torch.zeros(1, 4, 8, 8), torch.zeros(3, 5), 7, 1 / 16),
    "an empty map": lambda: ops.roi_align(torch.zeros(1, 4, 8, 8), CORNERS[:3], 7, 1.0),
    "a pooler of two maps": lambda: ops.MultiScaleRoIAlign(["0", "1"], 3, 2)(
        {"0": seeded(1, 5, 16, 16), "1": seeded(1, 5, 8, 8)}, [CORNERS[:3, 1:]], [(64, 64)]
    ),
}


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_no_errors(name: str) -> None:
    with roialign.watch() as report:
        TOYS[name]()
    assert report.examined
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert [finding for finding in errors if finding.code.startswith(FACTS)] == []


def test_the_same_of_real_boxes_is_an_error() -> None:
    boxes = torch.tensor([[300.0, 300.0, 420.0, 400.0], [900.0, -900.0, 990.0, -800.0]])
    (finding,) = roialign.diagnose(seeded(1, 8, 40, 64), [boxes], 7, 1 / 16, image_size=(640, 1024)).findings
    assert (finding.code, finding.severity) == ("RA209", "error")


def test_a_problem_that_any_call_has_for_sure_is_an_error() -> None:
    doubtful = Diagnosis((Finding("RA209", "Doubtful.", doubtful=True),), None).at("a.py:1")
    sure = Diagnosis((Finding("RA209", "Sure."),), None).at("a.py:1")
    (problem,) = Report((doubtful, sure, doubtful)).problems
    assert (problem.finding.evidence, problem.count) == ("Sure.", 3)
