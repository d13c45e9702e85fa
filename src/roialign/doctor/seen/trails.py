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
from roialign.doctor.surroundings import Mosaic, Turned
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
    is_gone: Callable[[], bool]
    """Whether they do not exist any more."""
    is_used: bool = False
    """Whether others of the same size were made of them; then they count only as long as they exist."""

    def counts(self) -> bool:
        return not (self.is_used and self.is_gone())

    def is_of_a_turned_file(self) -> bool:
        return any(one.frame is not None and Turned.of(one.frame) is not None for one in self.known)

    def is_like(self, images: Tensor) -> bool:
        return self.channels == images.shape[-3] and self.size_hw == tuple(images.shape[-2:])


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
        if self._is_off() or not is_plain(output) or (output.shape[-3] == 1 and self._is_inside()):
            return  # what has one channel inside a network is a mask
        try:
            joined = deed in ("joined", "stacked")
            given: Any = args[0] if args else kwargs.get("tensors" if joined else "input")
            inputs: list[Any] = list(given) if joined and isinstance(given, (list, tuple)) else [given]
            if not all(is_plain(one) and 3 <= one.dim() <= 4 for one in inputs) or len(inputs) > _MOST_IMAGES:
                return
            are_known = any(known for one in inputs for known in self._by_memory(one))
            if not are_known and steps.is_batch(deed, output, args[1:], kwargs):
                return  # the batch will be known by its size, if its images are
            before = [self._of(one) for one in inputs]
            known = steps.after(deed, name, output, inputs, before, args[1:], kwargs)
            if known is not None:
                self._note(output, known)
                size_hw = (output.shape[-2], output.shape[-1])
                made = _Recent(output.shape[-3], size_hw, tuple(known), Memory(output).is_free)
                self._remember(made, [one for some in before for one in some])
        except Exception:  # the program must run as it would; what cannot be followed has no trail
            return

    def follow_pil(self, deed: str, output: Any, image: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an image that a method of PIL made of another, or that PIL opened."""
        if self._is_off() or output is None or output is image:
            return
        try:
            size_hw, reference = (output.height, output.width), weakref.ref(output)
            with self._lock:
                if self._is_known(output) or (deed in ("convert", "copy") and not self._is_known(image)):
                    return  # a method that made it is part of this one; or a copy of an image as it was opened
                known = UNKNOWN if deed == "open" else self._of_pil(image)
                made = self._opened(output) if deed == "open" else steps.after_pil(deed, size_hw, known, args, kwargs)
                if made is None:
                    return
                self._pil[id(output)] = reference, made
                while len(self._pil) > _MOST_RECENT:
                    self._pil.popitem(last=False)
            channels = _CHANNELS_OF_MODES.get(output.mode, 0)
            self._remember(_Recent(channels, size_hw, (made,), lambda: reference() is None), [known])
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
        known = self._noted(images)
        self._forget([Known(step) for one in known if one and one.frame for step in one.frame.chain])
        self._thread.recent = [one for one in self._thread.recent if not one.is_like(images)]
        frames = tuple(one.frame if one is not None else None for one in known)
        mosaics = {one.mosaic if one is not None else None for one in known}
        return frames if any(frames) else (), mosaics.pop() if len(mosaics) == 1 else None

    def _opened(self, image: Any) -> Known | None:
        """What is known of an image that was opened; None where it is an upright one like no other.

        Cameras make images of one size: those of turned files that exist no more are not known by it any longer.
        """
        sides = {image.height, image.width}
        alike = [one for one in self._thread.recent if set(one.size_hw) == sides and one.is_of_a_turned_file()]
        gone = [one for one in alike if one.is_gone()]
        self._thread.recent = [one for one in self._thread.recent if one not in gone]
        known = steps.opened(image)
        return Known(_photograph((image.height, image.width))) if known is None and len(alike) > len(gone) else known

    def _is_known(self, image: Any) -> bool:
        kept = self._pil.get(id(image))
        return kept is not None and kept[0]() is image

    def _of_pil(self, image: Any) -> Known:
        reference, known = self._pil.get(id(image), (None, UNKNOWN))
        size_hw = (image.height, image.width)
        if reference is None or reference() is not image or (known.frame and known.frame.size_hw != size_hw):
            return Known(_photograph(size_hw))
        return known

    def _of(self, images: Tensor) -> list[Known]:
        """Of each image; one that nothing is known of is a photograph."""
        known = self._noted(images)
        if None in known:
            known = [
                one if one is not None else Known(None if place is None else _photograph(place.whole_hw))
                for one, place in zip(known, places(images), strict=True)
            ]
            self._note(images, [one or UNKNOWN for one in known])
        return [one or UNKNOWN for one in known]

    def _noted(self, images: Tensor) -> list[Known | None]:
        """Of each image, by memory or, and noted then until it is written to, by size."""
        known = self._by_memory(images)
        if not any(known) and (of_size := self._by_size(images)):
            known = of_size
            if not images.is_inference():  # of which torch does not know how often it was written to
                self._note(images, [one or UNKNOWN for one in known], images._version)
        return known

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
        if place is None:  # a picture that lies on its side, say, where something is known of the memory
            return UNKNOWN if any(known == key for known, _ in self._known) else None
        kept = self._known.get((key, place.plane))
        if kept is None:
            return None
        written = kept.version is not None and not images.is_inference() and images._version != kept.version
        other = kept.known.frame is not None and kept.known.frame.size_hw != place.whole_hw
        return None if written or other else kept.known

    def _by_size(self, images: Tensor) -> list[Known | None]:
        """Of each image, if as many ended at their size as they are; empty where none did."""
        count = len(images) if images.dim() == 4 else 1
        alike = [one for one in self._thread.recent if one.counts() and one.is_like(images)]
        known = [known for one in alike for known in one.known]
        pictures = {one.frame.id for one in known if one.frame is not None}
        fits = len(known) == count and (len(alike) == 1 or len(pictures) == count) and all(one.frame for one in known)
        return list(known) if fits or not known else [UNKNOWN] * count

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

    def _remember(self, made: _Recent, before: Sequence[Known]) -> None:
        """Images that were made outside of any network, of those that `before` is known of."""
        if self._is_inside() or len(made.known) > _MOST_IMAGES:
            return
        self._forget(made.known)  # which were joined to a batch
        used = {id(one.frame) for one in before}
        recent = [
            one._replace(is_used=True)
            if one.size_hw == made.size_hw and any(id(known.frame) in used for known in one.known)
            else one
            for one in self._thread.recent
        ]
        self._thread.recent = [*recent[1 - _MOST_RECENT :], made]

    def _forget(self, known: Sequence[Known]) -> None:
        if self._thread.recent:
            used = {id(one.frame) for one in known}
            self._thread.recent = [
                one for one in self._thread.recent if not any(id(known.frame) in used for known in one.known)
            ]


def _photograph(size_hw: tuple[int, int]) -> Frame:
    return Frame.image(size_hw, name="photograph")
