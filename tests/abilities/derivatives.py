"""Questions about derivatives, each a function that returns where the answer is yes, and raises otherwise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, jvp, vmap

from tests.abilities.outcomes import NotApplicableError, WrongError, agree
from tests.abilities.subjects import Subject


def to_features(subject: Subject) -> None:
    operator = subject.function
    boxes, features = operator.boxes(), operator.features().requires_grad_()
    gradcheck(lambda features: operator.pool(features, boxes), (features,), fast_mode=True)


def to_boxes(subject: Subject) -> None:
    operator = subject.function
    if not operator.moves_boxes:
        raise NotApplicableError
    features, index, boxes = operator.features(), *operator.boxes().split([1, len(operator.columns[0]) - 1], 1)
    boxes.requires_grad_()
    if not operator.pool(features, torch.cat([index, boxes], 1)).requires_grad:
        raise WrongError("the result does not require a gradient")
    gradcheck(lambda boxes: operator.pool(features, torch.cat([index, boxes], 1)), (boxes,), fast_mode=True)


def twice(subject: Subject) -> None:
    operator = subject.function
    boxes, features = operator.boxes(), operator.features().requires_grad_()
    gradgradcheck(lambda features: operator.pool(features, boxes), (features,), fast_mode=True)


def forward_of_features(subject: Subject) -> None:
    pool, features, tangent = _of_features(subject)
    pushed, step = jvp(pool, (features,), (tangent,))[1], 1e-6
    agree(pushed, (pool(features + step * tangent) - pool(features - step * tangent)) / (2 * step), 1e-5)


def forward_of_boxes(subject: Subject) -> None:
    operator = subject.function
    features, boxes, step = operator.features(), operator.boxes(), 1e-6
    tangent = torch.ones_like(boxes)
    tangent[:, 0] = 0
    pushed = jvp(lambda boxes: operator.pool(features, boxes), (boxes,), (tangent,))[1]
    moved, back = (operator.pool(features, boxes + sign * step * tangent) for sign in (1, -1))
    agree(pushed, (moved - back) / (2 * step), 1e-5)


def functional(subject: Subject) -> None:
    """`torch.func.grad` and `jacrev`."""
    pool, features, _ = _of_features(subject)
    leaf = features.clone().requires_grad_()
    pool(leaf).square().sum().backward()
    assert leaf.grad is not None
    agree(grad(lambda features: pool(features).square().sum())(features), leaf.grad)
    jacrev(pool)(features)


def batched_features(subject: Subject) -> None:
    pool, features, other = _of_features(subject)
    agree(vmap(pool)(torch.stack([features, other])), torch.stack([pool(features), pool(other)]))


def batched_boxes(subject: Subject) -> None:
    operator = subject.function
    features, boxes = operator.features(), operator.moved()
    found = vmap(lambda boxes: operator.pool(features, boxes))(boxes)
    agree(found, torch.stack([operator.pool(features, one) for one in boxes]))


def batched_gradients(subject: Subject) -> None:
    """`torch.autograd.grad(..., is_grads_batched=True)`."""
    pool, features, _ = _of_features(subject)
    leaf = features.clone().requires_grad_()
    output = pool(leaf)
    upstream = torch.stack([torch.ones_like(output), output.detach()])
    (found,) = torch.autograd.grad(output, leaf, upstream, is_grads_batched=True, retain_graph=True)
    agree(found, torch.stack([torch.autograd.grad(output, leaf, one, retain_graph=True)[0] for one in upstream]))


def _of_features(subject: Subject) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The operator at fixed boxes, and two tensors of features."""
    operator, boxes = subject.function, subject.function.boxes()
    return lambda features: operator.pool(features, boxes), *operator.features(2)


QUESTIONS = {
    "gradient to features": to_features,
    "to boxes": to_boxes,
    "second derivative": twice,
    "forward mode": forward_of_features,
    "forward mode, boxes": forward_of_boxes,
    "torch.func": functional,
    "vmap, features": batched_features,
    "vmap, boxes": batched_boxes,
    "batched gradients": batched_gradients,
}
