"""From pictures with boxes to rows, a batch or a part at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from roialign.errors import RoIError
from roialign.extraction.decode import NO_BOXES, Decoded, Marked, error_row
from roialign.extraction.items import MASK_SHARE, ImageRef
from roialign.extraction.ordering import InOrder
from roialign.extraction.outlines import OutlineInBox
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.rows import ErrorRow, Made, RegionRows, RowSchema
from roialign.ops.notice import set_policy
from roialign.regions import ImageBatch, Pooled, RegionExtractor

Reduce = Literal["mean", "none", "flatten"]

_MOST_PIXELS = 1 << 24  # of the images of a batch, more than one of them; of those that wait for others twice as many
_MOST_NUMBERS = 1 << 24  # of the features that are pooled at once, before they are reduced
_MOST_HELD = 1 << 27  # bytes of the rows that wait for those of earlier images
_BYTES_BESIDES = 1 << 10  # of a row, beside its feature: ids and other columns, about


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
        batch = self.extractor.prepare([marked.pixels_chw], [marked.frame])
        return Prepared(replace(marked, pixels_chw=marked.pixels_chw.new_empty(3, 0, 0)), batch)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Prepared]) -> Iterator[Made]:
        """The rows of some images of one size, in order, some at a time; errors for features that cannot be stored."""
        ends = list(accumulate(len(image.marked.box_ids) for image in images))
        begins, start = [0, *ends], 0
        for pooled, shares in self._chunks(images):
            stop = start + len(pooled.features)
            for image, begin, end in zip(images, begins, ends, strict=False):
                mine = range(max(start, begin), min(stop, end))
                if mine:
                    yield from self._rows(
                        image.marked, pooled, shares, mine.start - begin, mine.start - start, len(mine)
                    )
            start = stop

    def _chunks(self, images: Sequence[Prepared]) -> Iterator[tuple[Pooled, Tensor]]:
        """Some boxes at a time: what is stored of them, and how much of each is within its outline."""
        batch = ImageBatch(*(tuple(chain.from_iterable(some)) for some in zip(*map(_parts, images), strict=True)))
        boxes, masks = [image.marked.boxes for image in images], _masks(images)
        chunks = self.extractor.in_chunks(batch, boxes, self._most_boxes, masks)
        while True:
            with set_policy("ignore"):  # coverage is a column; ended before others go on
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield self._reduced(*chunk)

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

    def _rows(
        self, marked: Marked, pooled: Pooled, shares: Tensor, of_image: int, of_chunk: int, count: int
    ) -> Iterator[Made]:
        """The rows of `count` boxes, which begin at these places among the image's boxes and in the chunk."""
        some = slice(of_chunk, of_chunk + count)
        finite, bare = pooled.features[some].flatten(1).isfinite().all(1), shares[some] == 0
        kept = (finite & ~bare).nonzero().flatten()
        places, of_all = kept + of_image, kept + of_chunk
        rows = places.tolist()
        if rows:
            columns = {name: [values[row] for row in rows] for name, values in marked.columns.items()}
            if marked.masks is not None:
                columns[MASK_SHARE] = [
                    None if marked.masks[row] is None else share
                    for row, share in zip(rows, shares[of_all].tolist(), strict=True)
                ]
            yield RegionRows(
                [marked.image_id] * len(rows),
                [marked.box_ids[row] for row in rows],
                torch.tensor([marked.box_indices[row] for row in rows], dtype=torch.int64),
                marked.boxes.boxes_xyxy[places],
                torch.tensor([marked.frame.size_hw]).expand(len(rows), 2),
                [self.levels[level] for level in pooled.levels[of_all].tolist()],
                pooled.coverage[of_all],
                pooled.padding_distance[of_all],
                pooled.features[of_all],
                columns,
            )
        for index in (~finite | bare).nonzero().flatten().tolist():
            yield _bare(marked, index + of_image) if bare[index] else self._lost(marked, index + of_image)

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


class Named(Protocol):
    """An image by its id, which is unique in a part: an `ImageRef`, or what another `decode` takes."""

    @property
    def image_id(self) -> str: ...


class PartWork:
    """Makes the rows of a part, the same whatever else is done before or beside it.

    Images are decoded ahead by threads. Those of one size enter the backbone together, at most `batch_size` of them and
    fewer where they are large or have many boxes, in batches that depend on nothing but the part. Memory is bounded,
    whatever the number of images and of their boxes: rows come as they are made, and those that wait for an earlier
    image are held back only up to a limit, at which that image's turn comes.

    Args:
        decode: reads images, such as `Decode`; called by several threads.
        embed: makes rows of them.
        batch_size: images in a batch, at most.
        decoders: threads that read, at least 1.
    """

    def __init__(self, decode: Callable[[Any], Decoded], embed: Embed, batch_size: int, decoders: int) -> None:
        self.decode, self.embed, self.batch_size = decode, embed, batch_size
        self._threads = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._most_held = max(1, _MOST_HELD // (embed.schema.feature_bytes + _BYTES_BESIDES))

    def __call__(self, images: Sequence[Named], note: Note = lambda step: None) -> Iterator[Made]:
        """The rows of these images and the errors, as they are made, in the order of the images."""
        waiting, held = dict[tuple[int, int], list[Prepared]](), InOrder()
        for image_id, prepared, errors in self._read_ahead(images, note):
            count = len(errors) + (0 if prepared is None else len(prepared.marked.box_ids))
            while waiting and held.count + count > self._most_held:
                yield from self._embedded(waiting.pop(next(iter(waiting))), held, note)
            held.begin(image_id, count, errors)
            if prepared is None:
                held.end(image_id)
            else:
                waiting.setdefault(prepared.size_hw, []).append(prepared)
                for batch in self._due(waiting, prepared.size_hw):
                    yield from self._embedded(batch, held, note)
            yield from held.ready()
        for batch in waiting.values():
            yield from self._embedded(batch, held, note)

    def do(self, number: int, images: Sequence[ImageRef], parts: Parts, note: Note) -> None:
        """Make a part and write it."""
        parts.write(number, self(images, note))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _embedded(self, batch: Sequence[Prepared], held: InOrder, note: Note) -> Iterator[Made]:
        """Make the rows of a batch; what of all that is made has its turn."""
        boxes, errors = 0, 0
        for one in self._made(batch):
            if isinstance(one, ErrorRow):
                errors += 1
            else:
                boxes += len(one)
            held.add(one)
            yield from held.ready()
        for image in batch:
            held.end(image.marked.image_id)
        note(Step(len(batch), boxes, errors))
        yield from held.ready()

    def _made(self, batch: Sequence[Prepared]) -> Iterator[Made]:
        left = {image.marked.image_id: len(image.marked.box_ids) for image in batch}
        try:
            for one in self.embed(batch):
                left[one.image_id] -= 1 if isinstance(one, ErrorRow) else len(one)
                yield one
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (RoIError, RuntimeError, ValueError) as error:  # a size that the backbone does not take, say
            yield from (error_row(image_id, error) for image_id, count in left.items() if count)

    def _read_ahead(
        self, images: Sequence[Named], note: Note
    ) -> Iterator[tuple[str, Prepared | None, Sequence[ErrorRow]]]:
        """The images in order, read ahead by as many as enter the backbone together."""
        waiting, left = deque[Future[tuple[Prepared | None, Sequence[ErrorRow]]]](), iter(images)
        try:
            for image in images:
                while len(waiting) < max(2, self.batch_size) and (ahead := next(left, None)) is not None:
                    waiting.append(self._threads.submit(self._read, ahead))
                prepared, errors = waiting.popleft().result()
                note(Step(int(prepared is None), 0, sum(error.code != NO_BOXES for error in errors)))
                yield image.image_id, prepared, errors
        finally:
            for future in waiting:
                future.cancel()

    def _read(self, image: Named) -> tuple[Prepared | None, Sequence[ErrorRow]]:
        decoded = self.decode(image)
        if decoded.marked is None:
            return None, decoded.errors
        try:
            return self.embed.prepare(decoded.marked), decoded.errors
        except RoIError as error:
            return None, (*decoded.errors, error_row(image.image_id, error))

    def _due(
        self, waiting: dict[tuple[int, int], list[Prepared]], size_hw: tuple[int, int]
    ) -> Iterator[list[Prepared]]:
        """After an image of this size came: a batch, if it is full; if too many wait, the most pixels of one size."""
        if len(waiting[size_hw]) >= min(self.batch_size, _MOST_PIXELS // _pixels(size_hw)):
            yield waiting.pop(size_hw)
        if sum(_pixels(size_hw) * len(some) for size_hw, some in waiting.items()) > 2 * _MOST_PIXELS:
            yield waiting.pop(max(waiting, key=lambda size_hw: _pixels(size_hw) * len(waiting[size_hw])))


def _pixels(size_hw: tuple[int, int]) -> int:
    return size_hw[0] * size_hw[1]
