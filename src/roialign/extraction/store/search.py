"""The regions of a store that look most like one: by the cosine of their features."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from roialign.errors import OptionError
from roialign.extraction.packages import needed
from roialign.extraction.store import files
from roialign.extraction.store.reading import Region, Regions

MOST_EXACT = 100_000  # regions, up to which all are compared
_INDEX, _ABOUT = "search.usearch", "search.json"
_BLOCK = 4096  # regions that are compared at once
_SPARE = 32  # candidates beyond those asked for, to be compared exactly


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A region and the cosine of its feature with the query's, -1 to 1."""

    region: Region
    similarity: float


def nearest(
    regions: Regions, query: Tensor | tuple[str, str], k: int = 10, *, same_image: bool = False
) -> list[Neighbour]:
    """The k regions whose features have the largest cosine with a query's, the nearest first.

    Up to 100,000 regions all are compared, in float32; the result is exact, and deterministic: of equal ones the first
    in the store comes first. Of more an approximate index is asked (usearch's HNSW over float16), and the candidates
    that it names are compared exactly. It is built once, on all cores, and kept in the folder as `search.usearch`; a
    store that has grown gets another. How many of the true neighbours it finds is in
    `benchmarks/results/store.md`.

    Args:
        regions: what `open` returned.
        query: a feature of the store's shape, or flat; or the ids of an image and of one of its boxes, which is then
            no neighbour of itself.
        k: how many; fewer come where the store has fewer.
        same_image: whether other regions of the query's image count, where it is given by its ids.

    Raises:
        OptionError: RA506, if k is below 1, or a feature has another number of elements.
        NoRegionError: RA715, if there is no region of these ids.
        StoreError: RA713, if there is no room for the index; RA714, for a damaged part.
        ImportError: if usearch is not installed and there are more than 100,000 regions.

    Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using hierarchical navigable
    small world graphs", arXiv:1603.09320.
    """
    if k < 1:
        raise OptionError(f"RA506: expected k, how many neighbours, 1 or more; got {k}.")
    left_out: set[int] = set()
    if isinstance(query, tuple):
        image_id, box_id = query
        own = regions.row(image_id, box_id)
        feature = own.feature
        numbers = regions.numbers_of(image_id)
        left_out = {number for number in numbers if not same_image or regions[number].box_id == box_id}
    else:
        feature = query
    wanted = torch.Size(regions.manifest.schema.feature_shape).numel()
    if feature.numel() != wanted:
        raise OptionError(
            f"RA506: expected a feature of {wanted} elements, {list(regions.manifest.schema.feature_shape)}; got "
            f"{list(feature.shape)}. Take it from a store of the same extraction."
        )
    unit = _units(feature.detach().cpu().reshape(1, -1))[0]
    if len(regions) <= MOST_EXACT:
        scored = _all(regions, unit)
    else:
        scored = _of(regions, _candidates(regions, unit, k + len(left_out)), unit)
    found = heapq.nsmallest(k, ((-similarity, number) for similarity, number in scored if number not in left_out))
    return [Neighbour(regions[number], -negated) for negated, number in found]


def build_index(regions: Regions) -> Any:
    """The index of all features, made anew and written to the folder."""
    usearch = needed("usearch.index")
    index = _empty(regions)
    start = 0
    for batch in regions.batches(_BLOCK):
        numbers = torch.arange(start, start + len(batch))
        index.add(numbers.numpy(), _units(batch.features.flatten(1)).half().numpy())
        start += len(batch)
    return index
