"""Calibration: the offsets that a backbone's weights respond to, measured on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from roialign.backbones.calibration import Calibration, LevelCalibration, judge
from roialign.backbones.mirror import sweep
from roialign.backbones.pictures import sources_of, tensors_of
from roialign.backbones.result import BackboneTrace
from roialign.backbones.trace import trace
from roialign.errors import FeatureMapError
from roialign.geometry import FeatureGrid, html

LEAST_IMAGES = 4
_LONGEST_TEXT = 10_000  # signs, in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class CalibratedTrace(BackboneTrace):
    """A trace whose grids know their calibrated offsets, with how these were found.

    Args:
        calibration: what was found for each map and axis; `print` shows it below the table of the grids.
    """

    calibration: Calibration = field(kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """As of the trace, with the calibration."""
        return {**super().to_dict(), "calibration": self.calibration.to_dict()}

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.calibration}"

    def _repr_html_(self) -> str:
        """As of the trace, with the calibration, for a notebook."""
        return super()._repr_html_() + html.block(html.preformatted(str(self.calibration), _LONGEST_TEXT))


def calibrate(
    backbone: nn.Module,
    images: Any,
    *,
    image_size: tuple[int, int] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    boxes_per_image: int = 32,
    seed: int = 0,
) -> CalibratedTrace:
    """Measure the effective offset of each feature map, with the weights as they are, by mirror agreement.

    Boxes are drawn at random in each image. The features of a box are compared (mean cosine) with those of its mirror
    image in the mirrored image, while both maps are read with one assumed offset, which is varied: they agree best at
    the offset that the weights respond to. The image mirrored left to right gives x, upside down gives y. Labels are
    not needed; 16 images are usually enough.

    Convention: sizes are (height, width); offsets are (y, x) in pixels of the image that enters the backbone, the
    centre of cell (0, 0). They hold for images that leave the same remainder when divided by the stride: choose a
    size that the largest stride divides.

    The features are computed three times an image, in eval mode without gradients, on the backbone's device and in
    its type. Deterministic, as far as the backbone is.

    Args:
        backbone: a module that takes [N, C, H, W] to maps, as for `roialign.trace`.
        images: a batch [N, C, H, W]; a list of tensors [C, H, W], PIL images, arrays [H, W, C] or paths; or a folder,
            of which at most 64 images are read. At least 4. Floating-point tensors are used unchanged; files and PIL
            images become RGB from 0 to 1, upright as their EXIF orientation says.
        image_size: each image is resized to it, whatever its shape; the first image's by default.
        transform: applied to each image [C, H, W] after that: the normalization that the backbone was trained with.
        boxes_per_image: boxes that are drawn in each image, for each map.
        seed: of the boxes, and of the resampling that gives the intervals.

    Returns:
        The trace, its grids with `calibrated_offset_yx` where both axes could be measured (`offset_yx` stays half a
        stride: choose with `grid.with_offset("calibrated")`), and with `calibration`: for each map and axis the
        offset with its 95 % interval over images, the agreement there, at the structural and at the conventional
        offset, the curve, and the reason where nothing was found. `print` it, or `trace.calibration.save("plot.svg")`.

    Raises:
        FeatureMapError: for invalid images, or features that are not finite.
        RoIError: if the backbone cannot be traced.

    Source: the idea that training with mirrored images compensates for asymmetric padding: Alsallakh et al., "Mind the
    Pad", 2021.

    Example:
        >>> lopsided = nn.Sequential(nn.ZeroPad2d((3, 5, 1, 7)), nn.AvgPool2d(8))
        >>> noise = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> trace = calibrate(lopsided, nn.functional.interpolate(noise, scale_factor=8, mode="bilinear"))
        >>> [round(offset) for offset in trace["0"].calibrated_offset_yx]
        [3, 1]
    """
    tensors = tensors_of(sources_of(images), image_size, transform)
    ahead = list(islice(tensors, LEAST_IMAGES))
    if len(ahead) < LEAST_IMAGES:
        raise FeatureMapError(
            f"RA307: expected at least {LEAST_IMAGES} images, for an interval over images; got {len(ahead)}. Pass more."
        )
    channels, height, width = ahead[0].shape
    traced = trace(backbone, (height, width), channels=channels)
    parameter = next(backbone.parameters(), torch.empty(0))

    def maps_of(batch: Tensor) -> Mapping[str, Tensor]:
        if batch.shape[1] != channels:
            raise FeatureMapError(
                f"RA307: expected images of {channels} channels, like the first; got {batch.shape[1]}. Convert them."
            )
        return traced.as_maps(backbone(batch.to(parameter.device, parameter.dtype)))

    with _evaluating(backbone), torch.no_grad():
        found = measure_offsets(
            maps_of, dict(traced), chain(ahead, tensors), (height, width), boxes_per_image=boxes_per_image, seed=seed
        )
    grids = {name: replace(grid, calibrated_offset_yx=found[name].offset_yx) for name, grid in traced.items()}
    known = {each.name: getattr(traced, each.name) for each in fields(traced)}
    return CalibratedTrace(**{**known, "grids": grids}, calibration=found)


def measure_offsets(
    maps_of: Callable[[Tensor], Mapping[str, Tensor]],
    grids: Mapping[str, FeatureGrid],
    images: Iterator[Tensor],
    image_size: tuple[int, int],
    *,
    boxes_per_image: int = 32,
    seed: int = 0,
) -> Calibration:
    """What `calibrate` does, for any function from images to maps whose grids are known.

    Convention: as of `calibrate`.

    Args:
        maps_of: takes [3, C, H, W], an image and its two mirror images, to maps [3, C, h, w] by name.
        grids: where the cells of each map are; `offset_yx` is not used.
        images: [C, H, W] each, all of `image_size`.
        image_size: (height, width) of the images.
        boxes_per_image, seed: as of `calibrate`.

    Returns: For each name of `grids` the result along both axes.

    Raises:
        FeatureMapError: for features that are not finite.

    Example:
        >>> pool = torch.nn.AvgPool2d(4)
        >>> images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> found = measure_offsets(
        ...     lambda batch: {"pool": pool(batch)}, {"pool": FeatureGrid((16, 16), (4.0, 4.0))}, iter(images), (64, 64)
        ... )
        >>> round(found["pool"].x.offset, 1)  # the middle of 4 pixels
        2.0
    """
    counted = _Counted(images)
    sweeps = sweep(maps_of, grids, counted, image_size, boxes_per_image, seed)
    levels = {
        name: LevelCalibration(*(judge(found, grids[name], axis, seed) for axis, found in enumerate(by_axis)))
        for name, by_axis in sweeps.items()
    }
    return Calibration(levels, image_size, counted.count, boxes_per_image, seed, _notes(grids, image_size))


class _Counted:
    def __init__(self, images: Iterator[Tensor]) -> None:
        self._images, self.count = images, 0

    def __iter__(self) -> Iterator[Tensor]:
        for image in self._images:
            self.count += 1
            yield image


def _notes(grids: Mapping[str, FeatureGrid], image_size: tuple[int, int]) -> tuple[str, ...]:
    ragged = [
        name
        for name, grid in grids.items()
        if any(length % stride for length, stride in zip(image_size, grid.stride_yx, strict=True))
    ]
    if not ragged:
        return ()
    return (
        f"The stride of {', '.join(ragged)} does not divide {image_size[0]} x {image_size[1]}: these offsets hold for "
        "images that leave the same remainder.",
    )


@contextmanager
def _evaluating(backbone: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
