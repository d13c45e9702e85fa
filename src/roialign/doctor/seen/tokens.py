"""The tokens [N, T, C] that modules gave out, so that a map made from some of them can be compared with them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from roialign.doctor.seen.tensors import Memory, memory_key
from roialign.doctor.surroundings import Tokens

_MOST_KEPT = 64
_MOST_EXTRA = 16  # tokens that are none of the map
_MOST_COMPARED = 16  # outputs that a map is compared with by value
_CHANNELS_COMPARED = 16


class _Output(NamedTuple):
    """Tokens that a module gave out: where they lie, and the first values of the first and last of image 0."""

    memory: Memory
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    ends: tuple[Tensor, Tensor] | None


class SeenTokens:
    """Remembers tokens by their memory; of those that left a network also a few values, should they not be kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outputs: OrderedDict[int, _Output] = OrderedDict()

    def note(self, output: Tensor, left_a_network: bool) -> None:
        """A module gave out these tokens [N, T, C]."""
        ends = None
        if left_a_network and output.device.type == "cpu" and len(output):
            values = output.detach()[0, :, :_CHANNELS_COMPARED]
            ends = values[: _MOST_EXTRA + 1].clone(), values[-_MOST_EXTRA - 1 :].clone()
        memory = Memory(output)
        where = (memory, int(output.storage_offset()), tuple(output.shape), output.stride())
        with self._lock:
            self._outputs.pop(memory.key, None)
            self._outputs[memory.key] = _Output(*where, output.dtype, ends)
            while len(self._outputs) > _MOST_KEPT:
                self._outputs.popitem(last=False)

    def of(self, features: Tensor) -> Tokens | None:
        """The tokens that a map [N, C, H, W] was made of, where its memory or its values show it."""
        with self._lock:
            outputs = list(reversed(self._outputs.values()))
        if not outputs or 0 in features.shape:
            return None
        there = next((one for one in outputs if one.memory.key == memory_key(features)), None)
        if there is not None:
            return _by_memory(features, there)
        if features.device.type != "cpu":
            return None  # to look at values would be to wait for them
        images, channels, height, width = features.shape
        cells = height * width
        alike = [
            one
            for one in outputs
            if one.dtype == features.dtype
            and one.shape[::2] == (images, channels)
            and 0 <= one.shape[1] - cells <= _MOST_EXTRA
        ]
        for one in alike[:_MOST_COMPARED]:
            found = _by_values(features.detach(), one)
            if found is not None:
                return found
        return None


def _by_memory(features: Tensor, output: _Output) -> Tokens | None:
    _, count, channels = output.shape
    _, of_tokens, of_channels = output.strides
    height, width = features.shape[2:]
    first, rest = divmod(int(features.storage_offset()) - output.offset, of_tokens or 1)
    if features.shape[1] != channels or rest or not 0 <= first <= count - height * width:
        return None
    strides = features.stride()[1:]
    if strides == (of_channels, width * of_tokens, of_tokens):
        return Tokens(count, first)
    if of_channels == 1 and of_tokens == channels and strides == (height * width, width, 1):
        return Tokens(count, first, transposed=False)
    return None


def _by_values(features: Tensor, output: _Output) -> Tokens | None:
    """Which token is the first cell, if exactly one is equal to it, and the last cell equal to the right one."""
    ends = _ends(features, output)
    if ends is None:
        return None
    first_tokens, last_tokens = ends
    count, extra = output.shape[1], output.shape[1] - features.shape[2] * features.shape[3]
    known = first_tokens.shape[1]
    flat = features[0].reshape(-1)
    channels = features.shape[1]
    ways = (
        (True, features[0, :known, 0, 0], features[0, :known, -1, -1]),
        (False, flat[:known], flat[-channels:][:known]),
    )
    for transposed, first_cell, last_cell in ways:
        equal = [index for index, token in enumerate(first_tokens[: extra + 1]) if torch.equal(token, first_cell)]
        if len(equal) == 1 and torch.equal(last_tokens[equal[0] - extra - 1], last_cell):
            return Tokens(count, equal[0], transposed)
    return None


def _ends(features: Tensor, output: _Output) -> tuple[Tensor, Tensor] | None:
    if output.ends is not None:
        return output.ends
    tokens = output.memory.tensor(features, output.offset, output.shape, output.strides)
    if tokens is None:
        return None
    values = tokens[0, :, :_CHANNELS_COMPARED]
    return values[: _MOST_EXTRA + 1], values[-_MOST_EXTRA - 1 :]
