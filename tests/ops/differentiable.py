"""All operators as functions of features and boxes that can be differentiated, small and in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import roialign

F64 = torch.float64
SIZE_HW = (2, 3)


BOXES = ((0, 1.13, 0.71, 5.37, 4.94), (1, 2.24, 1.45, 6.12, 3.83), (0, -1.36, 2.17, 3.42, 7.78))
VOLUMES = ((0, 0.7, 0.4, 0.3, 3.6, 2.8, 2.2), (1, 1.1, 0.3, 0.6, 4.4, 3.6, 2.4), (0, 0.3, 1.2, 0.2, 2.3, 3.3, 1.9))


@dataclass(frozen=True)
class Differentiable:
    name: str
    pool: Callable[[Tensor, Tensor], Tensor]
    features_shape: tuple[int, ...] = (2, 2, 6, 7)
    columns: tuple[tuple[float, ...], ...] = (
        (0, 1.13, 0.71, 5.37, 4.94),
        (1, 2.24, 1.45, 6.12, 3.83),
        (0, -1.36, 2.17, 3.42, 7.78),
    )
    is_linear: bool = True
    moves_boxes: bool = True
    is_smooth: bool = True
    """Whether the second derivative with respect to the features is there, zero or not."""

    def features(self, *more: int) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.name))
        return torch.randn(*more, *self.features_shape, generator=generator, dtype=F64)

    def boxes(self) -> Tensor:
        return torch.tensor(self.columns, dtype=F64)

    def moved(self) -> Tensor:
        """Boxes [2, K, columns] of the same images, elsewhere."""
        boxes = self.boxes()
        shift = torch.full_like(boxes, 0.4)
        shift[:, 0] = 0
        return torch.stack([boxes, boxes + shift])


MASKS = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.1


def _pyramid(features: Tensor, boxes: Tensor) -> Tensor:
    """Two levels, the coarser half of the finer, by the registered operator that takes all levels."""
    maps = [features, features[..., ::2, ::2]]
    levels = torch.tensor([0, 1, 0])
    cells = [1.0, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    output: Tensor = torch.ops.roialign.multi_scale_roi_align(maps, boxes, levels, cells, *SIZE_HW, 2, False)[0]
    return output


def _paste(masks: Tensor, boxes: Tensor) -> Tensor:
    return roialign.paste_masks(masks, boxes[:, 1:], (5, 6), threshold=None)


EVERY = (
    Differentiable("roi_align", lambda x, b: roialign.roi_align(x, b, SIZE_HW, 1.0, 2, True)),
    Differentiable("roi_align, adaptive", lambda x, b: roialign.roi_align(x, b, SIZE_HW, 0.8)),
    Differentiable(
        "roi_align, max",
        lambda x, b: roialign.roi_align(x, b, SIZE_HW, 1.0, 2, mode="max"),
        is_linear=False,
        is_smooth=False,
    ),
    Differentiable("multi_scale_roi_align", _pyramid),
    Differentiable("roi_pool", lambda x, b: roialign.roi_pool(x, b, SIZE_HW, 0.9), moves_boxes=False),
    Differentiable(
        "ps_roi_align", lambda x, b: roialign.ps_roi_align(x, b, SIZE_HW, 1.0, 2), features_shape=(2, 12, 5, 6)
    ),
    Differentiable(
        "ps_roi_pool",
        lambda x, b: roialign.ps_roi_pool(x, b, SIZE_HW, 1.0, compat=None),
        features_shape=(2, 12, 5, 6),
        moves_boxes=False,
    ),
    Differentiable("prroi_pool", lambda x, b: roialign.prroi_pool(x, b, SIZE_HW, 1.0)),
    Differentiable(
        "roi_align_rotated",
        lambda x, b: roialign.roi_align_rotated(x, b, SIZE_HW, 1.0, 2),
        columns=((0, 3.1, 2.7, 4.3, 2.9, 30), (1, 3.2, 2.4, 3.1, 3.8, -70), (0, 1.3, 2.1, 3.4, 1.7, 10)),
    ),
    Differentiable("masked_roi_align", lambda x, b: roialign.masked_roi_align(x, b, MASKS, SIZE_HW, 1.0, 2)),
    Differentiable(
        "roi_align_1d",
        lambda x, b: roialign.roi_align_1d(x, b, 3, 1.0, 2),
        features_shape=(2, 3, 9),
        columns=((0, 1.1, 5.3), (1, 2.2, 7.9), (0, -1.3, 3.4)),
    ),
    Differentiable(
        "roi_align_3d",
        lambda x, b: roialign.roi_align_3d(x, b, (2, 1, 2), 1.0, 1),
        features_shape=(2, 2, 3, 4, 5),
        columns=(
            (0, 0.7, 0.4, 0.3, 3.6, 2.8, 2.2),
            (1, 1.1, 0.3, 0.6, 4.4, 3.6, 2.4),
            (0, 0.3, 1.2, 0.2, 2.3, 3.3, 1.9),
        ),
    ),
    Differentiable("paste_masks", _paste, features_shape=(3, 2, 3), moves_boxes=False),
)
