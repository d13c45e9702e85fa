"""The ways to write a box as four numbers, and back: plain functions on [N, 4], differentiable."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Order = Literal["xyxy", "xywh", "cxcywh", "yxyx"]
ORDERS: tuple[Order, ...] = ("xyxy", "xywh", "cxcywh", "yxyx")


def to_xyxy(values: Tensor, order: Order) -> Tensor:
    """Boxes in `order` as x1, y1, x2, y2."""
    a, b, c, d = values.unbind(1)
    if order == "xywh":
        return torch.stack((a, b, a + c, b + d), 1)
    if order == "cxcywh":
        return torch.stack((a - c / 2, b - d / 2, a + c / 2, b + d / 2), 1)
    return values[:, [1, 0, 3, 2]] if order == "yxyx" else values


def from_xyxy(boxes_xyxy: Tensor, order: Order) -> Tensor:
    """x1, y1, x2, y2 in `order`."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    if order == "xywh":
        return torch.stack((x1, y1, x2 - x1, y2 - y1), 1)
    if order == "cxcywh":
        return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1)
    return boxes_xyxy[:, [1, 0, 3, 2]] if order == "yxyx" else boxes_xyxy


def from_voc(values: Tensor) -> Tensor:
    """Pixels counted from 1, the last one included, as edges: only the first corner moves, by one."""
    return values - values.new_tensor([1, 1, 0, 0])


def to_voc(boxes_xyxy: Tensor) -> Tensor:
    """Edges as pixels counted from 1, the last one included."""
    return boxes_xyxy + boxes_xyxy.new_tensor([1, 1, 0, 0])
