"""Each order of the four numbers: its matrix, its line and its fix give the same corners."""

from __future__ import annotations

import pytest
import torch

from roialign.doctor.explanations.orders import ORDERS, RIGHT, Order, mirrored, stacked
from tests.doctor.explanations.weighing import BOXES, SIZE_HW, fix_of, in_both_forms, pasted, weighed_call

WHOLE = torch.tensor([0.0, 0.0, SIZE_HW[1], SIZE_HW[0]])
EACH = pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)


def as_written(order: Order) -> torch.Tensor:
    """`BOXES` as a program that means this order has them."""
    boxes = mirrored(BOXES, WHOLE.expand_as(BOXES), order.mirror) if order.mirror else BOXES
    return boxes @ torch.linalg.inv(torch.tensor(order.matrix, dtype=torch.float32)).T


@EACH
def test_matrix_and_line_say_the_same(order: Order) -> None:
    numbers = torch.rand(9, 4, generator=torch.Generator().manual_seed(0)) * 100
    torch.testing.assert_close(stacked(numbers)[ORDERS.index(order)], order.corners(numbers))
    if not order.mirror:  # whose line has sizes in it
        line = eval(order.line, {"b": numbers, "torch": torch})
        torch.testing.assert_close(line, order.corners(numbers))


@pytest.mark.parametrize("order", ORDERS[1:], ids=lambda order: order.name)
def test_the_fix_brings_the_corners_back(order: Order) -> None:
    for boxes in in_both_forms(as_written(order)):
        fix = fix_of(weighed_call(boxes), "as called", order.name)
        assert fix is not None
        torch.testing.assert_close(fix.call.rois[:, 1:], BOXES, atol=1e-3, rtol=0)
        torch.testing.assert_close(pasted(fix.code, boxes)[0], BOXES, atol=1e-3, rtol=0)


def test_names_are_told_apart_and_shares_add_up() -> None:
    assert len({order.name for order in ORDERS}) == len(ORDERS)
    assert sum(order.share for order in ORDERS) == pytest.approx(1)
    assert RIGHT.share > 0.5
    assert [order.name for order in ORDERS if order.code is None] == [RIGHT.name]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_what_is_mirrored_twice_is_as_before(axis: str) -> None:
    content = torch.tensor([3.0, 5.0, 90.0, 70.0]).expand_as(BOXES)
    once = mirrored(BOXES, content, axis)  # type: ignore[arg-type]
    assert ((once[:, 2:] - once[:, :2]) > 0).all()
    torch.testing.assert_close(mirrored(once, content, axis), BOXES)  # type: ignore[arg-type]
