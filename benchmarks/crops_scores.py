"""How good features are, without learning: precision among the nearest; and the means that are reported."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

THIRDS = ("smallest third", "middle third", "largest third")


def precision_at(features: Tensor, things: Tensor, photographs: Tensor, nearest: int) -> Tensor:
    """[K]: the share of the `nearest` rows to each row, by cosine, that are of its thing.

    Rows of the same photograph, the row itself included, are passed over: they share light, stain and, with RoIAlign,
    some of the pixels that were seen.

    Args:
        features: [K, C].
        things: int64 [K].
        photographs: int64 [K].
    """
    unit = normalize(features, dim=1)
    likeness = unit @ unit.T
    own = photographs[:, None] == photographs[None]
    fewest = len(things) - int(own.sum(1).max())
    if fewest < nearest:
        raise ValueError(f"expected at least {nearest} rows of other photographs for each row; got {fewest}")
    found = likeness.masked_fill(own, -torch.inf).topk(nearest).indices
    return (things[found] == things[:, None]).float().mean(1)


def halved(groups: Tensor, seed: int) -> Tensor:
    """bool [K]: the rows of half of the groups, drawn."""
    names = groups.unique()
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return torch.isin(groups, names[order[: len(names) // 2]])


def macro(values: Tensor, labels: Tensor) -> float:
    """The mean over labels of the mean of their values; NaN if there are none."""
    means = [values[labels == label].mean() for label in labels.unique()]
    return float(torch.stack(means).mean()) if means else float("nan")


def thirds(boxes_xyxy: Tensor, kinds: Tensor) -> Tensor:
    """int64 [K]: 0, 1 or 2, which third of its kind a box is in by the root of its area."""
    sizes_px = side_px(boxes_xyxy)
    found = torch.empty_like(kinds)
    for kind in kinds.unique():
        own = kinds == kind
        limits = sizes_px[own].quantile(torch.tensor([1 / 3, 2 / 3]))
        found[own] = torch.bucketize(sizes_px[own], limits)
    return found


def side_px(boxes_xyxy: Tensor) -> Tensor:
    """[K]: the root of the area of boxes [K, 4]."""
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1).sqrt()
