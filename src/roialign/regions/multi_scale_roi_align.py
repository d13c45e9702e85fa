"""torchvision's MultiScaleRoIAlign, with the scales that the maps have."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor, nn

from roialign.errors import LevelError
from roialign.geometry import FeatureGrid
from roialign.ops import notice, validate
from roialign.ops.scripting import AnyBoxes
from roialign.regions.levels import FPNLevels
from roialign.regions.pool import Grids, cells_of, match, pool
from roialign.regions.scripting import Maps, Shapes, scripted_multi_scale_roi_align
from roialign.regions.strides import infer_stride_yx, power_of_two

Scale = float | tuple[float, float]


class MultiScaleRoIAlign(nn.Module):
    """RoIAlign from the level of a pyramid that suits each box: torchvision's class, in one call for all levels.

    Convention: boxes are x1, y1, x2, y2, in the image that entered the backbone, each image at the top left of the
    padded batch. With scales that are powers of two the numbers are those of `torchvision.ops.MultiScaleRoIAlign`. By
    default `scales` and `grids` are inferred for each batch, per axis, from `image_shapes` and the sizes of the maps;
    torchvision rounds the height's to a power of two once and keeps that for all later batches. Where the two differ a
    warning says so, once.

    Boxes go to the coarsest of the given levels whose stride their size asks for, so levels may be left out and come
    in any order; torchvision returns zeros for boxes of levels that it was not given.

    Computed, differentiable and deterministic as `roi_align` is.

    Args:
        featmap_names: names of the feature maps to pool from; names without a map are ignored.
        output_size: bins (height, width), or one number for both.
        sampling_ratio: samples in each bin along each axis; 0 or less takes ceil(bin size in cells).
        canonical_scale: root of the area of a box, in pixels, that belongs to `canonical_level`.
        canonical_level: binary logarithm of the stride for such a box.
        scales: cells per pixel of each level, in the order of the maps: numbers, or pairs (y, x).
        grids: the grid of each map instead, by name or in the maps' order, as `roialign.trace` gives them.
        aligned: whether cells are centred as in `roi_align(aligned=True)`, or where the grid says so.

    Raises:
        LevelError: RA401, where no map has any of the names, or scales and grids do not belong to the maps.
        RoIError: for other invalid arguments; see `roialign.errors`.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017; `torchvision.ops.MultiScaleRoIAlign`.

    Example:
        >>> pooler = MultiScaleRoIAlign(["c4", "c5"], output_size=7, sampling_ratio=2)
        >>> maps = {"c4": torch.rand(1, 8, 32, 48), "c5": torch.rand(1, 8, 16, 24)}
        >>> boxes = [torch.tensor([[20.0, 30.0, 120.0, 90.0], [0.0, 0.0, 700.0, 500.0]])]
        >>> pooler(maps, boxes, [(512, 768)]).shape, pooler.scales
        (torch.Size([2, 8, 7, 7]), [0.0625, 0.03125])
    """

    _names: list[str]
    _cells: list[list[float]]

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: float = 4,
        scales: Sequence[Scale] | None = None,
        grids: Grids | None = None,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        if scales is not None and grids is not None:
            raise LevelError("RA401: expected scales or grids; got both. A grid includes the scale: pass only grids.")
        size_hw, _, ratio = validate.check_options(
            tuple(output_size) if isinstance(output_size, Sequence) else output_size, 1.0, sampling_ratio
        )
        names = [featmap_names] if isinstance(featmap_names, str) else featmap_names
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise LevelError(
                f"RA401: expected featmap_names, a list of names of feature maps; got {validate.describe(names)}. "
                "Pass those that the backbone returns, such as list(backbone(images))."
            )
        if not (scales is None or isinstance(scales, Sequence)):
            raise LevelError(
                f"RA401: expected scales, one for each of the maps {names}; got {validate.describe(scales)}. Leave "
                "them out to have them inferred."
            )
        self.featmap_names = list(names)
        self.output_size = size_hw
        self.sampling_ratio = ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.map_levels = FPNLevels(canonical_scale, canonical_level)
        self.scales = None if scales is None else list(scales)
        self.grids = grids
        self.aligned = validate.check_aligned(aligned)
        self.given_scales = scales is not None
        self._names, self._cells = self._as_scripted()

    def forward(self, x: Maps, boxes: AnyBoxes, image_shapes: Shapes) -> Tensor:
        """Pool [K, C, height, width] from the maps `x` of a batch.

        Args:
            x: feature maps [N, C, H, W] by name; those that are not in `featmap_names` are ignored.
            boxes: for each image a tensor [L, 4], in a list, or one tensor [K, 5] with the batch index first.
            image_shapes: (height, width) of each image before it was padded to the batch.
        """
        if torch.jit.is_scripting():
            pooled = scripted_multi_scale_roi_align(
                x,
                boxes,
                image_shapes,
                self.featmap_names,
                self._names,
                self._cells,
                self.output_size,
                self.sampling_ratio,
                float(self.canonical_scale),
                float(self.canonical_level),
                self.aligned,
            )
        else:
            pooled = multi_scale_roi_align(self, x, boxes, image_shapes)
        return pooled

    if TYPE_CHECKING:

        def __call__(self, x: Maps, boxes: AnyBoxes, image_shapes: Shapes) -> Tensor: ...

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, sampling_ratio={self.sampling_ratio}"
            + (f", scales={self.scales}" if self.given_scales else "")
            + (", aligned=True" if self.aligned else "")
        )

    def grids_of(
        self, x: Mapping[str, Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], list[FeatureGrid]]:
        """The maps that are pooled from, of those in `x`, and the grid of each."""
        maps = self._named(x)
        if self.grids is not None:
            return match(maps, self._grids_of(maps))
        for one in maps.values():
            validate.check_input(one)
        return list(maps.values()), self._inferred(maps, image_shapes)

    def _as_scripted(self) -> tuple[list[str], list[list[float]]]:
        """For TorchScript, which knows no grids: names, if they have any, and cells of those that were given."""
        names: list[str] = []
        grids = [FeatureGrid((1, 1), _strides_of(scale)) for scale in self.scales or ()]
        if isinstance(self.grids, Mapping):
            known = {name: grid for name, grid in self.grids.items() if isinstance(grid, FeatureGrid)}
            names, grids = list(known), list(known.values())
        elif self.grids is not None:
            grids = [self.grids] if isinstance(self.grids, FeatureGrid) else list(self.grids)
        return names, [list(cells_of(grid, self.aligned)) for grid in grids if isinstance(grid, FeatureGrid)]

    def _named(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps to pool from, in their own order; torchvision's detectors name some that do not exist."""
        if not isinstance(x, Mapping):
            raise LevelError(
                "RA401: expected feature maps by name, a dict as backbones return it; got "
                f'{validate.describe(x)}. Use {{"0": features}} and featmap_names=["0"] for a single map.'
            )
        named = {name: one for name, one in x.items() if name in self.featmap_names}
        if not named:
            raise LevelError(
                f"RA401: expected feature maps named {', '.join(map(repr, self.featmap_names)) or 'something'}; got "
                f"{', '.join(map(repr, x)) or 'none'}. Set featmap_names to the backbone's names."
            )
        return named

    def _grids_of(self, maps: Mapping[str, Tensor]) -> Grids:
        grids = self.grids
        if isinstance(grids, Mapping):
            return {name: grid for name, grid in grids.items() if name in maps}
        return grids if grids is not None else []

    def _inferred(self, maps: Mapping[str, Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[FeatureGrid]:
        """The grid of each map, from the scales that were given or those that the sizes tell."""
        if self.given_scales:
            return self._at_scales(maps)
        return self._at(maps, self._infer(maps, image_shapes))

    def _at_scales(self, maps: Mapping[str, Tensor]) -> list[FeatureGrid]:
        scales = self.scales or ()
        if len(scales) != len(maps):
            raise LevelError(
                f"RA401: expected a scale for each of the maps {', '.join(map(repr, maps))}; got {self.scales}."
            )
        return self._at(maps, [_strides_of(scale) for scale in scales])

    def _at(self, maps: Mapping[str, Tensor], strides: Sequence[tuple[float, float]]) -> list[FeatureGrid]:
        return [
            FeatureGrid((one.shape[2], one.shape[3]), stride_yx)
            for one, stride_yx in zip(maps.values(), strides, strict=True)
        ]

    def _infer(self, maps: Mapping[str, Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
        image_hw = _largest_hw(image_shapes)
        sizes_hw = [(one.shape[2], one.shape[3]) for one in maps.values()]
        strides = [infer_stride_yx(image_hw, size_hw) for size_hw in sizes_hw]
        if torch.compiler.is_compiling():  # what was kept would have to be compiled for
            return strides
        scales: list[Scale] = [1 / y if y == x else (1 / y, 1 / x) for y, x in strides]
        before, self.scales = self.scales, scales
        if not torch._C._is_tracing():
            _say_where_it_differs(list(maps), image_hw, sizes_hw, strides, before, scales)
        return strides


@torch.fx.wrap
def multi_scale_roi_align(
    pooler: MultiScaleRoIAlign,
    x: Mapping[str, Tensor],
    boxes: Sequence[Tensor] | Tensor,
    image_shapes: Sequence[tuple[int, int]],
) -> Tensor:
    """What the module does, one step of a graph that torch.fx traces."""
    features, grids = pooler.grids_of(x, image_shapes)
    rois = validate.as_rois(boxes, features[0])
    options = (pooler.map_levels, pooler.sampling_ratio, pooler.aligned, pooler.given_scales)
    return pool(features, rois, pooler.output_size, grids, *options)[0]


def _largest_hw(image_shapes: Any) -> tuple[int, int]:
    """The size of the batch that images of these sizes make."""
    shapes = image_shapes if isinstance(image_shapes, (list, tuple)) else ()
    numbers: tuple[Any, ...] = (int, float, torch.SymInt)
    if torch.jit.is_tracing():  # which makes tensors of sizes
        numbers = (*numbers, Tensor)
    for shape in shapes or (image_shapes,):
        is_size = shapes and isinstance(shape, (list, tuple)) and len(shape) == 2
        if not (is_size and all(isinstance(side, numbers) and side >= 1 for side in shape)):
            raise LevelError(
                f"RA401: expected image_shapes, a list with (height, width) of each image of the batch, in pixels; got "
                f"{shape!r}. Use [image.shape[-2:] for image in images]."
            )
    sides: list[list[Any]] = [
        [side if isinstance(side, torch.SymInt) else int(side) for side in shape] for shape in shapes
    ]
    return max(height for height, _ in sides), max(width for _, width in sides)


def _strides_of(scale: Scale) -> tuple[float, float]:
    scale_y, scale_x = scale if isinstance(scale, (tuple, list)) else (scale, scale)
    for one in (scale_y, scale_x):
        validate.check_options(1, one, -1)
    return 1 / scale_y, 1 / scale_x


def _say_where_it_differs(
    names: list[str],
    image_hw: tuple[int, int],
    sizes_hw: list[tuple[int, int]],
    strides: list[tuple[float, float]],
    before: Sequence[Scale] | None,
    scales: Sequence[Scale],
) -> None:
    guesses = (
        _said_of_guess(name, image_hw, size_hw, stride_yx)
        for name, size_hw, stride_yx in zip(names, sizes_hw, strides, strict=True)
    )
    wrong_guess = next(filter(None, guesses), None)
    if wrong_guess is not None:
        notice.say(lambda: wrong_guess, LevelError)
        return
    if before is not None and before != scales:
        notice.say(
            lambda: (
                f"RA404: the scales inferred for this batch are {_scales_text(scales)}, for the last one they were "
                f"{_scales_text(before)}. Images of all sizes share the same scales: pass "
                "grids=roialign.trace(backbone, image_size=(H, W)), or scales=, to be exact. torchvision's "
                "MultiScaleRoIAlign would keep those of the first batch."
            ),
            LevelError,
        )


def _said_of_guess(
    name: str, image_hw: tuple[int, int], size_hw: tuple[int, int], stride_yx: tuple[float, float]
) -> str | None:
    """What torchvision's guess, a power of two for both axes, does to this map; None where it is right."""
    power = power_of_two(image_hw[0], size_hw[0])
    if stride_yx == (power, power):
        return None
    return (
        f"RA403: the map {name!r} of {size_hw[0]} x {size_hw[1]} cells, of an image of {image_hw[0]} x {image_hw[1]} "
        f"pixels, is pooled at stride {_stride_text(stride_yx)}; torchvision's MultiScaleRoIAlign would take "
        f"{power:g}. Pass grids=roialign.trace(backbone, image_size=(H, W)), or scales=, to be exact."
    )


def _scales_text(scales: Sequence[Scale]) -> str:
    pairs = [scale if isinstance(scale, tuple) else (scale,) for scale in scales]
    return ", ".join(" x ".join(f"{side:g}" for side in pair) for pair in pairs)


def _stride_text(stride_yx: tuple[float, float]) -> str:
    y, x = stride_yx
    return f"{y:g}" if y == x else f"{y:.4g} vertically and {x:.4g} horizontally"
