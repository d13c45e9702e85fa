"""Derivatives of every operator: forward mode, torch.func, batches of gradients, and what there is none of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import roialign
from roialign.errors import DerivativeError

from .differentiable import EVERY, SIZE_HW, Differentiable
from .tolerances import assert_close

every = pytest.mark.parametrize("operator", EVERY, ids=lambda one: one.name.replace(", ", "-"))


@pytest.fixture(autouse=True)
def _no_loops() -> Iterator[None]:
    """torch makes a loop of what has no batching rule, unless it is told to raise."""
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


def _close(found: Tensor, expected: Tensor) -> None:
    assert_close(found, expected, expected)


@every
def test_gradients_agree_with_finite_differences(operator: Differentiable) -> None:
    boxes, features = operator.boxes(), operator.features().requires_grad_()

    def pool(features: Tensor) -> Tensor:
        return operator.pool(features, boxes)

    forward = operator.is_linear
    assert gradcheck(
        pool, (features,), check_forward_ad=forward, check_batched_grad=True, check_batched_forward_grad=forward
    )
    if operator.is_smooth:
        assert gradgradcheck(
            pool, (features,), check_batched_grad=True, check_fwd_over_rev=True, check_rev_over_rev=True
        )


@every
def test_batches_of_gradients_to_the_boxes(operator: Differentiable) -> None:
    if not operator.moves_boxes:
        pytest.skip("has no gradient to the boxes")
    features, boxes = operator.features(), operator.boxes()[:, 1:].requires_grad_()
    index = operator.boxes()[:, :1]
    assert gradcheck(
        lambda boxes: operator.pool(features, torch.cat([index, boxes], 1)), (boxes,), check_batched_grad=True
    )


@every
def test_the_tangent_of_the_features_is_pooled(operator: Differentiable) -> None:
    boxes, features, tangent = operator.boxes(), operator.features(), operator.features(2)[1]
    pool = lambda features: operator.pool(features, boxes)  # noqa: E731
    if not operator.is_linear:
        with pytest.raises(DerivativeError, match=r"^RA507: .* got one of its input"):
            jvp(pool, (features,), (tangent,))
        return
    output, pushed = jvp(pool, (features,), (tangent,))
    assert torch.equal(output, pool(features))
    step = 1e-6
    _close_to = (pool(features + step * tangent) - pool(features - step * tangent)) / (2 * step)
    torch.testing.assert_close(pushed, _close_to, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        dual = pool(forward_ad.make_dual(features, tangent))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, pushed)
    _close(jacfwd(pool)(features), jacrev(pool)(features))


@every
def test_the_tangent_of_the_gradient_to_the_boxes(operator: Differentiable) -> None:
    """Forward over reverse: how the gradient to the boxes changes with the features."""
    if not operator.moves_boxes or not operator.is_linear:
        pytest.skip("has no such derivative")
    boxes, features, tangent, step = operator.boxes(), operator.features(), operator.features(2)[1], 1e-6

    def to_boxes(features: Tensor) -> Tensor:
        return grad(lambda boxes: operator.pool(features, boxes).square().sum())(boxes)

    _, pushed = jvp(to_boxes, (features,), (tangent,))
    expected = (to_boxes(features + step * tangent) - to_boxes(features - step * tangent)) / (2 * step)
    torch.testing.assert_close(pushed, expected, rtol=1e-5, atol=1e-6)


@every
def test_a_tangent_of_the_boxes_is_refused_or_zero(operator: Differentiable) -> None:
    features, boxes = operator.features(), operator.boxes()
    tangent = torch.ones_like(boxes)
    if operator.name in ("roi_pool", "ps_roi_pool"):  # boxes are rounded
        _, pushed = jvp(lambda boxes: operator.pool(features, boxes), (boxes,), (tangent,))
        assert not pushed.any()
        return
    with pytest.raises(DerivativeError, match=r"^RA507: .* got one of its (rois|boxes_xyxy)\. Use \.detach"):
        jvp(lambda boxes: operator.pool(features, boxes), (boxes,), (tangent,))


@every
def test_torch_func_gives_autograds_gradients(operator: Differentiable) -> None:
    boxes, features = operator.boxes(), operator.features()

    def loss(features: Tensor, boxes: Tensor) -> Tensor:
        return operator.pool(features, boxes).square().sum()

    leaves = features.clone().requires_grad_(), boxes.clone().requires_grad_(operator.moves_boxes)
    loss(*leaves).backward()
    assert leaves[0].grad is not None
    assert torch.equal(grad(loss)(features, boxes), leaves[0].grad)
    if operator.moves_boxes:
        assert leaves[1].grad is not None
        assert torch.equal(grad(loss, argnums=1)(features, boxes), leaves[1].grad)
    _, pull_back = vjp(lambda features: operator.pool(features, boxes), features)
    upstream = 2 * operator.pool(features, boxes)
    assert torch.equal(pull_back(upstream)[0], leaves[0].grad)


@every
def test_the_hessian_of_the_features(operator: Differentiable) -> None:
    boxes, features = operator.boxes(), operator.features()

    def pool(features: Tensor) -> Tensor:
        return operator.pool(features, boxes)

    def loss(features: Tensor) -> Tensor:
        return pool(features).square().sum()

    if not operator.is_smooth:
        with pytest.raises(DerivativeError, match=r"^RA507: .* differentiated once"):
            jacrev(grad(loss))(features)
        return
    jacobian = jacrev(pool)(features).reshape(-1, features.numel())
    expected = 2 * jacobian.T @ jacobian
    assert expected.any()
    for found in (hessian(loss)(features), jacrev(jacrev(loss))(features), jacfwd(jacfwd(loss))(features)):
        _close(found.reshape(expected.shape), expected)


@every
@pytest.mark.parametrize("batched", ["features", "boxes", "both"])
def test_vmap_equals_a_loop(operator: Differentiable, batched: str) -> None:
    features, boxes = operator.features(2), operator.moved()
    in_dims: Any = (0 if batched != "boxes" else None, 0 if batched != "features" else None)
    given = features if in_dims[0] == 0 else features[0], boxes if in_dims[1] == 0 else boxes[0]
    members = [(features[i if in_dims[0] == 0 else 0], boxes[i if in_dims[1] == 0 else 0]) for i in range(2)]
    found = vmap(operator.pool, in_dims)(*given)
    assert torch.equal(found, torch.stack([operator.pool(*one) for one in members]))

    def loss(features: Tensor, boxes: Tensor) -> Tensor:
        return operator.pool(features, boxes).square().sum()

    of_features = vmap(grad(loss), in_dims)(*given)
    _close(of_features, torch.stack([grad(loss)(*one) for one in members]))
    if operator.moves_boxes:
        of_boxes = vmap(grad(loss, argnums=1), in_dims)(*given)
        _close(of_boxes, torch.stack([grad(loss, argnums=1)(*one) for one in members]))


def test_vmap_does_not_make_an_image_of_an_index_out_of_range() -> None:
    features, boxes = torch.rand(2, 1, 3, 8, 8), torch.tensor([[[0.0, 1, 1, 6, 6]], [[-1.0, 1, 1, 6, 6]]])
    with pytest.raises(RuntimeError, match="RA206"):
        vmap(lambda x, b: roialign.roi_align(x, b, 2))(features, boxes)
    boxes[1, 0, 0] = 1
    with pytest.raises(RuntimeError, match="RA206"):
        vmap(lambda x, b: roialign.roi_align(x, b, 2))(features, boxes)


def test_functional_call_of_a_network_that_pools() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.pool = roialign.RoIAlign(SIZE_HW, 0.5, 2)

        def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
            return self.pool(self.conv(images), boxes).flatten(1).sum(1)

    torch.manual_seed(0)
    head, images = Head(), torch.randn(2, 3, 8, 8)
    boxes = torch.tensor([[0.0, 1, 1, 12, 9], [1.0, 3, 2, 14, 12]])
    parameters = dict(head.named_parameters())
    found = grad(lambda parameters: functional_call(head, parameters, (images, boxes)).square().sum())(parameters)
    head(images, boxes).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        _close(found[name], parameter.grad)
    # of each image by itself, as for gradients of single samples
    per_sample = vmap(
        grad(lambda parameters, image: functional_call(head, parameters, (image[None], boxes[:1])).sum()), (None, 0)
    )(parameters, images)
    alone = grad(lambda parameters: functional_call(head, parameters, (images[1:], boxes[:1])).sum())(parameters)
    _close(per_sample["conv.weight"][1], alone["conv.weight"])
