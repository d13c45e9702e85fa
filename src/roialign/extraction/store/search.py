"""The regions of a store that look most like one: by the cosine of their features."""

from __future__ import annotations

import errno
import heapq
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
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
SPARE = 32  # candidates beyond those asked for, which are compared exactly, too
_ALONE = 1000  # regions that one core adds before the others join
EXPANSION = 512  # of the search in the index: how many it keeps in sight

Scored = tuple[float, int]
"""A similarity, and the number of a region."""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A region and the cosine of its feature with the query's, -1 to 1."""

    region: Region
    similarity: float


def nearest(
    regions: Regions, query: Tensor | tuple[str, str], k: int = 10, *, same_image: bool = False
) -> list[Neighbour]:
    """The k regions whose features have the largest cosine with a query's, the nearest first.

    Up to 100,000 regions all are compared, in float32: the result is exact. Of more an approximate index is asked,
    usearch's HNSW over float16, and what it names is compared exactly; `benchmarks/results/store.md` says how many of
    the true neighbours it finds. The first search builds it, on all cores and in memory, and keeps it in the folder
    as `search.usearch`; a store that has grown gets another. A feature of zeros, or with numbers that are not finite,
    has a cosine of 0 with all others.

    Deterministic, but for an index that is built anew: cores add to it in turn.

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
        ImportError: if usearch is not installed, with more than 100,000 regions.

    Source: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
    Small World graphs", arXiv:1603.09320.
    """
    if k < 1:
        raise OptionError(f"RA506: expected k, how many neighbours, 1 or more; got {k}.")
    left_out: set[int] = set()
    if isinstance(query, tuple):
        own = regions.row(*query)
        of_image = regions.numbers_of(own.image_id)
        left_out = {number for number in of_image if not same_image or regions[number].box_id == own.box_id}
        query = own.feature
    shape = regions.manifest.schema.feature_shape
    if query.numel() != torch.Size(shape).numel():
        raise OptionError(
            f"RA506: expected a feature {list(shape)}; got {list(query.shape)}. Take it from a store of the same "
            "extraction."
        )
    unit = _units(query.detach().cpu().reshape(1, -1))[0]
    if len(regions) <= MOST_EXACT:
        scored = _of_all(regions, unit, k + len(left_out))
    else:
        found = _candidates(regions, unit, k + len(left_out) + SPARE)
        scored = _of_some(regions, unit, islice((number for number in found if number not in left_out), k + SPARE))
    best = heapq.nsmallest(k, ((-similarity, number) for similarity, number in scored if number not in left_out))
    return [Neighbour(regions[number], -negated) for negated, number in best]


def _units(features: Tensor) -> Tensor:
    """Features [K, ...] as rows of length 1; as zeros, where they have no direction."""
    return normalize(features.flatten(1).float(), dim=1).nan_to_num(0, 0, 0)


def _features(regions: Regions) -> Iterator[tuple[int, Tensor]]:
    """The unit features of each row group, and the number of its first region."""
    for group in regions.groups:
        table = regions.read(group, ["feature"])
        yield group.start, _units(torch.as_tensor(regions.manifest.schema.to_values(table)["feature"]))


def _of_all(regions: Regions, unit: Tensor, count: int) -> Iterator[Scored]:
    """The `count` best of each row group, at least."""
    for start, units in _features(regions):
        best = (units @ unit).topk(min(count, len(units)))
        yield from zip(best.values.tolist(), (best.indices + start).tolist(), strict=True)


def _of_some(regions: Regions, unit: Tensor, numbers: Iterable[int]) -> Iterator[Scored]:
    for number in sorted(numbers):
        yield float(_units(regions[number].feature[None])[0] @ unit), number


def _candidates(regions: Regions, unit: Tensor, count: int) -> list[int]:
    """Numbers of regions that are probably near, the nearest first."""
    index = _kept_index(regions) or _new_index(regions)
    index.expansion_search = max(EXPANSION, count)
    found: list[int] = index.search(unit.half().numpy(), count).keys.tolist()
    return found


def _about(regions: Regions) -> dict[str, Any]:
    """What an index is of."""
    return {"fingerprint": regions.manifest.fingerprint, "regions": len(regions)}


def _kept_index(regions: Regions) -> Any:
    """The index in the folder, mapped into memory, if it is of these regions."""
    usearch = needed("usearch.index")
    try:
        about = json.loads((regions.folder / _ABOUT).read_text(encoding="utf-8"))
        if about == _about(regions):
            return usearch.Index.restore(regions.folder / _INDEX, view=True)
    except (OSError, ValueError, RuntimeError):  # there is none, or a damaged one
        pass
    return None


def _new_index(regions: Regions) -> Any:
    """An index of these regions, built and kept in the folder; what it is of is written last."""
    index = needed("usearch.index").Index(
        ndim=torch.Size(regions.manifest.schema.feature_shape).numel(), metric="cos", dtype="f16"
    )
    for start, units in _features(regions):
        threads = 1 if start < _ALONE else 0  # several that begin an index leave parts of it that no search reaches
        index.add(torch.arange(start, start + len(units)).numpy(), units.half().numpy(), threads=threads)
    (regions.folder / _ABOUT).unlink(missing_ok=True)
    with files.room_in(regions.folder, lambda: "The regions are all there; it is the index for searching that is not."):
        with files.replacing(regions.folder / _INDEX) as file:
            try:
                index.save(file.name)
            except RuntimeError as error:  # usearch says only that it could not write
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        with files.replacing(regions.folder / _ABOUT) as file:
            file.write(json.dumps(_about(regions)).encode())
    return index
