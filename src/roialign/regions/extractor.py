"""From pixels and boxes to region features, with every frame on the way kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd.graph import saved_tensors_hooks

from roialign.backbones import BackboneTrace, trace
from roialign.backbones.reading import read
from roialign.backbones.sizes import SizeFamily
from roialign.errors import BatchIndexError, LevelError
from roialign.geometry import Boxes, Frame
from roialign.geometry.grid import OffsetKind
from roialign.ops import validate
from roialign.ops.calls import unseen
from roialign.regions import images as pixels_of
from roialign.regions.images import Fit, ImageBatch, Images
from roialign.regions.levels import FPNLevels, LevelRule
from roialign.regions.normalization import channel_values, normalized
from roialign.regions.pool import AnyBoxes, Pooled, pool, rois_of


class RegionExtractor(nn.Module):
    """A backbone with everything around it: images and boxes in, one feature for each box out.

    Convention: boxes are x1, y1, x2, y2 in pixels of the image that they are given with, or `Boxes` in any frame
    that is connected to it. What is done to the images before they enter the backbone is recorded as frames, and the
    backbone's grids are traced, once for a family of sizes: so there is no scale to pass.

    The backbone's weights, type and device decide what is computed: `.half()`, `.to("cuda")`, `.eval()` as on any
    module. Deterministic where the backbone is. `torch.compile` takes it: in one graph for a batch tensor [N, C, H, W]
    with boxes as tensors, once `trace` has seen a size of the family; else around what prepares and traces.

    Args:
        backbone: maps images [N, C, H, W] to one map or several, as `roialign.trace` takes it.
        output_size: bins (height, width), or one number for both.
        fit: what is done to each image: a function of the image's `Frame` that returns a frame made of it, such as
            `lambda photo: photo.letterbox((640, 640))`. Bilinear, antialiased; padded with zeros after normalizing.
            Left out, images enter as they are. Images of several sizes are padded at the bottom and on the right.
        mean, std: of each channel, to normalize by; left out, the images enter as they are.
        maps: names of the maps to pool from, in the trace's words; all of them if left out.
        offset: which of the grids' offsets to use: "convention", "structural" or "calibrated".
        levels: which map each box is pooled from; see `pool_regions`.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).

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
        backbone: nn.Module,
        output_size: int | tuple[int, int] = 7,
        *,
        fit: Fit | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        maps: Sequence[str] | None = None,
        offset: OffsetKind = "convention",
        levels: LevelRule = FPNLevels(),  # noqa: B008  a value
        sampling_ratio: int = -1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.output_size, _, self.sampling_ratio = validate.check_options(output_size, 1.0, sampling_ratio)
        self.fit, self.maps, self.offset, self.levels = fit, maps, offset, levels
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, channel_values(name, values), persistent=False)
        self._families: list[SizeFamily] = []

    def forward(self, images: Images, boxes: AnyBoxes, frames: Frame | Sequence[Frame] | None = None) -> Pooled:
        """Features, coverage and level of each box, in the order of the boxes.

        Args:
            images: a batch tensor [N, C, H, W]; one image or a list of them, each a tensor [C, H, W], an array
                [H, W, C], a PIL image or the path of a file (uint8 becomes 0 to 1); or what `prepare` returned.
                Files and PIL images are made upright, as their EXIF orientation says; boxes are of the upright picture.
            boxes: for each image a `Boxes` or a tensor [L, 4], in a list; one of them for one image; or a tensor
                [K, 5] with the image's index in column 0, for a batch tensor that enters as it is.
            frames: the frame of each image as it is given here, upright or as it is stored, where `Boxes` are in
                another one. Left out, it is the frame that its `Boxes` are in, whose size has to be the image's.

        Raises:
            FrameError: RA107, for boxes in a frame from which no way leads to the image.
            RoIError: for other arguments that cannot be right; see `roialign.errors`.
        """
        as_it_is = self.fit is None and self.mean is None and self.std is None
        if as_it_is and _is_float_batch(images) and _are_tensors(boxes):
            return self._extract(self._as_weights(images), boxes, None)
        if isinstance(images, ImageBatch):
            batch = images
        else:
            batch, boxes = _outside_of_graphs(self._prepare_both)(images, boxes, frames)
        return self._extract(self._as_weights(batch.pixels), boxes, batch.frames)

    if TYPE_CHECKING:

        def __call__(
            self, images: Images, boxes: AnyBoxes, frames: Frame | Sequence[Frame] | None = None
        ) -> Pooled: ...

    def prepare(self, images: Images, frames: Sequence[Frame] | None = None) -> ImageBatch:
        """Read, fit and normalize images, and put them into a batch; `.frames` are the frames that enter the backbone.

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
        return pixels_of.batch(fitted, targets)

    def _prepare_both(
        self, images: Any, boxes: Any, frames: Frame | Sequence[Frame] | None
    ) -> tuple[ImageBatch, list[Boxes]]:
        pictures = [read(image, f"image {index}") for index, image in enumerate(pixels_of.listed(images))]
        each = [boxes] if isinstance(boxes, Boxes) or _are_of_one_image(boxes) else list(boxes)
        named = [frames] if isinstance(frames, Frame) else frames
        if len(each) != len(pictures) or (named is not None and len(named) != len(pictures)):
            raise BatchIndexError(
                f"RA208: expected boxes, and a frame where frames are given, for each of {len(pictures)} images; got "
                f"{len(each)} and {'none' if named is None else len(named)}. An image without boxes takes "
                "torch.empty(0, 4)."
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
        """The backbone's grids for images (height, width), traced once for each size that is asked for."""
        height, width = image_size
        for family in self._families:
            if family.trace.image_size_hw == (height, width):
                return family.trace
        return self._trace((height, width)).trace

    def use_trace(self, trace: BackboneTrace) -> None:
        """Take these grids for images of the trace's size: those of `roialign.calibrate`, say."""
        self._families.insert(0, SizeFamily(trace, None))

    def _family(self, image_hw: tuple[int, int]) -> SizeFamily:
        for family in self._families:
            if family.holds_at(image_hw):  # which is also what an exported program is told of its sizes
                return family
        _outside_of_graphs(self._trace)(image_hw)
        return self._family(image_hw)

    def _trace(self, image_hw: Sequence[int | torch.SymInt]) -> SizeFamily:
        height, width = map(_as_shown, image_hw)
        levels = temporarily_clear_interpreter_stack()  # of torch.func
        with levels, _not_recorded(), unseen(), saved_tensors_hooks(_as_it_is, _as_it_is):  # no work of the program's
            traced = trace(self.backbone, image_size=(height, width), offset=self.offset)
        for name in self.maps or ():
            if name not in traced:
                raise LevelError(
                    f"RA401: expected maps among {', '.join(map(repr, traced))}; got {name!r}. Print the extractor's "
                    f"trace(({height}, {width})) to see them all."
                )
        self._families.append(SizeFamily.of(traced))
        return self._families[-1]

    def _extract(self, pixels: Tensor, boxes: Any, frames: Sequence[Frame] | None) -> Pooled:
        image_hw = pixels.shape[2], pixels.shape[3]
        family = self._family(image_hw)
        outputs = self.backbone(pixels)
        maps = family.trace.as_maps(outputs)
        grids = family.grids({name: maps[name] for name in self.maps or maps}, image_hw)
        if grids is None:  # it has changed, or takes another way at this size
            trace = _outside_of_graphs(self._trace)(image_hw).trace
            self.use_trace(trace)
            maps, grids = trace.as_maps(outputs), {name: trace[name] for name in self.maps or trace}
        pooled_maps = [maps[name] for name in grids]
        rois = rois_of(boxes, pooled_maps[0], list(grids.values()), frames)
        return pool(pooled_maps, rois, self.output_size, list(grids.values()), self.levels, self.sampling_ratio)

    def _as_weights(self, image: Tensor) -> Tensor:
        """On the device and in the type of the backbone's weights."""
        weight = next(self.backbone.parameters(), None)
        return image if weight is None else image.to(weight.device, weight.dtype)


def _outside_of_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which a compiler is to call rather than to look into; torch's decorator would import its compiler."""
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function


@contextmanager
def _not_recorded() -> Iterator[None]:
    """torch.jit.trace, where it is at work, sees nothing of what is done."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _as_shown(side: int | torch.SymInt) -> int:
    """A side of the images that an exporter was shown, where it keeps the size open."""
    number: Any = side.node.hint if isinstance(side, torch.SymInt) else side
    return int(number)


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


def _is_float_batch(images: Any) -> TypeGuard[Tensor]:
    return isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point()


def _are_tensors(boxes: Any) -> bool:
    return isinstance(boxes, Tensor) or (
        isinstance(boxes, (list, tuple)) and all(isinstance(some, Tensor) for some in boxes)
    )


def _are_of_one_image(boxes: Any) -> bool:
    return isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4
