"""What a tensor's memory tells: whether it is an image, which memory it has, of which larger picture it is a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IMAGE_CHANNELS = (1, 3, 4)
LEAST_SIDE = 8


def is_plain(value: Any) -> bool:
    """Whether it is a tensor with memory of its own: not fake, not under vmap, not sparse."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not value.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def is_image(value: Any) -> bool:
    """Whether it may be a batch of images that enters a network."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.dim() == 4
        and value.shape[1] in IMAGE_CHANNELS
        and value.is_floating_point()
        and min(value.shape[2:]) >= LEAST_SIDE
        and is_plain(value)
    )


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether both are, or are parts of, one piece of memory."""
    if one is other:
        return True
    address = one.untyped_storage().data_ptr()
    return address != 0 and is_plain(other) and address == other.untyped_storage().data_ptr()


class Memory:
    """A weak reference to the memory of a tensor; while it exists no other memory has the same key."""

    __slots__ = ("_storage", "key")

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.key: int = storage._cdata
        self._storage: Any = storage._weak_ref()

    def is_free(self) -> bool:
        """Whether no tensor has this memory any more."""
        return bool(torch.UntypedStorage._expired(self._storage))

    def tensor(self, like: Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor | None:
        """What lies there, of the type of `like`; None where it is free."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage)
        return None if storage is None else like.new_empty(0).set_(storage, offset, shape, strides)

    def __del__(self) -> None:
        torch.UntypedStorage._free_weak_ref(self._storage)


def memory_key(tensor: Tensor) -> int:
    """The key that `Memory` of this tensor has."""
    key: int = tensor.untyped_storage()._cdata
    return key


class Place(NamedTuple):
    """Where an image lies in its memory: which of the pictures there it is of, and which part of that."""

    plane: int
    """Says which picture of the memory it is."""
    whole_hw: tuple[int, int]
    top: int
    left: int


def places(images: Tensor) -> Iterator[Place | None]:
    """The place of each image of [C, H, W] or [N, C, H, W]; None where the memory has no rows of pixels."""
    count = images.shape[0] if images.dim() == 4 else 1
    of_images = images.stride(0) if images.dim() == 4 else 0
    layout = _layout(images)
    for index in range(count):
        yield None if layout is None else layout.place(int(images.storage_offset()) + index * of_images, images)


class _Layout(NamedTuple):
    """How pictures lie in memory, in elements."""

    whole_hw: tuple[int, int]
    row: int
    pixel: int
    plane: int
    """From one picture to the next, or from one channel to the next."""

    def place(self, offset: int, image: Tensor) -> Place | None:
        height, width = image.shape[-2:]
        plane, inside = divmod(offset, self.plane)
        top, left = inside // self.row, inside % self.row // self.pixel
        if top + height > self.whole_hw[0] or left + width > self.whole_hw[1]:
            return None
        return Place(plane, self.whole_hw, top, left)


def _layout(images: Tensor) -> _Layout | None:
    channels, height, width = images.shape[-3:]
    of_channels, row, pixel = images.stride()[-3:]
    stored = images.untyped_storage().nbytes() // images.element_size()
    if pixel < 1 or row < width * pixel or row % pixel:
        return None
    extent = 1 + sum((size - 1) * stride for size, stride in zip(images.shape, images.stride(), strict=True))
    if width * pixel < row and stored <= extent:  # a window of numpy's, whose memory begins at its own corner
        return None
    if channels > 1 and of_channels < pixel:  # the channels of each pixel side by side
        if of_channels != 1 or pixel < channels:
            return None
        fits = images.storage_offset() % (height * row) == 0 and width * pixel == row
        rows = height if fits else stored // row
        if images.dim() == 4 and images.stride(0) >= height * row and images.stride(0) % row == 0:
            rows = images.stride(0) // row
        return _Layout((rows, row // pixel), row, pixel, rows * row)
    if pixel != 1 or (channels > 1 and (of_channels < height * row or of_channels % row)):
        return None
    if channels == 1:
        whole = height * row
        if width < row or images.storage_offset() % whole or stored % whole:
            whole = stored
        of_channels = whole
    return _Layout((of_channels // row, row), row, 1, of_channels)
