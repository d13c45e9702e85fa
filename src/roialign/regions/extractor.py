"""From pixels and boxes to region features, with every frame on the way kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from roialign.backbones import BackboneTrace, library
from roialign.backbones.reading import read
from roialign.backbones.sizes import SizeFamily
from roialign.errors import BatchIndexError, OptionError
from roialign.geometry import Boxes, FeatureGrid, Frame
from roialign.geometry.grid import OffsetKind
from roialign.ops import validate
from roialign.regions import images as pixels_of
from roialign.regions import padding
from roialign.regions.images import Fit, ImageBatch, Images
from roialign.regions.levels import FPNLevels, LevelRule
from roialign.regions.masked import BoxMask, pool_masked
from roialign.regions.normalization import channel_values, normalized
from roialign.regions.pool import AnyBoxes, pool, rois_of
from roialign.regions.pooled import Pooled, in_order
from roialign.regions.tracing import Tracer, outside_of_graphs, pooled_maps

Batching = Literal["by_size", "pad"]


class RegionExtractor(nn.Module):
    """A backbone with everything around it: images and boxes in, one feature per box out.

    Convention: boxes are x1, y1, x2, y2 in pixels of the image that they are given with, or `Boxes` in any frame that
    is connected to it. What is done to the images before they enter the backbone is recorded as frames, and the
    backbone's grids are traced, once per family of sizes, so there is no scale to pass.

    A box's features are a function of its image and of the box, whatever else is in the batch, up to rounding: images
    of one size enter the backbone together, others apart. In train mode BatchNorm still mixes the images of a batch:
    call `.eval()`. A backbone built by name already is in eval mode.

    The backbone's weights, type and device decide what is computed: `.half()`, `.to("cuda")`, `.eval()` as on any
    module. Deterministic where the backbone is. `torch.compile` works: in one graph for a batch tensor [N, C, H, W]
    with boxes as tensors, once `trace` has seen a size of the family; otherwise with graph breaks around preparation
    and tracing.

    Args:
        backbone: maps images [N, C, H, W] to one map or several, as `roialign.trace` takes it; or a classifier of timm
            or torchvision, which is run up to its maps; or the name of a model, "timm/resnet50",
            "torchvision/convnext_tiny" or "transformers/ORGANISATION/MODEL", which is built, in eval mode.
        output_size: bins (height, width), or one number for both.
        pretrained: with a name, whether to load trained weights, which the library downloads if it does not have them,
            or use random ones.
        fit: what is done to each image: a function of the image's `Frame` that returns a frame made from it, such as
            `lambda photo: photo.letterbox((640, 640))`. Bilinear, antialiased; padded with zeros after normalizing.
            Without it, images enter unchanged.
        batch: how to handle images of several sizes. "by_size" runs those of one size together, "pad" pads all with
            zeros at the bottom and on the right and runs them at once, which changes the features of boxes near the
            padding: see `Pooled.padding_distance`, and RA312, which says how many.
        mean: per channel, for normalization; by default the one that the model was trained with if it is built by
            name, otherwise none.
        std: likewise.
        maps: names of the maps to pool from, as in the trace. By default all maps of a pyramid, which have the same
            number of channels and different strides; for other backbones the last map.
        offset: which of the grids' offsets to use: "convention", "structural" or "calibrated".
        levels: which map each box is pooled from; see `pool_regions`.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).

    Raises:
        OptionError: RA506, for conflicting options.
        ValueError: for an unknown model, with similar names.
        ImportError: if the library is not installed, with the command that installs it.

    Example:
        >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4, padding=3), nn.Conv2d(8, 16, 3, stride=2, padding=1))
        >>> extractor = RegionExtractor(backbone, output_size=3, fit=lambda photo: photo.letterbox((96, 96)))
        >>> photo = torch.rand(3, 60, 80)
        >>> pooled = extractor([photo], [torch.tensor([[10.0, 10.0, 50.0, 40.0]])])
        >>> pooled.features.shape, pooled.coverage, pooled.levels
        (torch.Size([1, 16, 3, 3]), tensor([1.]), tensor([0]))
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        backbone: nn.Module | str,
        output_size: int | tuple[int, int] = 7,
        *,
        pretrained: bool | None = None,
        fit: Fit | None = None,
        batch: Batching = "by_size",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        maps: Sequence[str] | None = None,
        offset: OffsetKind = "convention",
        levels: LevelRule = FPNLevels(),  # noqa: B008  a value
        sampling_ratio: int = -1,
    ) -> None:
        super().__init__()
        if isinstance(backbone, str):
            if pretrained is None:
                raise OptionError(
                    f"RA506: expected pretrained with {backbone!r}, True for trained weights, which may be downloaded, "
                    "or False for random ones; got none. Use pretrained=True."
                )
            built = library.current().build(backbone, pretrained)
            backbone = built.backbone
            mean, std = (built.mean if mean is None else mean), (built.std if std is None else std)
        elif pretrained is not None:
            raise OptionError(
                f"RA506: expected pretrained with the name of a model; got it with {type(backbone).__name__}, which "
                "already has its weights. Leave it out."
            )
        if batch not in ("by_size", "pad"):
            raise OptionError(f'RA506: expected batch, "by_size" or "pad"; got {batch!r}. Leave it out for "by_size".')
        self.backbone = library.current().with_maps(backbone)
        self.batch = batch
        self.output_size, _, self.sampling_ratio = validate.check_options(output_size, 1.0, sampling_ratio)
        self.fit, self.maps, self.offset, self.levels = fit, maps, offset, levels
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, channel_values(name, values), persistent=False)
        self._families: list[SizeFamily] = []
        self._tracer = Tracer(offset)

    def forward(self, images: Images, boxes: AnyBoxes, frames: Frame | Sequence[Frame] | None = None) -> Pooled:
        """Features, coverage and level of each box, in the order of the boxes.

        Args:
            images: a batch tensor [N, C, H, W]; one image or a list of them, each a tensor [C, H, W], an array
                [H, W, C], a PIL image or the path of a file (uint8 becomes 0 to 1); or what `prepare` returned.
                Files and PIL images are made upright, as their EXIF orientation says; boxes are of the upright picture.
            boxes: for each image a `Boxes` or a tensor [L, 4], in a list; one of them for one image; or a tensor [K, 5]
                with the batch index in column 0, for a batch tensor that enters unchanged.
            frames: the frame of each image as passed here, upright or as stored, if its `Boxes` are in another one. By
                default it is the frame of its `Boxes`, whose size has to be the image's.

        Raises:
            FrameError: RA107, for boxes in a frame without a path to the image.
            RoIError: for other invalid arguments; see `roialign.errors`.
        """
        as_it_is = self.fit is None and self.mean is None and self.std is None
        if as_it_is and _is_float_batch(images) and _are_tensors(boxes):
            return self._extract(self._as_weights(images), boxes)
        if isinstance(images, ImageBatch):
            batch = images
        else:
            batch, boxes = outside_of_graphs(self._prepare_both)(images, boxes, frames)
        groups = batch.groups()
        if len(groups) == 1:
            return self._extract(self._as_weights(groups[0].pixels), boxes, batch.frames, batch.filled_hw)
        each = _of_each(boxes, len(batch.images))
        parts = [
            self._extract(
                self._as_weights(pixels),
                [each[index] for index in indices],
                [batch.frames[index] for index in indices],
                [batch.filled_hw[index] for index in indices],
            )
            for indices, pixels in groups
        ]
        return in_order(parts, [group.indices for group in groups], [len(some) for some in each])

    if TYPE_CHECKING:

        def __call__(
            self, images: Images, boxes: AnyBoxes, frames: Frame | Sequence[Frame] | None = None
        ) -> Pooled: ...

    def prepare(self, images: Images, frames: Sequence[Frame] | None = None) -> ImageBatch:
        """Read, fit and normalize images: `.images` enter the backbone, in `.frames`; `.pixels` is all in one tensor.

        Args:
            images: as `forward` takes them.
            frames: of each image as given; new ones if left out.

        Raises:
            FrameError: RA107, if a frame is not of the size of its image.
        """
        pictures = [read(image, f"image {index}") for index, image in enumerate(pixels_of.listed(images))]
        if frames is not None and len(frames) != len(pictures):
            raise BatchIndexError(f"RA208: expected a frame for each of {len(pictures)} images; got {len(frames)}.")
        fitted, targets = [], []
        for index, picture in enumerate(pictures):
            photo = picture.frame_named(None if frames is None else frames[index], f"image {index}")
            target = self.fit(photo) if self.fit else photo
            image = normalized(self._as_weights(picture.pixels_chw), self.mean, self.std)
            fitted.append(pixels_of.render(image, photo, target))
            targets.append(target)
        return pixels_of.batch(fitted, targets, padded=self.batch == "pad")

    def in_chunks(
        self,
        batch: ImageBatch,
        boxes: Sequence[Boxes],
        most_boxes: int,
        masks: Sequence[BoxMask | None] | None = None,
    ) -> Iterator[tuple[Pooled, Tensor | None]]:
        """As `forward`, but at most `most_boxes` boxes at a time: what memory takes where their features are large.

        The backbone runs once. Without masks all chunks together are what `forward` returns. With them a bin is the
        mean over that part of it which is in the box's mask, or zero; beside the chunk comes how much of each bin is,
        [K, height, width].

        Args:
            batch: what `prepare` returned, of images of one size.
            boxes: of each image.
            most_boxes: in a chunk.
            masks: of each box of all images, in their order; None for one of which all counts.
        """
        pixels = self._as_weights(batch.pixels)
        trace, used, grids = self._maps_of(pixels)
        rois = rois_of(boxes, used[0], list(grids.values()), batch.frames)
        for start, some in zip(count(0, most_boxes), rois.split(most_boxes), strict=False):
            of_some = None if masks is None else masks[start : start + most_boxes]
            yield self._pooled(trace, used, grids, some, (pixels.shape[2], pixels.shape[3]), batch.filled_hw, of_some)

    def _prepare_both(
        self, images: Any, boxes: Any, frames: Frame | Sequence[Frame] | None
    ) -> tuple[ImageBatch, list[Boxes]]:
        pictures = [read(image, f"image {index}") for index, image in enumerate(pixels_of.listed(images))]
        each = [boxes] if isinstance(boxes, Boxes) or _are_of_one_image(boxes) else list(boxes)
        named = [frames] if isinstance(frames, Frame) else frames
        if len(each) != len(pictures) or (named is not None and len(named) != len(pictures)):
            raise BatchIndexError(
                f"RA208: expected boxes, and a frame where frames are given, for each of {len(pictures)} images; got "
                f"{len(each)} and {'none' if named is None else len(named)}. Use torch.empty(0, 4) for an image "
                "without boxes."
            )
        if named is None:
            named = [
                some.frame if isinstance(some, Boxes) else picture.frame
                for some, picture in zip(each, pictures, strict=True)
            ]
        named = [
            picture.frame_named(frame, f"image {index}")
            for index, (picture, frame) in enumerate(zip(pictures, named, strict=True))
        ]
        framed = [
            some if isinstance(some, Boxes) else Boxes(some, frame) for some, frame in zip(each, named, strict=True)
        ]
        return self.prepare([picture.pixels_chw for picture in pictures], named), framed

    def trace(self, image_size: tuple[int, int]) -> BackboneTrace:
        """The backbone's grids for images (height, width), traced once per size."""
        height, width = image_size
        for family in self._families:
            if family.trace.image_size_hw == (height, width):
                return family.trace
        return self._trace((height, width)).trace

    def use_trace(self, trace: BackboneTrace) -> None:
        """Use these grids for images of the trace's size, for example those of `roialign.calibrate`."""
        self._families.insert(0, SizeFamily(trace, None))

    def _family(self, image_hw: tuple[int, int]) -> SizeFamily:
        for family in self._families:
            if family.holds_at(image_hw):  # which is also what an exported program is told of its sizes
                return family
        outside_of_graphs(self._learn)(image_hw)
        return self._family(image_hw)

    def _learn(self, image_hw: Sequence[int | torch.SymInt]) -> None:
        family = self._tracer.family_of_all(self.backbone)
        if family is None:
            self._trace(image_hw)
        else:
            self._families.append(family)

    def _trace(self, image_hw: Sequence[int | torch.SymInt]) -> SizeFamily:
        traced = self._tracer.trace(self.backbone, image_hw)
        pooled_maps(traced, self.maps)
        self._families.append(SizeFamily.of(traced))
        return self._families[-1]

    def _extract(
        self,
        pixels: Tensor,
        boxes: Any,
        frames: Sequence[Frame] | None = None,
        filled_hw: Sequence[tuple[int, int]] = (),
    ) -> Pooled:
        """Of images of one size [N, C, H, W], which were padded from `filled_hw` on, if at all."""
        trace, used, grids = self._maps_of(pixels)
        rois = rois_of(boxes, used[0], list(grids.values()), frames)
        return self._pooled(trace, used, grids, rois, (pixels.shape[2], pixels.shape[3]), filled_hw)[0]

    def _maps_of(self, pixels: Tensor) -> tuple[BackboneTrace, list[Tensor], dict[str, FeatureGrid]]:
        """The maps of images of one size that are pooled from, their grids by name, and the trace that has them."""
        image_hw = pixels.shape[2], pixels.shape[3]
        family = self._family(image_hw)
        trace = family.trace
        outputs = self.backbone(pixels)
        maps = trace.as_maps(outputs)
        grids = family.grids({name: maps[name] for name in pooled_maps(trace, self.maps)}, image_hw)
        if grids is None:  # it has changed, or takes another way at this size
            trace = outside_of_graphs(self._trace)(image_hw).trace
            self.use_trace(trace)
            maps, grids = trace.as_maps(outputs), {name: trace[name] for name in pooled_maps(trace, self.maps)}
        return trace, [maps[name] for name in grids], grids

    def _pooled(
        self,
        trace: BackboneTrace,
        used: list[Tensor],
        grids: dict[str, FeatureGrid],
        rois: Tensor,
        image_hw: tuple[int, int],
        filled_hw: Sequence[tuple[int, int]],
        masks: Sequence[BoxMask | None] | None = None,
    ) -> tuple[Pooled, Tensor | None]:
        options = (self.output_size, list(grids.values()), self.levels, self.sampling_ratio)
        shares: Tensor | None = None
        if masks is None:
            pooled, coverage, levels = pool(used, rois, *options)
        else:
            pooled, coverage, levels, shares = pool_masked(used, rois, *options, masks)
        if all(size_hw == image_hw for size_hw in filled_hw):
            return Pooled(pooled, coverage, levels, torch.full_like(coverage, math.inf)), shares
        distances = padding.distances(rois, levels, trace, grids, filled_hw, image_hw)
        outside_of_graphs(padding.say_which_are_reached)(distances, filled_hw, image_hw)
        return Pooled(pooled, coverage, levels, distances), shares

    def _as_weights(self, image: Tensor) -> Tensor:
        """On the device and in the type of the backbone's weights."""
        weight = next(self.backbone.parameters(), None)
        return image if weight is None else image.to(weight.device, weight.dtype)


def _of_each(boxes: Any, count: int) -> Sequence[Any]:
    """The boxes of each image of a batch of several sizes."""
    if isinstance(boxes, (list, tuple)) and len(boxes) == count:
        return boxes
    raise BatchIndexError(
        f"RA208: expected boxes for each of {count} images of several sizes, in a list; got "
        f"{validate.describe(boxes)}. Use torch.empty(0, 4) for an image without boxes."
    )


def _is_float_batch(images: Any) -> TypeGuard[Tensor]:
    return isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point()


def _are_tensors(boxes: Any) -> bool:
    return isinstance(boxes, Tensor) or (
        isinstance(boxes, (list, tuple)) and all(isinstance(some, Tensor) for some in boxes)
    )


def _are_of_one_image(boxes: Any) -> bool:
    return isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4
