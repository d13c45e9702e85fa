"""Lines to paste: one that fits a list and one that fits rows do the same to each box."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import roialign
from roialign.doctor.lines import paste
from roialign.ops.calls import RoICall
from roialign.ops.roi_align import as_call

FEATURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LISTS = [torch.tensor([[8.0, 16, 80, 96], [0, 0, 40, 64]]), torch.tensor([[32.0, 8, 200, 120]])]
ROWS = torch.cat([torch.tensor([[0.0], [0.0], [1.0]]), torch.cat(LISTS)], 1)
EXPRESSIONS = {
    "once": ("b * 0.5", None),
    "columns": ("b[:, [1, 0, 3, 2]]", None),
    "twice": ("torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1)", None),
    "a number for each image": ("b * v", [0.5, 2.0]),
    "four numbers for each image": ("b * v", [[0.5, 0.25, 0.5, 0.25], [2.0, 1.0, 2.0, 1.0]]),
}


def run(code: str, boxes: Tensor | list[Tensor]) -> list[Tensor]:
    held: dict[str, object] = {"torch": torch, "boxes": boxes}
    exec(code, held)
    after = held["boxes"]
    return after if isinstance(after, list) else [after[after[:, 0] == image, 1:] for image in (0, 1)]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_line_for_rows_does_what_the_line_for_a_list_does(name: str) -> None:
    expression, values = EXPRESSIONS[name]
    lists, rows = (as_call(FEATURES, boxes, 7, 1 / 16, 2, True) for boxes in (LISTS, ROWS))
    kept = [some.clone() for some in LISTS], ROWS.clone()
    of_lists = run(paste(lists, expression, values), LISTS)
    for one, other, before in zip(of_lists, run(paste(rows, expression, values), ROWS), LISTS, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, before), "the line changes nothing"
    assert torch.equal(ROWS, kept[1]), "what the caller holds is changed in place, so a loop would change it again"


def calls_of(run_program: object, boxes: object) -> list[RoICall]:
    with roialign.watch() as report, roialign.set_policy("ignore"):
        run_program(FEATURES, boxes, 7, 1 / 16)  # type: ignore[operator]
    return [diagnosis.call for diagnosis in report.calls if diagnosis.call]


def test_the_form_of_the_boxes_is_known_of_both_libraries() -> None:
    ops = pytest.importorskip("torchvision").ops
    for function in (roialign.roi_align, ops.roi_align, roialign.roi_pool, ops.roi_pool):
        assert [(call.boxes_form, call.lists) for call in calls_of(function, LISTS)] == [("list", 2)]
        assert [(call.boxes_form, call.lists) for call in calls_of(function, ROWS)] == [("rows", None)]
    pooler = ops.MultiScaleRoIAlign(["0"], 7, 2)
    seen = calls_of(lambda features, boxes, *_: pooler({"0": features}, boxes, [(256, 256)] * 2), LISTS)
    assert [call.lists for call in seen] == [2]
    module = ops.RoIAlign(7, 1 / 16, 2)
    assert [call.lists for call in calls_of(lambda features, boxes, *_: module(features, boxes), LISTS)] == [2]
