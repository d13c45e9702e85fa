"""torch.func over MultiScaleRoIAlign and pool_regions: derivatives both ways, batches of maps and of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

import roialign
from roialign import FeatureGrid

IMAGE_HW = (128, 128)
MODULE = roialign.MultiScaleRoIAlign(["0", "1"], output_size=(3, 2), sampling_ratio=2)
GRIDS = [FeatureGrid((32, 32), (4.0, 4.0), (2.0, 1.5)), FeatureGrid((16, 16), (8.0, 8.0), (4.0, 4.0))]
OTHERS = torch.tensor([[4.0, 8, 60, 50]])


def _by_module(fine: Tensor, coarse: Tensor, boxes_xyxy: Tensor) -> Tensor:
    return MODULE({"0": fine, "1": coarse}, [boxes_xyxy, OTHERS], [IMAGE_HW] * 2)


def _by_grids(fine: Tensor, coarse: Tensor, boxes_xyxy: Tensor) -> Tensor:
    return roialign.pool_regions([fine, coarse], [boxes_xyxy, OTHERS], output_size=(3, 2), grids=GRIDS)


both = pytest.mark.parametrize("pool", [_by_module, _by_grids])
Pool = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _no_loops() -> Iterator[None]:
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


def _maps(*more: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (torch.randn(*more, 2, 4, size, size, generator=generator) for size in (32, 16))
    return fine, coarse


def _boxes_xyxy() -> Tensor:
    return torch.tensor([[[4.0, 4, 60, 50], [10, 10, 120, 110]], [[6.0, 2, 118, 112], [30, 20, 50, 40]]])


@both
def test_vmap_over_maps_and_over_boxes(pool: Pool) -> None:
    (fine, coarse), boxes = _maps(2), _boxes_xyxy()
    assert torch.equal(
        vmap(pool, (0, 0, None))(fine, coarse, boxes[0]),
        torch.stack([pool(fine[i], coarse[i], boxes[0]) for i in range(2)]),
    )
    # boxes of other levels in each member of the batch
    assert torch.equal(
        vmap(pool, (None, None, 0))(fine[0], coarse[0], boxes),
        torch.stack([pool(fine[0], coarse[0], one) for one in boxes]),
    )
    assert torch.equal(
        vmap(pool)(fine, coarse, boxes), torch.stack([pool(fine[i], coarse[i], boxes[i]) for i in range(2)])
    )


@both
def test_gradients_and_tangents(pool: Pool) -> None:
    (fine, coarse), boxes = _maps(), _boxes_xyxy()[0]
    _, pushed = jvp(lambda fine: pool(fine, coarse, boxes), (fine,), (fine,))
    torch.testing.assert_close(pushed, pool(fine, torch.zeros_like(coarse), boxes))

    def loss(fine: Tensor, boxes: Tensor) -> Tensor:
        return pool(fine, coarse, boxes).square().sum()

    leaves = fine.clone().requires_grad_(), boxes.clone().requires_grad_()
    loss(*leaves).backward()
    found = grad(loss, argnums=(0, 1))(fine, boxes)
    assert all(torch.equal(one, leaf.grad) and one.any() for one, leaf in zip(found, leaves, strict=True))
    of_members = vmap(grad(loss, argnums=1), (None, 0))(fine, _boxes_xyxy())
    torch.testing.assert_close(of_members[0], found[1])
