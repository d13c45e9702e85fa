"""torchvision's detectors with this library's poolers in place of torchvision's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torchvision import ops as theirs  # type: ignore[import-untyped]

from roialign import ops
from roialign.backbones import BackboneTrace, trace
from roialign.backbones.sizes import SizeFamily
from roialign.errors import LevelError, OptionError, TraceError
from roialign.geometry import FeatureGrid
from roialign.geometry.grid import OffsetKind
from roialign.ops import notice
from roialign.regions.multi_scale_roi_align import MultiScaleRoIAlign
from roialign.regions.strides import infer_stride_yx, power_of_two

Model = TypeVar("Model", bound=nn.Module)
_Size = tuple[int, int]
_OPERATORS = ("RoIAlign", "RoIPool", "PSRoIAlign", "PSRoIPool")  # modules of one map, of one name in both libraries
_TRACED_AT = (800, 1344)  # an image as Faster R-CNN resizes it, where the model does not say


def upgrade(model: Model, *, exact: bool = False, offset: OffsetKind = "convention") -> Model:
    """Give a torchvision detector this library's poolers, in place.

    Convention: as of `torchvision.models.detection`: images in, boxes in pixels of each image out.

    Every `MultiScaleRoIAlign`, `RoIAlign`, `RoIPool`, `PSRoIAlign` and `PSRoIPool` of torchvision's in the model is
    replaced by the one of roialign; weights, modes and names of parameters stay. So training on the CPU is
    deterministic in them, empty and bad boxes raise with a code, and boxes off the maps give a notice.

    Args:
        model: a Faster, Mask or Keypoint R-CNN, with any backbone, or any module with such poolers in it.
        exact: False keeps torchvision's numbers, for weights that were trained with them: its power of two for both
            axes, taken from the first batch, and `aligned=False`. True pools at the stride and offset of the backbone's
            grids, for retraining: traced at once, and again where the size of a batch changes them.
        offset: which offset of the grids, with `exact`; see `roialign.trace`.

    Returns:
        The model itself. `downgrade` takes it back.

    Raises:
        OptionError: RA506, for a model without RoI poolers, such as RetinaNet, FCOS and SSD.
        TraceError: with `exact`, for a backbone that cannot be traced, or a model without `backbone`.

    Deterministic. Source: `torchvision.models.detection`.

    Example:
        >>> from torchvision.models import detection
        >>> model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
        >>> upgrade(model).roi_heads.box_roi_pool
        TorchvisionPooler(featmap_names=['0', '1', '2', '3'], output_size=(7, 7), sampling_ratio=2)
        >>> upgrade(downgrade(model), exact=True).roi_heads.box_roi_pool
        ExactPooler(featmap_names=['0', '1', '2', '3'], output_size=(7, 7), sampling_ratio=2, aligned=True)
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"RA506: expected a detector, a torch.nn.Module; got a {type(model).__name__}.")
    grids = _Grids(model, offset) if exact else None
    replaced = _replace(model, lambda module: _ours(module, grids))
    if not replaced:
        raise OptionError(
            f"RA506: expected a model with RoI poolers of torchvision, such as Faster, Mask or Keypoint R-CNN; got "
            f"{_why_none(model)}"
        )
    return model


def downgrade(model: Model) -> Model:
    """Take `upgrade` back: torchvision's own poolers, in place.

    Returns: The model itself, unchanged if nothing was upgraded.

    Example:
        >>> from torchvision.models import detection
        >>> model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
        >>> downgrade(upgrade(model)).roi_heads.box_roi_pool
        MultiScaleRoIAlign(featmap_names=['0', '1', '2', '3'], output_size=(7, 7), sampling_ratio=2)
    """
    _replace(model, _theirs)
    return model


class TorchvisionPooler(MultiScaleRoIAlign):
    """roialign's MultiScaleRoIAlign at torchvision's scales: a power of two for both axes, from the first batch."""

    def _inferred(self, maps: Mapping[str, Tensor], image_shapes: Sequence[_Size]) -> list[FeatureGrid]:
        if self.scales is None:
            image_hw = max(height for height, _ in image_shapes), max(width for _, width in image_shapes)
            sizes_hw = [(one.shape[2], one.shape[3]) for one in maps.values()]
            powers = [power_of_two(image_hw[0], height) for height, _ in sizes_hw]
            self.scales = [1 / power for power in powers]
            for name, size_hw, power in zip(maps, sizes_hw, powers, strict=True):
                _say_where_wrong(name, image_hw, size_hw, power)
        return self._at_scales(maps)


class ExactPooler(MultiScaleRoIAlign):
    """roialign's MultiScaleRoIAlign at the traced stride and offset of each map."""

    def __init__(self, *arguments: Any, traced: _Grids, **options: Any) -> None:
        super().__init__(*arguments, **options, aligned=True)
        self._traced = traced

    def grids_of(
        self, x: Mapping[str, Tensor], image_shapes: Sequence[_Size]
    ) -> tuple[list[Tensor], list[FeatureGrid]]:
        maps = self._named(x)
        grids = self._traced.of(maps, image_shapes)
        return list(maps.values()), [grids[name] for name in maps]


class _Grids:
    """The grids of a detector's maps at each size of a batch: one for all poolers of a model."""

    def __init__(self, model: nn.Module, offset: OffsetKind) -> None:
        backbone, transform = getattr(model, "backbone", None), getattr(model, "transform", None)
        if not isinstance(backbone, nn.Module):
            raise TraceError(
                f"RA308: expected a detector with a `backbone` to trace, as torchvision's; got {type(model).__name__} "
                "without one. Use roialign.MultiScaleRoIAlign(..., grids=roialign.trace(backbone, image_size))."
            )
        self._backbone = (backbone,)  # no module of the pooler's own
        self._offset = offset
        self._multiple = int(getattr(transform, "size_divisible", 1))
        self._families: list[SizeFamily] = []
        self._at(self._batch_hw([_nominal_hw(transform)]))

    def of(self, maps: Mapping[str, Tensor], image_shapes: Sequence[_Size]) -> dict[str, FeatureGrid]:
        """Of these maps, of a batch of images of these sizes before they were padded."""
        batch_hw = self._batch_hw(image_shapes)
        traced = self._at(batch_hw)
        missing = [name for name in maps if name not in traced.trace]
        if missing:
            raise LevelError(
                f"RA401: expected maps of the traced backbone, {', '.join(map(repr, traced.trace))}; got "
                f"{missing[0]!r}. Upgrade the model again after changing its backbone."
            )
        grids = traced.grids(maps, batch_hw)
        if grids is None:
            sizes = ", ".join(f"{one.shape[2]} x {one.shape[3]}" for one in maps.values())
            raise LevelError(
                f"RA401: expected maps of the traced backbone for a batch of {batch_hw[0]} x {batch_hw[1]} pixels; got "
                f"{sizes} cells. Use roialign.MultiScaleRoIAlign(..., grids=...) with those of this batch."
            )
        return grids

    def _batch_hw(self, image_shapes: Sequence[_Size]) -> _Size:
        """What images of these sizes are padded to."""
        height, width = (max(int(shape[axis]) for shape in image_shapes) for axis in (0, 1))
        return math.ceil(height / self._multiple) * self._multiple, math.ceil(width / self._multiple) * self._multiple

    def _at(self, batch_hw: _Size) -> SizeFamily:
        for family in self._families:
            if family.holds_at(batch_hw):
                return family
        traced: BackboneTrace = trace(self._backbone[0], batch_hw, offset=self._offset, measured=False)
        self._families.append(SizeFamily.of(traced))
        return self._families[-1]


def _nominal_hw(transform: Any) -> _Size:
    """A size of image that the model is used at."""
    fixed = getattr(transform, "fixed_size", None)
    if fixed is not None:
        return fixed[1], fixed[0]
    shorter, longer = getattr(transform, "min_size", None), getattr(transform, "max_size", None)
    return _TRACED_AT if shorter is None or longer is None else (int(shorter[-1]), int(longer))


def _replace(model: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> bool:
    """Put what `other` gives in the place of each module that it gives something for; whether there was any."""
    given: dict[int, nn.Module | None] = {}
    found = False
    for parent in list(model.modules()):
        for name, module in list(parent._modules.items()):  # shared ones each time, which named_children leaves out
            if module is None:
                continue
            if id(module) not in given:
                given[id(module)] = other(module)
            new = given[id(module)]
            if new is not None:
                setattr(parent, name, new.train(module.training))
                found = True
    return found


def _ours(module: nn.Module, grids: _Grids | None) -> nn.Module | None:
    kind = type(module)
    if kind in (theirs.MultiScaleRoIAlign, MultiScaleRoIAlign, TorchvisionPooler, ExactPooler):
        arguments, options = _arguments(module)
        if grids is None:
            return TorchvisionPooler(*arguments, **options)
        return ExactPooler(*arguments, **options, traced=grids)
    name = next((name for name in _OPERATORS if kind is getattr(theirs, name)), None)
    return None if name is None else _alike(module, getattr(ops, name))


def _theirs(module: nn.Module) -> nn.Module | None:
    if isinstance(module, (TorchvisionPooler, ExactPooler)):
        arguments, options = _arguments(module)
        return cast(nn.Module, theirs.MultiScaleRoIAlign(*arguments, **options))
    name = next((name for name in _OPERATORS if type(module) is getattr(ops, name)), None)
    return None if name is None else _alike(module, getattr(theirs, name))


def _arguments(pooler: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    options = {"canonical_scale": pooler.canonical_scale, "canonical_level": pooler.canonical_level}
    return (pooler.featmap_names, pooler.output_size, pooler.sampling_ratio), options


def _alike(module: Any, kind: Callable[..., nn.Module]) -> nn.Module:
    names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")
    return kind(**{name: getattr(module, name) for name in names if hasattr(module, name)})


def _say_where_wrong(name: str, image_hw: _Size, size_hw: _Size, power: float) -> None:
    stride_yx = infer_stride_yx(image_hw, size_hw)
    if stride_yx == (power, power):
        return
    notice.say(
        lambda: (
            f"RA403: the map {name!r} of {size_hw[0]} x {size_hw[1]} cells, of an image of {image_hw[0]} x "
            f"{image_hw[1]} pixels, is pooled at stride {power:g}, as torchvision's MultiScaleRoIAlign would; its "
            f"own is {stride_yx[0]:g} vertically and {stride_yx[1]:g} horizontally. To retrain: upgrade(model, "
            "exact=True)."
        ),
        LevelError,
    )


def _why_none(model: nn.Module) -> str:
    derived = [type(m).__name__ for m in model.modules() if isinstance(m, theirs.MultiScaleRoIAlign)]
    if derived:
        return f"a class of its own, {derived[0]}, whose forward is unknown. Replace it by hand."
    return (
        f"{type(model).__name__} with none. One-stage detectors, RetinaNet, FCOS, SSD, pool no regions, so there is "
        "nothing to gain."
    )
