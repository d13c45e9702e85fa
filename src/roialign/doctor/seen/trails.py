"""Follows images from the photograph to the network: what was done to each, as a chain of frames."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from roialign.doctor.seen import steps
from roialign.doctor.seen.steps import UNKNOWN, Known
from roialign.doctor.seen.tensors import Memory, Place, is_plain, memory_key, places
from roialign.doctor.surroundings import Mosaic
from roialign.geometry import Frame

_MOST_KNOWN = 512  # pictures in memory
_MOST_RECENT = 64  # of those, the last ones, which are also known by their size
_MOST_IMAGES = 256  # of one batch
_CHANNELS_OF_MODES = {"L": 1, "RGB": 3, "RGBA": 4}  # of PIL


class _Recent(NamedTuple):
    """Images of one size that something was done to, and that have not entered a network yet."""

    channels: int
    size_hw: tuple[int, int]
    known: tuple[Known, ...]


class _Kept(NamedTuple):
    """What is known of the picture in a piece of memory."""

    memory: Memory
    known: Known
    version: int | None = None
    """How often the memory had been written to then, where what is known of it ends with the next time."""


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.recent: list[_Recent] = []


class Trails:
    """Knows the frames of images by their memory; of a copy, by the size at which the chain of exactly one ended.

    No image is held. `is_off` says whether what this thread does is not to be followed; `is_inside` whether it is
    inside a network, where a size says nothing.
    """

    def __init__(self, is_off: Callable[[], bool], is_inside: Callable[[], bool]) -> None:
        self._is_off = is_off
        self._is_inside = is_inside
        self._lock = threading.RLock()
        self._known: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
        self._pil: OrderedDict[int, tuple[weakref.ref[Any], Known]] = OrderedDict()
        self._thread = _ThisThread()

    def follow(self, deed: str, name: str, output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an image [C, H, W] or [N, C, H, W] that one of the functions made of these arguments."""
        if self._is_off() or not is_plain(output):
            return
        try:
            joined = deed in ("joined", "stacked")
            given = args[0] if args else kwargs.get("tensors" if joined else "input")
            inputs = list(given) if joined and isinstance(given, (list, tuple)) else [given]
            if not all(is_plain(one) and 3 <= one.dim() <= 4 for one in inputs) or len(inputs) > _MOST_IMAGES:
                return
            known = steps.after(deed, name, output, inputs, [self._of(one) for one in inputs], args[1:], kwargs)
            if known is not None:
                self._note(output, known)
                self._remember(output.shape[-3], tuple(output.shape[-2:]), known, replaces=joined)
        except Exception:  # the program must run as it would; what cannot be followed has no trail
            return

    def follow_pil(self, deed: str, output: Any, image: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an image that a method of PIL made of another."""
        if self._is_off() or output is None or output is image:
            return
        try:
            reference, known = self._pil.get(id(image), (None, None))
            size_hw = (image.height, image.width)
            fits = known is not None and (known.frame is None or known.frame.size_hw == size_hw)
            if known is None or not fits or reference is None or reference() is not image:
                known = Known(_photograph(size_hw))
            made = steps.after_pil(deed, (output.height, output.width), known, args, kwargs)
            self._pil[id(output)] = weakref.ref(output), made
            while len(self._pil) > _MOST_RECENT:
                self._pil.popitem(last=False)
            channels = _CHANNELS_OF_MODES.get(output.mode, 0)
            self._remember(channels, (output.height, output.width), (made,), replaces=False)
        except Exception:  # as above
            return

    def frame_of(self, image: Tensor) -> Frame | None:
        """The frame of a photograph [C, H, W] that a detector is given; its own where nothing was done to it."""
        known = self._of(image)
        return known[0].frame if len(known) == 1 else None

    def note(self, images: Tensor, frames: Sequence[Frame | None]) -> None:
        """These are the frames of the images [N, C, H, W]."""
        self._note(images, [Known(frame) for frame in frames])

    def entered(self, images: Tensor) -> tuple[tuple[Frame | None, ...], Mosaic | None]:
        """The frames of a batch [N, C, H, W] that enters a network, empty where none is known, and its tiles."""
        known = self._by_memory(images)
        if not any(known):
            known = self._by_size(images) or known
            if any(known):
                version = None if images.is_inference() else images._version
                self._note(images, [one or UNKNOWN for one in known], version)
        self._forget([one for one in known if one is not None])
        frames = tuple(one.frame if one is not None else None for one in known)
        mosaics = {one.mosaic if one is not None else None for one in known}
        return frames if any(frames) else (), mosaics.pop() if len(mosaics) == 1 else None

    def _of(self, images: Tensor) -> list[Known]:
        """Of each image; one that nothing is known of is a photograph."""
        known = self._by_memory(images)
        if not any(known):
            known = self._by_size(images) or known
        if None not in known:
            return [one for one in known if one is not None]
        whole = [
            one if one is not None else Known(None if place is None else _photograph(place.whole_hw))
            for one, place in zip(known, places(images), strict=True)
        ]
        self._note(images, whole)
        return [one or UNKNOWN for one in self._by_memory(images)]

    def _by_memory(self, images: Tensor) -> list[Known | None]:
        """Of each image; of a window of a larger picture, whose corner its memory tells, also if that is new."""
        found: list[Known | None] = []
        key, size_hw = memory_key(images), tuple(images.shape[-2:])
        if images.dim() == 4 and len(images) > _MOST_IMAGES:
            return [None] * len(images)
        with self._lock:
            for place in places(images):
                known = self._there(images, key, place)
                if place is not None and place.whole_hw != size_hw:
                    if known is None:
                        known = Known(_photograph(place.whole_hw))
                        self._put(key, place.plane, _Kept(Memory(images), known))
                    if known.frame is not None:
                        known = Known(known.frame.crop(place.top, place.left, *size_hw))
                found.append(known)
        return found

    def _there(self, images: Tensor, key: int, place: Place | None) -> Known | None:
        kept = None if place is None else self._known.get((key, place.plane))
        if place is None or kept is None:
            return None
        written = kept.version is not None and not images.is_inference() and images._version != kept.version
        other = kept.known.frame is not None and kept.known.frame.size_hw != place.whole_hw
        return None if written or other else kept.known

    def _by_size(self, images: Tensor) -> list[Known | None]:
        """Of each image, if as many ended at their size as they are; empty otherwise."""
        count = len(images) if images.dim() == 4 else 1
        alike = [one for one in self._thread.recent if one[:2] == (images.shape[-3], tuple(images.shape[-2:]))]
        known = [known for one in alike for known in one.known]
        return list(known) if len(known) == count and all(one.frame for one in known) else []

    def _note(self, images: Tensor, known: Sequence[Known], version: int | None = None) -> None:
        with self._lock:
            key, memory = memory_key(images), Memory(images)
            for place, one in zip(places(images), known, strict=True):
                if place is not None:
                    self._put(key, place.plane, _Kept(memory, one, version))

    def _put(self, key: int, plane: int, kept: _Kept) -> None:
        self._known.pop((key, plane), None)
        self._known[key, plane] = kept
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def _remember(self, channels: int, size_hw: tuple[int, ...], known: Sequence[Known], replaces: bool) -> None:
        """Images that something was done to outside of any network; `replaces` those that they are put together of."""
        if self._is_inside() or len(known) > _MOST_IMAGES:
            return
        if replaces:
            self._forget(known)
        self._thread.recent.append(_Recent(channels, (size_hw[0], size_hw[1]), tuple(known)))
        del self._thread.recent[:-_MOST_RECENT]

    def _forget(self, known: Sequence[Known]) -> None:
        if self._thread.recent:
            used = {id(one.frame) for one in known}
            self._thread.recent = [
                one for one in self._thread.recent if not any(id(known.frame) in used for known in one.known)
            ]


def _photograph(size_hw: tuple[int, int]) -> Frame:
    return Frame.image(size_hw, name="photograph")
