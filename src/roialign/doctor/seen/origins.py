"""Which image a feature map was made of: nothing that the program did not show."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from roialign.doctor.bars import Picture, pictures_in
from roialign.doctor.evidence import COMMON_STRIDES
from roialign.doctor.seen.tensors import is_plain, same_memory
from roialign.doctor.surroundings import Mosaic, Size
from roialign.geometry import Frame

_OUTPUTS_REMEMBERED = 64
_SHAPES_REMEMBERED = 256
_EXTRA_TOKENS = (0, 1, 2, 4, 5, 8, 9)  # class, distillation and register tokens, before those of the patches
_Shape = tuple[str, int, int, int]


@dataclass(frozen=True, eq=False)
class Source:
    """A batch [N, C, H, W] that entered a module."""

    images: Tensor
    frames: tuple[Frame | None, ...] = ()
    mosaic: Mosaic | None = None

    @property
    def size_hw(self) -> Size:
        return self.images.shape[2], self.images.shape[3]

    @cached_property
    def pictures(self) -> tuple[Picture | None, ...]:
        """The part of each image that has content, if any has padding; no device is waited for to find out."""
        found = pictures_in(self.images) if self.images.device.type == "cpu" else ()
        return found if any(found) else ()


class Origin(NamedTuple):
    """What a feature map was made of, and the modules that took it, the outermost first.

    is_output: whether the map left the first of them as it is, and was not made of what left it.
    """

    size_hw: Size
    channels: int
    source: Source | None
    modules: tuple[nn.Module, ...]
    is_output: bool = False

    @classmethod
    def of(cls, source: Source, *modules: nn.Module, is_output: bool = False) -> Origin:
        return cls(source.size_hw, source.images.shape[1], source, modules, is_output)


class _Made(NamedTuple):
    """An output of a module that took a batch."""

    output: weakref.ref[Tensor]
    source: Source
    module: nn.Module
    is_output: bool


class _OfShape(NamedTuple):
    """What outputs of one shape were made of."""

    size_hw: Size
    channels: int
    source: weakref.ref[Source] | None
    module: weakref.ref[nn.Module]


@dataclass
class Origins:
    """Remembers what left the modules that images entered.

    An image counts for a map only if the map is an output of a module that took the image, or has the shape of one.
    """

    _made: list[_Made] = field(default_factory=list)
    _of_shape: dict[_Shape, _OfShape | None] = field(default_factory=dict)

    def remember(self, leaves: Sequence[Tensor], origin: Origin) -> None:
        """These left a module that an image entered."""
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
            new = [_Made(weakref.ref(leaf), source, module, origin.is_output) for leaf in leaves if leaf.dim() == 4]
            self._made = alive[-_OUTPUTS_REMEMBERED:] + new

    def is_made_of(self, output: Tensor, images: Tensor) -> bool:
        """Whether a module made this of these very images."""
        return any(made.output() is output and same_memory(made.source.images, images) for made in self._made)

    def known(self, features: Tensor) -> Origin | bool:
        """What a map was made of; where that cannot be told, whether two images may be meant."""
        pairs = [(made, made.output()) for made in reversed(self._made)]
        same = [made for made, output in pairs if output is not None and same_memory(output, features)]
        if same:
            source = same[0].source
            if any(made.source.size_hw != source.size_hw for made in same):
                return True
            return Origin.of(source, *(made.module for made in same), is_output=same[0].is_output)
        images, channels, height, width = features.shape
        shapes: list[_Shape] = [("map", images, height, width), ("tokens", images, height * width, channels)]
        for shape in shapes + self._shapes_of_tokens(features):
            if shape in self._of_shape:
                known = self._of_shape[shape]
                if known is None:
                    return True
                module, still_held = known.module(), known.source() if known.source else None
                return Origin(known.size_hw, known.channels, still_held, (module,) if module else ())
        return False

    def _shapes_of_tokens(self, features: Tensor) -> list[_Shape]:
        """Known shapes of as many cells as there are tokens in a map that is one row or column of them."""
        images, channels, height, width = features.shape
        if min(channels, height, width) > 1:
            return []
        counts = {(height if channels == 1 else height * width) - extra for extra in _EXTRA_TOKENS}
        known = [shape for shape in self._of_shape if shape[:2] == ("map", images) and shape[2] * shape[3] in counts]
        sizes = {found.size_hw for shape in known if (found := self._of_shape[shape])}
        return known if len(sizes) == 1 else []


def is_of_common_stride(*pairs: tuple[Size, Size]) -> bool:
    """Whether one of the common strides leads, up to rounding, from each size of an image to that of its map."""
    return any(
        all(
            abs(image / stride - cells) < 1
            for image_hw, map_hw in pairs
            for image, cells in zip(image_hw, map_hw, strict=True)
        )
        for stride in COMMON_STRIDES
    )


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
    return is_of_common_stride((before.size_hw, shape[2:]), (now.size_hw, shape[2:]))


def leaves_of(values: Sequence[object]) -> list[Tensor]:
    """Those that may be maps or tokens."""
    return [one for one in values if is_plain(one) and isinstance(one, Tensor) and one.dim() in (3, 4)]
