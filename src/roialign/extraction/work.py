"""From pictures with boxes to rows, a batch or a part at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from roialign.errors import RoIError
from roialign.extraction.decode import NO_BOXES, Decode, Decoded, Marked, error_row
from roialign.extraction.items import MASK_SHARE, ImageRef
from roialign.extraction.outlines import OutlineInBox
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.rows import ErrorRow, RegionRows, RowSchema
from roialign.ops.notice import set_policy
from roialign.regions import ImageBatch, Pooled, RegionExtractor

Reduce = Literal["mean", "none", "flatten"]

_MOST_PIXELS = 1 << 24  # of the images of a batch, more than one of them; of those that wait for others twice as many
_MOST_NUMBERS = 1 << 24  # of the features that are pooled at once, before they are reduced


class Step(NamedTuple):
    """What was done since the last one, for whoever shows progress."""

    images: int
    boxes: int
    errors: int


Note = Callable[[Step], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as it enters the backbone, with its boxes."""

    marked: Marked
    batch: ImageBatch
    """Of this image alone."""

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.batch.filled_hw[0]


class Embed:
    """Makes rows of pictures with boxes.

    The features of a box are those of `extractor`, reduced and rounded. Memory is bounded: boxes are pooled in chunks,
    which changes no bit. Where outlines count, a box of which nothing lies within its outline is refused with RA309.

    Args:
        extractor: in eval mode.
        levels: the names of the maps that it pools from, in order.
        reduce: "mean" over the bins, [C], of each as much as lies within the outline where outlines count; "none",
            [C, height, width]; or "flatten", [C * height * width].
        schema: of the rows.
    """

    def __init__(self, extractor: RegionExtractor, levels: Sequence[str], reduce: Reduce, schema: RowSchema) -> None:
        self.extractor, self.levels, self.reduce, self.schema = extractor, tuple(levels), reduce, schema
        height, width = extractor.output_size
        channels = schema.feature_shape[0] // (height * width if reduce == "flatten" else 1)
        self._most_boxes = max(1, _MOST_NUMBERS // (channels * height * width))

    @torch.inference_mode()
    def prepare(self, marked: Marked) -> Prepared:
        """Fit and normalize the picture; any thread may do it."""
        return Prepared(marked, self.extractor.prepare([marked.pixels_chw], [marked.frame]))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Prepared]) -> tuple[list[RegionRows], list[ErrorRow]]:
        """The rows of each of some images of one size, and the boxes whose features cannot be stored."""
        batch = ImageBatch(*(tuple(chain.from_iterable(some)) for some in zip(*map(_parts, images), strict=True)))
        boxes, masks = [image.marked.boxes for image in images], _masks(images)
        with set_policy("ignore"):  # coverage is a column
            chunks = [self._reduced(*one) for one in self.extractor.in_chunks(batch, boxes, self._most_boxes, masks)]
        pooled = Pooled(*(torch.cat(some) for some in zip(*(one for one, _ in chunks), strict=True)))
        shares = torch.cat([one for _, one in chunks])
        lost, bare = ~pooled.features.flatten(1).isfinite().all(1), shares == 0
        rows, errors, start = list[RegionRows](), list[ErrorRow](), 0
        for image in images:
            mine = range(start, start + len(image.marked.box_ids))
            start = mine.stop
            gone = set((lost | bare)[mine.start : mine.stop].nonzero().flatten().tolist())
            errors += [
                _bare(image.marked, row) if bare[mine.start + row] else self._lost(image.marked, row)
                for row in sorted(gone)
            ]
            kept = [row for row in range(len(mine)) if row not in gone]
            rows.append(self._rows(image.marked, pooled, shares, mine.start, kept))
        return rows, errors

    def _reduced(self, pooled: Pooled, bin_shares: Tensor | None) -> tuple[Pooled, Tensor]:
        """The features as they are stored, and how much of each box is within its outline."""
        features = pooled.features
        if self.reduce == "mean":
            features = features.float()
            features = features.mean((2, 3)) if bin_shares is None else _mean_within(features, bin_shares)
        elif self.reduce == "flatten":
            features = features.flatten(1)
        shares = torch.ones_like(pooled.coverage) if bin_shares is None else bin_shares.mean((1, 2))
        reduced = Pooled(*(one.cpu() for one in pooled._replace(features=features.to(self.schema.dtype))))
        return reduced, shares.cpu()

    def _rows(self, marked: Marked, pooled: Pooled, shares: Tensor, start: int, kept: list[int]) -> RegionRows:
        places = torch.tensor(kept, dtype=torch.int64)
        of_all = places + start
        columns = {name: [values[row] for row in kept] for name, values in marked.columns.items()}
        if marked.masks is not None:
            columns[MASK_SHARE] = [
                None if marked.masks[row] is None else share
                for row, share in zip(kept, shares[of_all].tolist(), strict=True)
            ]
        return RegionRows(
            [marked.image_id] * len(kept),
            [marked.box_ids[row] for row in kept],
            torch.tensor(marked.box_indices, dtype=torch.int64)[places],
            marked.boxes.boxes_xyxy[places],
            torch.tensor([marked.frame.size_hw]).expand(len(kept), 2),
            [self.levels[level] for level in pooled.levels[of_all].tolist()],
            pooled.coverage[of_all],
            pooled.padding_distance[of_all],
            pooled.features[of_all],
            columns,
        )

    def _lost(self, marked: Marked, row: int) -> ErrorRow:
        dtype = self.schema.feature_dtype
        most = torch.finfo(self.schema.dtype).max
        fix = " Use float32." if dtype == "float16" else ""
        reason = (
            f"expected finite numbers, at most {most:g} in {dtype}; the feature has NaN, infinite or larger ones.{fix}"
        )
        return ErrorRow(marked.image_id, marked.box_ids[row], "RA302", reason)


def _masks(images: Sequence[Prepared]) -> list[OutlineInBox | None] | None:
    """Of all boxes; None where outlines do not count."""
    each = [image.marked.masks for image in images if image.marked.masks is not None]
    return list(chain.from_iterable(each)) if each else None


def _mean_within(features: Tensor, bin_shares: Tensor) -> Tensor:
    """The mean [K, C] over the bins, of each as much as is within the outline."""
    shares = bin_shares.float()
    weights = shares / shares.sum((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (features * weights[:, None]).sum((2, 3))


def _bare(marked: Marked, row: int) -> ErrorRow:
    x1, y1, x2, y2 = marked.boxes.boxes_xyxy[row].tolist()
    reason = f"expected an outline of which a part lies in its box; none is within {x1:g}, {y1:g}, {x2:g}, {y2:g}."
    return ErrorRow(marked.image_id, marked.box_ids[row], "RA309", reason)


def _parts(image: Prepared) -> tuple[Any, ...]:
    return image.batch.images, image.batch.frames, image.batch.filled_hw


class PartWork:
    """Makes the rows of a part, the same whatever else is done before or beside it.

    Images are decoded ahead by threads. Those of one size enter the backbone together, at most `batch_size` of them and
    fewer where they are large, in batches that depend on nothing but the part.

    Args:
        decode: reads images.
        embed: makes rows of them.
        batch_size: images in a batch, at most.
        decoders: threads that read, at least 1.
    """

    def __init__(self, decode: Decode, embed: Embed, batch_size: int, decoders: int) -> None:
        self.decode, self.embed, self.batch_size = decode, embed, batch_size
        self._threads = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    def __call__(self, images: Sequence[ImageRef], note: Note = lambda step: None) -> tuple[RegionRows, list[ErrorRow]]:
        """The rows of these images and the errors, in the order of the images."""
        rows, errors = dict[str, RegionRows](), dict[str, list[ErrorRow]]()
        for batch in self._batches(self._prepared(images, errors, note)):
            found, lost = self._embedded(batch)
            for image, one in zip(batch, found, strict=True):
                rows[image.marked.image_id] = one
            for error in lost:
                errors.setdefault(error.image_id, []).append(error)
            note(Step(len(batch), sum(map(len, found)), len(lost)))
        order = [image.image_id for image in images]
        in_order = [rows[image_id] for image_id in order if image_id in rows]
        return joined(in_order, self.embed.schema), [error for one in order for error in errors.get(one, ())]

    def do(self, number: int, images: Sequence[ImageRef], parts: Parts, note: Note) -> None:
        """Make a part and write it."""
        parts.write(number, *self(images, note))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _embedded(self, batch: Sequence[Prepared]) -> tuple[list[RegionRows], list[ErrorRow]]:
        try:
            return self.embed(batch)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (RoIError, RuntimeError, ValueError) as error:  # a size that the backbone does not take, say
            failed = [error_row(image.marked.image_id, error) for image in batch]
            return [joined([], self.embed.schema)] * len(batch), failed

    def _prepared(
        self, images: Sequence[ImageRef], errors: dict[str, list[ErrorRow]], note: Note
    ) -> Iterator[Prepared]:
        """The pictures in order, read ahead by as many as enter the backbone together."""
        waiting, left = deque[Future[tuple[Prepared | None, Decoded]]](), iter(images)
        try:
            for image in images:
                while len(waiting) < max(2, self.batch_size) and (ahead := next(left, None)) is not None:
                    waiting.append(self._threads.submit(self._read, ahead))
                prepared, decoded = waiting.popleft().result()
                if decoded.errors:
                    errors[image.image_id] = list(decoded.errors)
                note(Step(int(prepared is None), 0, sum(error.code != NO_BOXES for error in decoded.errors)))
                if prepared is not None:
                    yield prepared
        finally:
            for future in waiting:
                future.cancel()

    def _read(self, image: ImageRef) -> tuple[Prepared | None, Decoded]:
        decoded = self.decode(image)
        if decoded.marked is None:
            return None, decoded
        try:
            return self.embed.prepare(decoded.marked), Decoded(None, decoded.errors)
        except RoIError as error:
            return None, Decoded(None, (*decoded.errors, error_row(image.image_id, error)))

    def _batches(self, images: Iterable[Prepared]) -> Iterator[list[Prepared]]:
        """Images of one size together, full batches first; whenever too many wait, the most of one size."""
        waiting = dict[tuple[int, int], list[Prepared]]()
        for image in images:
            group = waiting.setdefault(image.size_hw, [])
            group.append(image)
            if len(group) >= min(self.batch_size, _MOST_PIXELS // _pixels(image.size_hw)):
                yield waiting.pop(image.size_hw)
            if sum(_pixels(size_hw) * len(some) for size_hw, some in waiting.items()) > 2 * _MOST_PIXELS:
                yield waiting.pop(max(waiting, key=lambda size_hw: _pixels(size_hw) * len(waiting[size_hw])))
        yield from waiting.values()


def _pixels(size_hw: tuple[int, int]) -> int:
    return size_hw[0] * size_hw[1]


def joined(rows: Sequence[RegionRows], schema: RowSchema) -> RegionRows:
    """The rows of several images one after another."""

    def listed(name: str) -> list[Any]:
        return list(chain.from_iterable(getattr(one, name) for one in rows))

    def stacked(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.cat([torch.empty(0, *shape, dtype=dtype), *(getattr(one, name).to(dtype) for one in rows)])

    return RegionRows(
        listed("image_ids"),
        listed("box_ids"),
        stacked("box_indices", dtype=torch.int64),
        stacked("boxes_xyxy", 4),
        stacked("image_sizes_hw", 2, dtype=torch.int64),
        listed("levels"),
        stacked("coverage"),
        stacked("padding_distance"),
        stacked("features", *schema.feature_shape, dtype=schema.dtype),
        {name: list(chain.from_iterable(one.columns[name] for one in rows)) for name in schema.columns},
    )
