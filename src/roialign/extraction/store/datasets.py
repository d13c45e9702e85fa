"""A store as torch's datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

if TYPE_CHECKING:
    from roialign.extraction.store.reading import Regions

Item = dict[str, Any]


class RegionDataset(Dataset[Item]):
    """The regions of a store by number, each a dict of columns; made by `Regions.as_dataset`."""

    def __init__(self, regions: Regions, columns: Sequence[str]) -> None:
        self.regions, self.columns = regions, columns

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The regions of these numbers, in their order: what a DataLoader asks for a batch at a time."""
        places = [self.regions.place_of(index) for index in indices]
        order = sorted(range(len(places)), key=lambda which: places[which][0].start)
        found: dict[int, Item] = {}
        for group, some in groupby(order, key=lambda which: places[which][0]):
            which = list(some)
            table = self.regions.read(group, self.columns).take([places[one][1] for one in which])
            found |= zip(which, _items(self.regions, table), strict=True)
        return [found[which] for which in range(len(places))]


class RegionStream(IterableDataset[Item]):
    """The regions of a store in order, each a dict of columns; made by `Regions.as_stream`."""

    def __init__(self, regions: Regions, columns: Sequence[str]) -> None:
        self.regions, self.columns = regions, columns

    def __iter__(self) -> Iterator[Item]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for group in self.regions.groups[first::step]:
            yield from _items(self.regions, self.regions.read(group, self.columns))


def _items(regions: Regions, table: Any) -> Iterator[Item]:
    """The rows of an Arrow table: numbers as tensors [], features as tensors of their shape."""
    values = regions.manifest.schema.to_values(table)
    columns = [some.unbind() if isinstance(some, Tensor) else some for some in values.values()]
    return (dict(zip(values, row, strict=True)) for row in zip(*columns, strict=True))
