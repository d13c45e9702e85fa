"""Which images entered the modules of a program, so that a feature map can be held against its image."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from roialign.doctor.bars import Picture, picture_in
from roialign.doctor.checks.operators import is_of_an_image
from roialign.doctor.evidence import COMMON_STRIDES, nominal_stride_yx
from roialign.doctor.model import ModelGrids
from roialign.doctor.pyramid import Pyramid
from roialign.doctor.surroundings import Photographs, Size, Surroundings
from roialign.geometry import FeatureGrid
from roialign.ops.calls import RoICall, modes_are_on, unseen

_IMAGE_CHANNELS = (1, 3, 4)
_OUTPUTS_REMEMBERED = 64
_SHAPES_REMEMBERED = 256
_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8, 9)  # class, distillation and register tokens, before those of the patches
_Shape = tuple[str, int, int, int]


class Seen(NamedTuple):
    """What was seen of the image behind a call."""

    images: Tensor | None = None
    """The batch [N, C, H, W] that entered the backbone, if it is still held."""
    grid: FeatureGrid | None = None
    """The map's grid, where the backbone is known."""
    around: Surroundings | None = None
    """The pooler that makes the call, and what was done to the images."""
    image_size_hw: Size | None = None
    """Size of the tensor that entered the backbone."""


@dataclass(frozen=True, eq=False)
class _Source:
    """A batch that entered a module."""

    images: Tensor
    photographs: Photographs | None

    @property
    def size_hw(self) -> Size:
        return self.images.shape[2], self.images.shape[3]

    @cached_property
    def pictures(self) -> tuple[Picture | None, ...]:
        """Where the pictures lie, if any image is letterboxed; no device is waited for to find out."""
        found = tuple(map(picture_in, self.images)) if self.images.device.type == "cpu" else ()
        return found if any(found) else ()


class _Made(NamedTuple):
    """An output of a module that took a batch."""

    output: weakref.ref[Tensor]
    source: _Source
    module: nn.Module


class _OfShape(NamedTuple):
    """What outputs of one shape were made of."""

    size_hw: Size
    channels: int
    source: weakref.ref[_Source] | None
    module: weakref.ref[nn.Module]


class _Origin(NamedTuple):
    """What a feature map was made of, and the modules that took it, the outermost first."""

    size_hw: Size
    channels: int
    source: _Source | None
    modules: tuple[nn.Module, ...]


class _Running(threading.local):
    """The modules that run in a thread."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.taking: list[tuple[int, _Source]] = []  # those that took a batch, by how many were running then
        self.sources: list[_Source] = []  # all batches that entered since the outermost of them began
        self.pooler: tuple[nn.Module, tuple[Any, ...], bool] | None = None  # with its arguments, and had it scales?
        self.pyramid: Pyramid | None = None
        self.muted = False


class SeenImages:
    """Remembers the image-like tensors [N, 1 or 3 or 4, H, W] that entered modules, and what came out.

    An image counts for a map only if the map is an output of a module that took the image, or has the shape of
    one, or is made of such a map by modules, or if no other image entered while the outermost module runs.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._grids = ModelGrids(model) if model is not None else None
        self._running = _Running()
        self._made: list[_Made] = []
        self._of_shape: dict[_Shape, _OfShape | None] = {}
        self._last: _Source | None = None
        self._transformed: tuple[Tensor, Photographs] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every call of every module until the block ends."""
        hooks = (
            register_module_forward_pre_hook(_unseen(self._enter)),
            register_module_forward_hook(_unseen(self._leave), always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, call: RoICall) -> Seen:
        """What is known of the images that the features of `call` were made of, where that can be told."""
        if not is_of_an_image(call):
            return Seen()
        origin = self._origin(call.input)
        photographs = origin.source.photographs if origin and origin.source else None
        pyramid = self._pyramid_of(call)
        pictures = origin.source.pictures if origin and origin.source else ()
        around = Surroundings(photographs, pyramid, pictures) if photographs or pyramid or pictures else None
        if origin is None:
            return Seen(around=around)
        images = origin.source.images if origin.source else None
        return Seen(images, self._grid(origin, call.input), around, origin.size_hw)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        running = self._running
        if running.muted or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return  # these hooks are no part of the program that is compiled, and see nothing of a trace
        if not running.modules:
            running.sources.clear()
        running.modules.append(module)
        for leaf in args:
            if _is_image(leaf):
                self._take(running, leaf)
                return
        if _role(type(module)) == _POOLER and len(args) == 3 and isinstance(args[0], dict):
            running.pooler, running.pyramid = (module, args, getattr(module, "scales", None) is not None), None

    def _take(self, running: _Running, image: Tensor) -> None:
        outer = running.taking[-1][1] if running.taking else None
        if outer is not None and outer.images.shape[:2] != image.shape[:2]:
            return  # a map inside a network, of as few channels as an image has
        if outer is None or not _same_memory(outer.images, image):
            transformed = self._transformed
            of_photographs = transformed is not None and _same_memory(transformed[0], image)
            outer = _Source(image.detach(), transformed[1] if transformed is not None and of_photographs else None)
            running.sources.append(outer)
        running.taking.append((len(running.modules), outer))
        self._last = outer

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        running = self._running
        if running.muted or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        modules, taken = running.modules, None
        if not modules or (modules[-1] is not module and not any(one is module for one in modules)):
            return  # it began before the watch did
        while modules[-1] is not module:
            modules.pop()
        depth = len(modules)
        modules.pop()
        while running.taking and running.taking[-1][0] >= depth:
            at, source = running.taking.pop()
            taken = source if at == depth else None
        if taken is not None:
            self._remember(output, _Origin(taken.size_hw, taken.images.shape[1], taken, (module,)))
        elif depth == 1:
            self._pass_on(args, output)
        role = _role(type(module))
        if role == _POOLER and running.pooler is not None and running.pooler[0] is module:
            running.pooler = running.pyramid = None
        elif role == _TRANSFORM:
            self._transformed = _transformed(args, output)

    def _pass_on(self, args: tuple[Any, ...], output: Any) -> None:
        """What the program's outermost modules make of a map is of the map's image."""
        for leaf in args:
            if _is_plain(leaf) and leaf.dim() == 4 and (origin := self._origin(leaf)):
                self._remember(output, origin)
                return

    def _remember(self, output: Any, origin: _Origin) -> None:
        leaves = [leaf for leaf in tree_leaves(output) if _is_plain(leaf) and leaf.dim() in (3, 4)]
        if not leaves or not origin.modules:
            return
        module, source = origin.modules[0], origin.source
        of_shape = _OfShape(
            origin.size_hw, origin.channels, weakref.ref(source) if source else None, weakref.ref(module)
        )
        for leaf in leaves:
            for shape in _shapes(leaf, origin.size_hw):
                agree = shape not in self._of_shape or _agree(shape, self._of_shape.pop(shape), of_shape)
                self._of_shape[shape] = of_shape if agree else None
        while len(self._of_shape) > _SHAPES_REMEMBERED:
            del self._of_shape[next(iter(self._of_shape))]
        if source is not None:
            alive = [made for made in self._made if made.output() is not None]
            new = [_Made(weakref.ref(leaf), source, module) for leaf in leaves if leaf.dim() == 4]
            self._made = alive[-_OUTPUTS_REMEMBERED:] + new

    def _origin(self, features: Tensor) -> _Origin | None:
        """What a map was made of; None where that cannot be told, or where two images may be meant."""
        pairs = [(made, made.output()) for made in reversed(self._made)]
        same = [made for made, output in pairs if output is not None and _same_memory(output, features)]
        if same:
            source = same[0].source
            if any(made.source.size_hw != source.size_hw for made in same):
                return None
            return _Origin(source.size_hw, source.images.shape[1], source, tuple(made.module for made in same))
        images, channels, height, width = features.shape
        shapes: list[_Shape] = [("map", images, height, width), ("tokens", images, height * width, channels)]
        for shape in shapes + self._shapes_of_tokens(features):
            if shape in self._of_shape:
                known = self._of_shape[shape]
                if known is None:
                    return None
                module, still_held = known.module(), known.source() if known.source else None
                return _Origin(known.size_hw, known.channels, still_held, (module,) if module else ())
        return self._origin_by_nesting(features)

    def _shapes_of_tokens(self, features: Tensor) -> list[_Shape]:
        """Known shapes of as many cells as there are tokens in a map that is one row or column of them."""
        images, channels, height, width = features.shape
        if min(channels, height, width) > 1:
            return []
        counts = {(height if channels == 1 else height * width) - extra for extra in _EXTRA_TOKENS}
        known = [shape for shape in self._of_shape if shape[:2] == ("map", images) and shape[2] * shape[3] in counts]
        sizes = {found.size_hw for shape in known if (found := self._of_shape[shape])}
        return known if len(sizes) == 1 else []

    def _origin_by_nesting(self, features: Tensor) -> _Origin | None:
        running = self._running
        sources = [one for one in running.sources if one.images.shape[0] == features.shape[0]]
        if not running.modules or len({one.size_hw for one in running.sources}) != 1 or not sources:
            return None
        source = sources[-1]
        stride_yx = nominal_stride_yx(source.size_hw, (features.shape[2], features.shape[3]))
        if source.images.shape[1] != 3 or stride_yx not in [(stride, stride) for stride in COMMON_STRIDES]:
            return None  # what has another number of channels may be a mask or a feature map
        return _Origin(source.size_hw, 3, source, ())

    def _grid(self, origin: _Origin, features: Tensor) -> FeatureGrid | None:
        if self._grids is None:
            return None
        self._running.muted = True
        try:
            for module in origin.modules:
                grid = self._grids.of(module, origin.size_hw, origin.channels, features.shape)
                if grid is not None:
                    return grid
        finally:
            self._running.muted = False
        return None

    def _pyramid_of(self, call: RoICall) -> Pyramid | None:
        running = self._running
        if running.pooler is None:
            return None
        if running.pyramid is None:
            running.pyramid = self._pyramid(*running.pooler)
        if running.pyramid is None:
            return None
        module, args, _ = running.pooler
        maps = _maps_of(module, args[0]).values()
        index = next((i for i, one in enumerate(maps) if one is call.input), None)
        return None if index is None else replace(running.pyramid, index=index)

    def _pyramid(self, module: nn.Module, args: tuple[Any, ...], cached: bool) -> Pyramid | None:
        named, boxes, image_sizes = args
        maps = _maps_of(module, named)
        others = {name: one for name, one in named.items() if name not in maps and _is_plain(one) and one.dim() == 4}
        scales: Any = getattr(module, "scales", None)
        rule: Any = getattr(module, "map_levels", None)
        usable = scales and rule is not None and len(scales) == len(maps) and image_sizes
        if not usable or not all(type(some) is Tensor and some.dim() == 2 for some in boxes):
            return None
        origins = [self._origin(one) for one in maps.values()]
        sizes = {origin.size_hw for origin in origins if origin}
        grids = [origin and self._grid(origin, one) for origin, one in zip(origins, maps.values(), strict=True)]
        return Pyramid(
            pooler=(self._grids.name_of(module) if self._grids else None) or "pooler",
            names=tuple(map(str, maps)),
            map_sizes_hw=tuple((one.shape[2], one.shape[3]) for one in maps.values()),
            others=tuple(str(name) for name in others),
            other_sizes_hw=tuple((one.shape[2], one.shape[3]) for one in others.values()),
            boxes=tuple(boxes),
            image_sizes_hw=tuple((int(size[0]), int(size[1])) for size in image_sizes),
            scales=tuple(float(scale) for scale in scales),
            least=int(rule.k_min),
            most=int(rule.k_max),
            canonical_size=float(rule.s0),
            canonical_level=float(rule.lvl0),
            cached=cached,
            strides_yx=tuple(_strides(*known) for known in zip(maps.values(), origins, grids, strict=True)),
            traced=all(grid is not None for grid in grids),
            padded_hw=sizes.pop() if len(sizes) == 1 else None,
            index=0,
        )


def _unseen(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, of whose reading of tensors no mode of the program hears."""

    def unseen_hook(*args: Any) -> None:
        if torch.compiler.is_compiling() or not modes_are_on():
            return hook(*args)
        with unseen():
            return hook(*args)

    return unseen_hook


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with memory of its own: not fake, not under vmap, not sparse."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def _is_image(value: Any) -> bool:
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.dim() == 4
        and value.shape[1] in _IMAGE_CHANNELS
        and value.is_floating_point()
        and min(value.shape[2:]) >= 8
        and _is_plain(value)
    )


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    address = one.untyped_storage().data_ptr()
    return address != 0 and _is_plain(other) and address == other.untyped_storage().data_ptr()


def _shapes(output: Tensor, image_hw: Size) -> Iterator[_Shape]:
    """What a map made of this output may be recognised by, whatever its channels: batch and cells, or tokens."""
    if output.dim() == 3:
        images, tokens, channels = output.shape
        yield from (("tokens", images, tokens - extra, channels) for extra in _EXTRA_TOKENS)
        return
    images = output.shape[0]
    for height, width in {(output.shape[2], output.shape[3]), (output.shape[1], output.shape[2])}:
        if min(height, width) and abs(image_hw[0] / height / (image_hw[1] / width) - 1) * max(height, width) <= 2:
            yield "map", images, height, width


def _agree(shape: _Shape, before: _OfShape | None, now: _OfShape) -> bool:
    """Whether images of two sizes led to maps of one shape merely because sizes are rounded."""
    if before is None or before.size_hw == now.size_hw or shape[0] == "tokens":
        return before is not None and before.size_hw == now.size_hw
    return nominal_stride_yx(before.size_hw, shape[2:]) == nominal_stride_yx(now.size_hw, shape[2:])


_ROLES: dict[type, str] = {}
_POOLER, _TRANSFORM = "MultiScaleRoIAlign", "GeneralizedRCNNTransform"


def _role(kind: type) -> str:
    """Which of torchvision's classes one is or comes of, by name, so that torchvision need not be imported."""
    role = _ROLES.get(kind)
    if role is None:
        names = [one.__name__ for one in kind.__mro__]
        role = _ROLES[kind] = next((name for name in (_POOLER, _TRANSFORM) if name in names), "")
    return role


def _transformed(args: tuple[Any, ...], output: Any) -> tuple[Tensor, Photographs] | None:
    """The padded batch that GeneralizedRCNNTransform made, and the sizes of its images."""
    batch = output[0] if isinstance(output, tuple) and output else None
    images, sizes = getattr(batch, "tensors", None), getattr(batch, "image_sizes", None)
    originals = args[0] if args else None
    if (
        images is None
        or not _is_plain(images)
        or not isinstance(originals, (list, tuple))
        or not sizes
        or len(sizes) != len(originals)
    ):
        return None
    original_hw = tuple((one.shape[-2], one.shape[-1]) for one in originals)
    return images.detach(), Photographs(original_hw, tuple((int(size[0]), int(size[1])) for size in sizes))


def _maps_of(pooler: nn.Module, named: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The maps that a MultiScaleRoIAlign takes of those that it is given, in the order in which they are given."""
    names: Any = getattr(pooler, "featmap_names", ())
    return {name: one for name, one in named.items() if name in names}


def _strides(features: Tensor, origin: _Origin | None, grid: FeatureGrid | None) -> tuple[float, float] | None:
    size_hw = (features.shape[2], features.shape[3])
    if grid is not None:
        return grid.stride_yx if grid.size_hw == size_hw else None
    return None if origin is None else nominal_stride_yx(origin.size_hw, size_hw)
