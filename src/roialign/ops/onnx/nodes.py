"""RoiAlign and MaxRoiPool, the two operators of ONNX that pool regions, as nodes of either exporter's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.errors import ExportError

_CENTRES, _CORNERS = "coordinate_transformation_mode", "output_half_pixel"
_OLDEST, _OLDEST_CENTRED = 11, 16
"""The first operator sets that are written at all, and in which RoiAlign says where cells are centred."""


class Node(NamedTuple):
    """An operator of ONNX with its attributes."""

    name: str
    bins: tuple[int, int]
    attributes: dict[str, Any]

    @classmethod
    def roi_align(cls, bins: tuple[int, int], scale: float, ratio: int, aligned: bool, mode: str = "avg") -> Node:
        """RoiAlign, in the words of `roialign.roi_align`."""
        attributes = {
            _CENTRES: "half_pixel" if aligned else _CORNERS,
            "mode": mode,
            "output_height": bins[0],
            "output_width": bins[1],
            "sampling_ratio": max(ratio, 0),
            "spatial_scale": scale,
        }
        return cls("RoiAlign", bins, attributes)

    @classmethod
    def max_roi_pool(cls, bins: tuple[int, int], scale: float) -> Node:
        """MaxRoiPool, in the words of `roialign.roi_pool`."""
        return cls("MaxRoiPool", bins, {"pooled_shape": list(bins), "spatial_scale": scale})

    def of(self, input: Tensor, boxes: Tensor, *images: Tensor) -> Tensor:
        """What it gives for features, boxes and the images that they are of, where `boxes` do not hold them.

        Computed in the type of the boxes, in that of the features.
        """
        tensors = (_to(input, boxes.dtype), boxes, *images)
        if torch.jit.is_tracing():
            pooled = _Traced.apply(self, *tensors)
        else:
            shape = (boxes.shape[0], input.shape[1], *self.bins)
            pooled = torch.onnx.ops.symbolic(self.name, tensors, self.attributes, dtype=boxes.dtype, shape=shape)
        return _to(pooled, input.dtype)


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in this type; without a cast where it has it, for a trace would record one."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


class _Traced(torch.autograd.Function):
    """A node of a graph that is traced. The exporter asks `symbolic` for it; the trace goes on with its shape."""

    @staticmethod
    def forward(ctx: Any, node: Node, features: Tensor, boxes: Tensor, *_: Tensor) -> Tensor:
        return features.new_zeros(boxes.shape[0], features.shape[1], *node.bins)

    @staticmethod
    def symbolic(g: Any, node: Node, *tensors: Any) -> Any:
        attributes = dict(node.attributes)
        needed = _OLDEST
        if g.opset < _OLDEST_CENTRED and attributes.pop(_CENTRES, _CORNERS) != _CORNERS:
            needed = _OLDEST_CENTRED
        if g.opset < needed:
            raise ExportError(
                f"RA601: expected opset_version of at least {needed}: before {_OLDEST_CENTRED} ONNX's RoiAlign only "
                f"has aligned=False, and sets before {_OLDEST} are not written; got {g.opset}. Use "
                "torch.onnx.export(..., opset_version=20)."
            )
        return g.op(node.name, *tensors, **{_typed(name, value): value for name, value in attributes.items()})


def _typed(name: str, value: str | int | float | Sequence[int]) -> str:
    """The name of an attribute as the exporter of traced graphs wants it, which ends in the initial of its type."""
    kind = type(value[0] if isinstance(value, list) else value)
    return f"{name}_{kind.__name__[0]}"
