"""What is known about a call: the numbers that the checks decide by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from roialign.doctor.facts import FeatureFacts
from roialign.doctor.findings import Fix
from roialign.doctor.surroundings import Mosaic, Surroundings
from roialign.geometry import FeatureGrid, Frame
from roialign.ops.calls import RoICall
from roialign.ops.functions import function_of

COMMON_STRIDES = {16: 0.45, 8: 0.12, 32: 0.17, 4: 0.13, 14: 0.07, 2: 0.03, 64: 0.03}
"""Strides of feature maps that boxes are pooled from, and how common they are, where nothing tells which it is."""
_MOST_BOXES = 0.95
_SAME_RATIO = 0.004
_MOST_LOST, _SAME_LOSS = (4.0, 0.15), 3.0  # cells, and as a share of the map; cells between the axes
_MOST_RUN = 64  # RoIs and channels that are run to see what a fix does
_CHANGED = 1e-3  # of a RoI's features
_TOY_SIDE = 4  # pixels
_BOXES_THAT_COUNT = 8  # more boxes of one image do not make its extent more certain


@dataclass(frozen=True)
class Caller:
    """Whose operator was called, and in what state of the program."""

    library: str
    """The library whose operator it is: "roialign", "torchvision", ..."""
    device_type: str
    features_require_grad: bool
    boxes_require_grad: bool
    deterministic: bool
    """Whether `torch.use_deterministic_algorithms` was on."""

    @classmethod
    def of(cls, library: str, features: Tensor, boxes: Tensor) -> Caller:
        """The state now, to be taken where the call is made and not under `torch.no_grad`."""
        recording = torch.is_grad_enabled()
        return cls(
            library,
            features.device.type,
            recording and features.requires_grad,
            recording and boxes.requires_grad,
            torch.are_deterministic_algorithms_enabled(),
        )


@dataclass(frozen=True)
class Evidence:
    """One call, whose boxes are all finite and of an image of the batch, and what is known about its image."""

    call: RoICall
    image_size_hw: tuple[float, float] | None = None
    """Size of the image that entered the backbone, which is the frame that the boxes should be in."""
    grid: FeatureGrid | None = None
    caller: Caller | None = None
    """Whose call it is, where that is known."""
    around: Surroundings | None = None
    """What goes on around the call, where that was seen."""
    coverage_known: Tensor | None = None
    """The coverage [K], where it was computed before."""
    facts_known: FeatureFacts | None = None
    """What is known of the values of the features, where they cannot be looked at any more."""

    @cached_property
    def coverage(self) -> Tensor:
        return self.call.coverage() if self.coverage_known is None else self.coverage_known

    @cached_property
    def facts(self) -> FeatureFacts:
        """What is known of the values of the features."""
        return self.facts_known or FeatureFacts.of(self.call.input)

    @cached_property
    def boxes_xyxy(self) -> Tensor:
        return self.call.rois[:, 1:].detach()

    @cached_property
    def low(self) -> Tensor:
        """Rows that lie off the map, bool [K], by more than the cell that a map may lack of its image."""
        height, width = self.call.map_size_hw
        cells = self.boxes_xyxy * self.call.spatial_scale
        near = (cells[:, :2] >= -1).all(1) & (cells[:, 2:] <= cells.new_tensor([width + 1, height + 1])).all(1)
        return self.call.off_the_map(self.coverage) & ~near

    @cached_property
    def furthest_xy(self) -> tuple[float, float]:
        """The largest x and y of all boxes."""
        largest = self.boxes_xyxy.amax(0)
        return float(max(largest[0], largest[2])), float(max(largest[1], largest[3]))

    @cached_property
    def nearest(self) -> float:
        """The smallest coordinate of all boxes."""
        return float(self.boxes_xyxy.min())

    @cached_property
    def sides(self) -> Tensor:
        """Widths and heights of the boxes, [K, 2]."""
        return self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]

    @cached_property
    def is_thin(self) -> bool:
        """Whether the numbers are those of a toy: a map of one cell, or few boxes of at most some pixels, as tests of
        shapes have them. What is concluded from where they lie is doubtful then."""
        few_and_small = len(self.sides) < _BOXES_THAT_COUNT and bool((self.sides <= _TOY_SIDE).all())
        return min(self.call.map_size_hw) == 1 or few_and_small

    @cached_property
    def frame_hw(self) -> tuple[float, float]:
        """The image size that the map and spatial_scale imply together."""
        height, width = self.call.map_size_hw
        return height / self.call.spatial_scale, width / self.call.spatial_scale

    @cached_property
    def ratios_yx(self) -> tuple[float, float] | None:
        """Pixels of the image for each cell of the map; an axis of one cell tells nothing and is given the other's."""
        if self.image_size_hw is None or max(self.call.map_size_hw) == 1:
            return None
        down, across = (image / cells for image, cells in zip(self.image_size_hw, self.call.map_size_hw, strict=True))
        height, width = self.call.map_size_hw
        return (across, across) if height == 1 else (down, down) if width == 1 else (down, across)

    @cached_property
    def stride_yx(self) -> tuple[float, float] | None:
        """The strides of the map where they are sure: from the grid, or from two sizes that no lost border explains."""
        if self.grid is not None:
            return self.grid.stride_yx
        if self.ratios_yx is None or self.image_size_hw is None:
            return None
        return nominal_stride_yx(self.image_size_hw, self.call.map_size_hw)

    @property
    def how_stride_is_known(self) -> str:
        """The evidence for `stride_yx`, as the middle of a sentence."""
        height, width = self.call.map_size_hw
        if self.grid is not None:
            return f"the grid of the {height} x {width} map"
        image_h, image_w = self.image_size_hw or self.frame_hw
        return f"an image of {image_h:g} x {image_w:g} on a map of {height} x {width}"

    @cached_property
    def scale_is_odd(self) -> bool:
        """Whether spatial_scale is the inverse of no whole number, and not a ratio of sizes either."""
        inverse = 1 / self.call.spatial_scale
        odd = math.isfinite(inverse) and abs(inverse - round(inverse)) > 0.005 * inverse
        return odd and self.image_size_hw is not None and not self.scale_is_ratio

    @cached_property
    def scale_is_ratio(self) -> bool:
        """Whether spatial_scale is cells / pixels of the two sizes, or of their corners."""
        if self.image_size_hw is None:
            return False
        pairs = list(zip(self.call.map_size_hw, self.image_size_hw, strict=True))
        ratios = [cells / image for cells, image in pairs]
        ratios += [(cells - 1) / (image - 1) for cells, image in pairs if min(cells, image) > 1]
        return any(abs(self.call.spatial_scale / ratio - 1) <= _SAME_RATIO for ratio in ratios)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frame of each image of the batch, where all were seen."""
        frames = self.around.frames if self.around is not None else ()
        seen = tuple(frame for frame in frames if frame is not None)
        return seen if len(seen) == len(frames) == self.call.input.shape[0] else ()

    @property
    def images(self) -> Tensor | None:
        """The batch that entered the network, where it is held and can be looked at without waiting for a device."""
        images = self.around.images if self.around is not None else None
        usable = images is not None and images.device.type == "cpu" and len(images) == self.call.input.shape[0]
        return images if usable else None

    @property
    def mosaic(self) -> Mosaic | None:
        return self.around.mosaic if self.around is not None else None

    @property
    def detected_in(self) -> Frame | None:
        """The frame in which the very boxes of the first image left a detection model, where that was seen."""
        return next(iter(self.around.detected_in), None) if self.around is not None else None

    @cached_property
    def pictures(self) -> Tensor | None:
        """The part (x1, y1, x2, y2) of each image that shows something, [N, 4]; None where every image is full."""
        found: Sequence[tuple[int, int, int, int] | None] = self.around.pictures if self.around is not None else ()
        run = self.around.pyramid if self.around is not None else None
        if run is not None and not found and run.padded_hw == self.image_size_hw and run.fills_its_batch:
            found = [(0, 0, width, height) for height, width in run.image_sizes_hw]  # that the pooler was given
        if len(found) != self.call.input.shape[0] or not any(found) or self.image_size_hw is None:
            return None
        height, width = self.image_size_hw
        return torch.tensor([picture or (0.0, 0.0, width, height) for picture in found])

    @cached_property
    def in_padding(self) -> Tensor:
        """RoIs that are centred in the padding of their image, bool [K]."""
        if self.pictures is None or self.stride_yx is None:
            return torch.zeros(len(self.boxes_xyxy), dtype=torch.bool, device=self.boxes_xyxy.device)
        stride = self.boxes_xyxy.new_tensor(self.stride_yx[::-1])
        centres = (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2 * self.call.spatial_scale * stride
        picture = self.pictures.to(self.boxes_xyxy)[self.call.rois[:, 0].long()]
        return ((centres < picture[:, :2]) | (centres > picture[:, 2:])).any(1)

    def well_placed(self, call: RoICall) -> bool:
        """Whether nearly all RoIs of `call` lie on the map."""
        return len(call.rois) > 0 and float(call.off_the_map(call.coverage()).float().mean()) <= 1 - _MOST_BOXES

    def fix(self, argument: str, value: float | None, code: str, call: RoICall) -> Fix:
        """A fix, with the operator run again with it, and the result compared with the expected one."""
        after = call.coverage()
        checked = self._checked(call, after) if len(call.rois) == len(self.call.rois) else ""
        return Fix(argument, value, code, mean(self.coverage), mean(after), call, checked)

    def _checked(self, call: RoICall, after: Tensor) -> str:
        """Whether RoIs off the map come out as zeros, as the finding says, and how many change with the fix."""
        only_a_shape = not self.call.input.numel() or not any(self.call.input.stride())  # of a call that waited
        if only_a_shape or call.input.shape[1] != self.call.input.shape[1]:
            return ""
        rows = slice(_MOST_RUN)
        as_called, fixed = (
            one.with_(rois=one.rois[rows], input=one.input[:, :_MOST_RUN]).run()[0] for one in (self.call, call)
        )
        off = self.coverage[rows] == 0
        zeros = (as_called.flatten(1) == 0).all(1)
        size = fixed.flatten(1).norm(dim=1).clamp(min=1e-12)
        changed = int(((as_called - fixed).flatten(1).norm(dim=1) > _CHANGED * size).sum())
        said = f"{changed} of {len(off)} RoIs change with it"
        if not bool(off.any()):
            return said
        were, now = int((off & zeros).sum()), int((after[rows][off] > 0).sum())
        return f"{said}; of the {int(off.sum())} wholly off the map {were} were zeros, and {now} read the map now"


def likelihood_of_reach(fill: float, boxes: int) -> float:
    """How likely boxes of a whole image are to reach over this share of it, and no further.

    The furthest of n boxes that end anywhere reaches the fraction f with density n * f ** (n - 1).
    """
    boxes = min(boxes, _BOXES_THAT_COUNT)
    return boxes * float(fill ** (boxes - 1)) if 0 < fill <= 1.05 else 0.0


def mean(values: Tensor) -> float:
    """Mean of a tensor that may be empty."""
    return float(values.float().mean()) if values.numel() else 0.0


def rows_where(mask: Tensor) -> tuple[int, ...]:
    """The rows at which a bool tensor [K] holds."""
    return tuple(mask.nonzero().flatten().tolist())


def number(value: float) -> str:
    """A scale as a person would type it: 0.0625, but 1 / 14."""
    if len(repr(value)) > 8 and value and abs(1 / value - round(1 / value)) < 1e-9:
        return f"1 / {round(1 / value)}"
    return repr(value) if len(repr(value)) <= 8 else f"{value:.6g}"


def call_line(call: RoICall) -> str:
    """The call as a line of code."""
    height, width = call.output_size_hw
    size = f"{height}" if height == width else f"({height}, {width})"
    ratio = f", sampling_ratio={call.sampling_ratio}" if call.sampling_ratio > 0 else ""
    if call.operator == "pool_regions":
        return f"pool_regions(features, boxes, {size}, grids{ratio})"
    if call.operator == "MultiScaleRoIAlign":  # a module; of the scales only that of this map is known here
        aligned = ", aligned=True" if call.aligned else ""
        scales = f"scales=[{number(call.spatial_scale)}]"
        return f"MultiScaleRoIAlign(names, {size}, {call.sampling_ratio}, {scales}{aligned})(features, boxes, sizes)"
    options = f"output_size={size}, spatial_scale={number(call.spatial_scale)}{ratio}"
    if call.operator == "mmcv.ops.RoIAlign":  # a module, whose default is aligned=True
        return f"mmcv.ops.RoIAlign({options}, aligned={call.aligned})(features, boxes)"
    if call.operator == "mmcv.ops.RoIPool":
        return f"mmcv.ops.RoIPool({options})(features, boxes)"
    further = dict(call.further)
    if "output_size" in further:
        options = options.replace(f"output_size={size}", f"output_size={further.pop('output_size')}")
    function = function_of(call.operator)
    if function.aligned_by_default not in (None, call.aligned):
        further = {"aligned": call.aligned, **further}
    named = "".join(
        f', {name}="{value}"' if isinstance(value, str) else f", {name}={value}" for name, value in further.items()
    )
    return f"{call.operator}({function.tensors}, {options}{named})"


def may_have_lost(stride: float, image_size_hw: tuple[float, float], map_size_hw: tuple[int, int]) -> bool:
    """Whether a network of this stride that loses cells at the border makes such a map of such an image."""
    lost = [image / stride - cells for image, cells in zip(image_size_hw, map_size_hw, strict=True)]
    most = [max(_MOST_LOST[0], _MOST_LOST[1] * cells) for cells in map_size_hw]
    return all(-1 < one < limit for one, limit in zip(lost, most, strict=True)) and abs(lost[0] - lost[1]) < _SAME_LOSS


def nominal_stride_yx(image_size_hw: tuple[float, float], map_size_hw: tuple[int, int]) -> tuple[float, float] | None:
    """The strides that lead from an image of this size to a map of that size; None where the sizes do not tell.

    Sizes are rounded up or down on the way, so their ratio is not the stride; a common stride that explains both sizes
    is preferred to it. A network that loses cells at the border makes a smaller map than its stride explains.
    """
    ratios = [image / cells for image, cells in zip(image_size_hw, map_size_hw, strict=True)]

    def explains(stride: float) -> bool:
        return all(abs(image / stride - cells) < 1 for image, cells in zip(image_size_hw, map_size_hw, strict=True))

    fitting = [stride for stride in COMMON_STRIDES if explains(stride)]
    if fitting:
        nearest = min(fitting, key=lambda stride: abs(stride - min(ratios, key=lambda r: abs(r - stride))))
        return float(nearest), float(nearest)
    whole = max(1, round(ratios[0]))
    if explains(whole) and (
        whole == 1 or not any(may_have_lost(s, image_size_hw, map_size_hw) for s in COMMON_STRIDES)
    ):
        return float(whole), float(whole)
    if max(ratios) < 2 or any(abs(ratio - round(ratio)) < 1e-9 for ratio in ratios):  # resized, or of two strides
        return ratios[0], ratios[1]
    return None
