"""A step of anybody's pipeline: features for the boxes of images, a batch of columns at a time, without a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from roialign.backbones.reading import Picture, read, read_content
from roialign.errors import BoxesShapeError, OptionError, RoIError
from roialign.extraction.decode import Decoded, error_row, in_frame
from roialign.extraction.items import ImageBoxes
from roialign.extraction.recipe import Recipe
from roialign.extraction.store.rows import ErrorRow, RegionRows, RowSchema
from roialign.extraction.work import Embed, PartWork, Reduce
from roialign.geometry import Frame
from roialign.regions.tracing import pooled_maps

if TYPE_CHECKING:
    import numpy

_MADE = ("features", "coverage", "levels", "error")
_ANY_HW = (480, 640)  # at which a backbone is traced while no image could be read


class EmbedRegions:
    """Adds the features of boxes to batches of images: a class for the `map_batches` of Ray Data and its like.

    A batch is a mapping of columns, numpy arrays or lists, with a row per image; it comes back with further columns,
    lists with an entry per image, each for the K boxes of that image, in their order:

    - features: an array [K, ...], NaN where a box has none;
    - coverage: an array float32 [K], the share of each box's samples that are on its map; 0 where a box has none;
    - levels: the names of the K maps that they were pooled from; "" where a box has none;
    - error: why some or all of the boxes have none, with the codes of `roialign extract`; "" if all have one.

    No row raises anything, and features are those that the image has alone, up to rounding. The model is built when
    the first batch comes, once in each process; until then it can be pickled, and afterwards it is pickled without.

    Convention: boxes are x1, y1, x2, y2 in pixels of the upright picture.

    Args:
        backbone: "timm/resnet50", "torchvision/...", "transformers/...", "path.py:callable", or a module.
        image: the column of images: each the bytes or the path of a file, a mapping of "bytes" and "path", a PIL image,
            or an array [H, W, C] or [H, W].
        boxes: the column of boxes: for each image K of them, an array [K, 4] or lists.
        weights: a file of weights for `backbone`.
        pretrained: whether a model of a library has the weights that its library has for it, or random ones.
        maps: names of the maps to pool from; all of a pyramid, or the last of other backbones, if left out.
        output_size: bins (height, width), or one number for both.
        reduce: "mean" over the bins, "none", or "flatten".
        dtype: of the features, "float32" or "float16".
        resize: images are resized to (height, width), or until their shorter side has so many pixels.
        letterbox: images are resized and padded to (height, width).
        batch_size: images that enter the backbone together, at most; a batch may have more.
        device: "cpu", "cuda", ...; a GPU if there is one.

    Raises:
        OptionError: RA506, for options that do not go together; when called, for a batch that lacks a column, or that
            has one of those that are added.

    Example:
        >>> import numpy
        >>> embed = EmbedRegions(nn.Conv2d(3, 8, 4, stride=4), output_size=2)
        >>> pictures = [numpy.zeros((48, 64, 3), "uint8"), b"no image"]
        >>> batch = embed({"image": pictures, "boxes_xyxy": [[[8, 8, 40, 40], [0, 0, 64, 48]], [[0, 0, 9, 9]]]})
        >>> [features.shape for features in batch["features"]], batch["levels"][0]
        ([(2, 8), (1, 8)], ['0', '0'])
        >>> batch["error"]
        ['', 'RA307: expected the image as ...']
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        *,
        image: str = "image",
        boxes: str = "boxes_xyxy",
        weights: str | os.PathLike[str] | None = None,
        pretrained: bool = True,
        maps: Sequence[str] | None = None,
        output_size: int | tuple[int, int] = 7,
        reduce: Reduce = "mean",
        dtype: str = "float32",
        resize: int | tuple[int, int] | None = None,
        letterbox: int | tuple[int, int] | None = None,
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        self.image, self.boxes, self.batch_size = image, boxes, batch_size
        self._recipe = Recipe.of_options(
            backbone,
            weights=weights,
            pretrained=pretrained,
            maps=maps,
            output_size=output_size,
            reduce=reduce,
            dtype=dtype,
            resize=resize,
            letterbox=letterbox,
            device=device,
        )
        self._work: PartWork | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of the batch and those that are made."""
        lacking = [name for name in (self.image, self.boxes) if name not in batch]
        taken = [name for name in _MADE if name in batch]
        if lacking or taken:
            raise OptionError(
                f"RA506: expected a batch with the columns {self.image!r} and {self.boxes!r}, and none called "
                f"{', '.join(_MADE)}; got {', '.join(batch)}. Name the columns with image= and boxes=, or rename them."
            )
        given = zip(batch[self.image], batch[self.boxes], strict=True)
        rows = [_Row(str(number), picture, boxes) for number, (picture, boxes) in enumerate(given)]
        if self._work is None:
            self._work = self._open(rows)
        schema = self._work.embed.schema
        made = [_Features(_count(row.boxes), schema) for row in rows]
        for one in self._work(rows):
            made[int(one.image_id)].take(one)
        columns = {name: [getattr(one, name) for one in made] for name in _MADE}
        return {**batch, **columns}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_work": None}

    def _open(self, rows: Sequence[_Row]) -> PartWork:
        extractor = self._recipe.build()
        frames = (decoded.marked.frame for row in rows if (decoded := _decode(row)).marked is not None)
        frame = next(frames, None) or Frame.image(_ANY_HW)
        fit = self._recipe.fit
        trace = extractor.trace((fit(frame) if fit else frame).size_hw)
        levels = pooled_maps(trace, extractor.maps)
        channels = cast(int, trace[next(iter(levels))].channels)  # a trace knows them
        schema = RowSchema(self._recipe.shape_of(channels), self._recipe.dtype)
        embed = Embed(extractor, list(levels), self._recipe.reduce, schema)
        return PartWork(_decode, embed, self.batch_size, torch.get_num_threads())


@dataclass(frozen=True, eq=False)
class _Row:
    image_id: str
    image: Any
    boxes: Any


class _Features:
    """What is made for the boxes of an image."""

    def __init__(self, count: int, schema: RowSchema) -> None:
        import numpy

        self.features = numpy.full((count, *schema.feature_shape), numpy.nan, schema.feature_dtype)
        self.coverage = numpy.zeros(count, "float32")
        self.levels = [""] * count
        self.error = ""

    def take(self, made: RegionRows | ErrorRow) -> None:
        if isinstance(made, ErrorRow):
            whose = "" if made.box_id is None else f"box {made.box_id}: "
            self.error += f"{' ' if self.error else ''}{whose}{made.code}: {made.reason}"
            return
        places = made.box_indices.numpy()
        self.features[places], self.coverage[places] = made.features.numpy(), made.coverage.numpy()
        for place, level in zip(places, made.levels, strict=True):
            self.levels[place] = level


def _decode(row: _Row) -> Decoded:
    try:
        boxes_xyxy = _boxes_of(row.boxes)
        if not len(boxes_xyxy):
            return Decoded(None)
        found = ImageBoxes(boxes_xyxy, tuple(map(str, range(len(boxes_xyxy)))))
        return in_frame(row.image_id, _picture_of(row.image), found, masked=False)
    except (RoIError, OSError, MemoryError) as error:
        return Decoded(None, (error_row(row.image_id, error),))


def _picture_of(image: Any) -> Picture:
    if isinstance(image, Mapping):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    return read_content(image) if isinstance(image, bytes) else read(image)


def _boxes_of(boxes: Any) -> numpy.ndarray[Any, Any]:
    import numpy

    try:
        found: numpy.ndarray[Any, Any] = numpy.array([numpy.asarray(box, "float64") for box in boxes])
    except (TypeError, ValueError):
        found = numpy.array(0.0)
    if not found.size:
        return numpy.empty((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise BoxesShapeError(
            "RA210: expected the boxes of an image as K times x1, y1, x2, y2; got "
            f"{f'an array {list(found.shape)}' if found.ndim else repr(boxes)[:80]}."
        )
    return found


def _count(boxes: Any) -> int:
    """How many boxes an image has, of whatever form."""
    return len(boxes) if hasattr(boxes, "__len__") else 0
