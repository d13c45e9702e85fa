"""What the program does to torchvision's operators while they are watched stays done, and breaks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import roialign

torchvision = pytest.importorskip("torchvision")
NAMES = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
FEATURES = torch.rand(1, 4, 8, 8)
BOXES = [torch.tensor([[1.0, 1.0, 5.0, 5.0]])]


def pool() -> torch.Tensor:
    return torchvision.ops.roi_align(FEATURES, BOXES, 2)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = {name: getattr(torch.ops.torchvision, name) for name in NAMES}
    yield
    torch.ops.torchvision.__dict__.update(before)


def test_an_operator_may_be_deleted_during_a_watch() -> None:
    expected = pool()
    with roialign.watch() as report:
        pool()
        del torch.ops.torchvision.roi_align
        assert torch.equal(pool(), expected)
    assert report.examined == 2
    assert torch.equal(pool(), expected)
    with roialign.watch() as report:
        pool()
    assert report.examined == 1


def test_all_of_them_may_be() -> None:
    with roialign.watch():
        for name in NAMES:
            torch.ops.torchvision.__dict__.pop(name)
    assert torch.ops.torchvision.roi_align is not None


def test_what_the_program_puts_in_its_place_stays() -> None:
    def own(*_: Any) -> torch.Tensor:
        return torch.zeros(1)

    with roialign.watch():
        torch.ops.torchvision.roi_align = own
    assert torch.ops.torchvision.roi_align is own
    assert pool().shape == (1,)
