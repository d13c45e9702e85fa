"""How DTensors pass through the operators: boxes may be sharded, and channels where bins have none of their own.

Imported when the first DTensor comes, for torch's distributed tensors take long to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from roialign.ops.operators import OPERATORS, Operator

BOXES, CHANNELS, WHOLE, SUM = Shard(0), Shard(1), Replicate(), Partial("sum")

Way = tuple[Sequence[Any], Sequence[Any]]
"""Placements of all outputs, and of the tensors among the arguments, which come first."""


def _register(name: str, *ways: Way) -> None:
    """Register ways to shard an operator, beside not to shard it."""
    outputs, tensors = map(len, ways[0])

    def sharding(*arguments: Any) -> list[tuple[list[Any], list[Any]]]:
        rest = [None] * (len(arguments) - tensors)
        whole: Way = [WHOLE] * outputs, [WHOLE] * tensors
        return [([*placed], [*given, *rest]) for placed, given in (whole, *ways)]

    register_sharding(getattr(torch.ops.roialign, name).default)(sharding)


def _register_pooling(operator: Operator) -> None:
    per_box = 2 if operator.beside else 1  # the rois, and what belongs to them
    features = 0 if operator.is_linear else 1  # those that the gradient to them depends on
    boxes, whole = [BOXES] * per_box, [WHOLE] * per_box
    forward: list[Way] = [([BOXES, BOXES], [WHOLE, *boxes])]
    gradient: list[Way] = [([SUM], [BOXES, *[WHOLE] * features, *boxes])]
    to_boxes: list[Way] = [(boxes, [BOXES, WHOLE, *boxes])]
    if not operator.definition.own_channels:
        forward.append(([CHANNELS, WHOLE], [CHANNELS, *whole]))
        gradient.append(([CHANNELS], [CHANNELS, *[CHANNELS] * features, *whole]))
        to_boxes.append(([SUM] * per_box, [CHANNELS, CHANNELS, *whole]))
    _register(operator.name, *forward)
    _register(operator.gradient, *gradient)
    if operator.moves_boxes:
        _register(operator.gradient_to_boxes, *to_boxes)


for one in OPERATORS.values():
    _register_pooling(one)
_register("roi_pool", ([BOXES] * 3, [WHOLE, BOXES]), ([CHANNELS, WHOLE, CHANNELS], [CHANNELS, WHOLE]))
_register("roi_pool_backward", ([SUM], [BOXES] * 3), ([CHANNELS], [CHANNELS, CHANNELS, WHOLE]))
_register("paste_masks", ([BOXES], [BOXES] * 2))
_register("paste_masks_backward", ([BOXES], [BOXES] * 2))
