"""Which images entered the modules of a program, so that a feature map can be held against its image."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from roialign.doctor.evidence import nominal_stride_yx
from roialign.geometry import FeatureGrid
from roialign.ops.calls import RoICall

_IMAGE_CHANNELS = (1, 3, 4)
_OUTPUTS_REMEMBERED = 64


class Seen(NamedTuple):
    """What was seen of the image behind a call."""

    images: Tensor | None = None
    """The batch [N, C, H, W] that entered the backbone."""
    grid: FeatureGrid | None = None
    """The map's grid, where the backbone is known."""

    @property
    def image_size_hw(self) -> tuple[int, int] | None:
        """Size of the tensor that entered the backbone."""
        return None if self.images is None else (self.images.shape[2], self.images.shape[3])


class SeenImages:
    """Remembers the image-like tensors [N, 1 or 3 or 4, H, W] that entered modules, and what came out."""

    def __init__(self) -> None:
        self._thread = threading.local()
        self._last: Tensor | None = None
        self._outputs: list[tuple[weakref.ref[Tensor], Tensor]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every call of every module until the block ends."""
        hooks = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, call: RoICall) -> Seen:
        """What is known of the images that the features of `call` were made of, where that can be told."""
        storage = call.input.untyped_storage().data_ptr()
        for output, image in reversed(self._outputs):
            made = output()
            if made is not None and (made is call.input or made.untyped_storage().data_ptr() == storage):
                return Seen(image)
        if self._last is None or self._last.shape[:2] != (call.input.shape[0], 3):
            return Seen()  # what has another number of channels may be a mask or a feature map
        image_size_hw = (self._last.shape[2], self._last.shape[3])
        stride_y, stride_x = nominal_stride_yx(image_size_hw, call.map_size_hw)
        return Seen(self._last) if stride_y == stride_x and stride_y == round(stride_y) else Seen()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return  # these hooks are no part of the program that is compiled
        inside = self._thread.__dict__.setdefault("inside", [])
        image = next((leaf for leaf in args if _is_image(leaf)), None) if not inside else None
        if image is not None:
            self._last = image.detach()
            inside.append(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        inside = self._thread.__dict__.setdefault("inside", [])
        if not inside or inside[-1] is not module or self._last is None:
            return
        inside.pop()
        maps = [leaf for leaf in tree_leaves(output) if type(leaf) is Tensor and leaf.dim() == 4]
        self._outputs = self._outputs[-_OUTPUTS_REMEMBERED:] + [(weakref.ref(leaf), self._last) for leaf in maps]


def _is_image(value: Any) -> bool:
    return (
        type(value) in (Tensor, nn.Parameter)  # no fake tensors
        and value.dim() == 4
        and value.shape[1] in _IMAGE_CHANNELS
        and value.is_floating_point()
        and min(value.shape[2:]) >= 8
    )
