"""What all modules share: their options are checked when they are made, and torch.fx sees one node of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign

MAKE = {
    roialign.RoIAlign: (7, 1 / 16, 2),
    roialign.RoIPool: (7, 1 / 16),
    roialign.PSRoIAlign: (2, 1 / 16, 2),
    roialign.PSRoIPool: (2, 1 / 16),
    roialign.PrRoIPool: (7, 1 / 16),
    roialign.RoIAlignRotated: (7, 1 / 16, 2),
    roialign.MaskedRoIAlign: (7, 1 / 16, 2),
    roialign.RoIAlign1d: (7, 1 / 16, 2),
    roialign.RoIAlign3d: (7, 1 / 16, 2),
}
each_module = pytest.mark.parametrize("kind", MAKE, ids=lambda kind: kind.__name__)


def made(kind: Any, **changes: Any) -> nn.Module:
    names = ("output_size", "spatial_scale", "sampling_ratio")[: len(MAKE[kind])]
    module: nn.Module = kind(**dict(zip(names, MAKE[kind], strict=True)) | changes)
    return module


@each_module
@pytest.mark.parametrize(
    ("option", "bad", "code"),
    [
        ("output_size", 0, "RA506"),
        ("output_size", "7", "RA506"),
        ("spatial_scale", 0.0, "RA105"),
        ("spatial_scale", -1.0, "RA105"),
        ("sampling_ratio", 1000, "RA506"),
        ("aligned", "yes", "RA506"),
        ("mode", "bad", "RA506"),
        ("mode", ["max"], "RA506"),
        ("compat", "bad", "RA506"),
        ("compat", ["onnx"], "RA506"),
        ("masks_in", "frame", "RA506"),
    ],
)
def test_options_are_checked_when_it_is_made(kind: Any, option: str, bad: Any, code: str) -> None:
    good = made(kind)
    if not hasattr(good, option):
        pytest.skip("it has no such option")
    with pytest.raises(roialign.RoIError, match=f"^{code}: "):
        made(kind, **{option: bad})


class Head(nn.Module):
    """A pool after a layer, under masks where it takes some."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.before = nn.Identity()
        self.pool = pool

    def forward(self, features: Tensor, boxes: Tensor, *masks: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.before(features), boxes, *masks)
        return pooled


@each_module
def test_fx_sees_one_node(kind: Any) -> None:
    class OfThree(Head):
        def forward(self, features: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
            return super().forward(features, boxes, masks)

    class OfTwo(Head):
        def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
            return super().forward(features, boxes)

    axes = {roialign.RoIAlign1d: 1, roialign.RoIAlign3d: 3}.get(kind, 2)
    features = torch.rand(1, 8, *(16,) * axes)
    rows = {1: [[0.0, 16, 160]], 2: [[0.0, 16, 16, 160, 200]], 3: [[0.0, 16, 16, 16, 160, 200, 99]]}[axes]
    if kind is roialign.RoIAlignRotated:
        rows = [[0.0, 90, 90, 80, 60, 30]]
    tensors = [features, torch.tensor(rows)]
    head: Head = OfTwo(made(kind))
    if kind is roialign.MaskedRoIAlign:
        head, tensors = OfThree(made(kind)), [*tensors, torch.ones(1, 256, 256)]
    traced = torch.fx.symbolic_trace(head)
    calls = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert len(calls) == 1
    assert torch.equal(traced(*tensors), head(*tensors))
