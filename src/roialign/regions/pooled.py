"""What a RegionExtractor returns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Pooled(NamedTuple):
    """Features of boxes, and where they come from."""

    features: Tensor
    """[K, C, height, width], in the type of the feature maps."""
    coverage: Tensor
    """[K], share of each box's samples that are on its map."""
    levels: Tensor
    """int64 [K], which map each box was pooled from."""
    padding_distance: Tensor
    """[K], how far the cells that each box reads are from what its image was padded with to fill the batch, in
    receptive fields of its map: below 0.5 the padding reaches the box; infinite where there is none, 0 where each cell
    sees the whole image, or where the backbone pads or resizes otherwise at the size of the batch."""


def in_order(parts: Sequence[Pooled], images: Sequence[Sequence[int]], boxes: Sequence[int]) -> Pooled:
    """Parts [K_i, ...], each of some of the images, as one in the order of the images.

    `images` are the indices of the images of each part, `boxes` how many boxes each of all images has.
    """
    starts = list(accumulate(boxes, initial=0))
    rows = [row for some in images for index in some for row in range(starts[index], starts[index] + boxes[index])]
    places = torch.tensor(rows, dtype=torch.int64, device=parts[0].features.device).argsort()
    return Pooled(*(torch.cat(some)[places] for some in zip(*parts, strict=True)))
