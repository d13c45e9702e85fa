"""Which images entered the modules of a program and what happened around them, to hold a feature map against."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves

from roialign.backbones.scrambled import Scrambled
from roialign.doctor.checks.operators import is_of_an_image
from roialign.doctor.model import ModelGrids
from roialign.doctor.pyramid import Pyramid
from roialign.doctor.seen import roles
from roialign.doctor.seen.detections import Detections, of_each_image
from roialign.doctor.seen.functions import showing_images_to
from roialign.doctor.seen.origins import Origin, Origins, Source, is_of_common_stride, leaves_of
from roialign.doctor.seen.poolers import PoolerRun
from roialign.doctor.seen.tensors import Memory, is_image, is_plain, memory_key, same_memory
from roialign.doctor.seen.tokens import SeenTokens
from roialign.doctor.seen.trails import Trails
from roialign.doctor.surroundings import Size, Surroundings
from roialign.geometry import FeatureGrid, Frame
from roialign.ops.calls import RoICall, is_unseen, modes_are_on, unseen

_POOLED_REMEMBERED = 64
_LEAST_TOKENS = 4


class Seen(NamedTuple):
    """What was seen of the image behind a call."""

    images: Tensor | None = None
    """The batch [N, C, H, W] that entered the backbone, if it is still held."""
    grid: FeatureGrid | None = None
    """The map's grid, where the backbone could be traced."""
    around: Surroundings | None = None
    """What happened around the call."""
    image_size_hw: Size | None = None
    """Size of the tensor that entered the backbone."""


class _Running(threading.local):
    """The modules that run in a thread."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.taking: list[tuple[int, Source]] = []  # those that took a batch, by how many were running then
        self.sources: list[Source] = []  # all batches that entered since the outermost of them began
        self.pooler: PoolerRun | None = None

    @property
    def is_inside(self) -> bool:
        """Whether a module runs that does more than to prepare images."""
        return any(roles.role(type(module)) != roles.PREPARES for module in self.modules)


class SeenImages:
    """Remembers the image-like tensors [N, 1 or 3 or 4, H, W] that entered modules, and what came out.

    An image counts for a map only if the map is an output of a module that took the image, or has the shape of
    one, or is made of such a map by modules, or if no other image entered while the outermost module runs.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._grids = ModelGrids(model)
        self._running = _Running()
        self._origins = Origins()
        self._trails = Trails(is_unseen, lambda: self._running.is_inside)
        self._detections = Detections()
        self._tokens = SeenTokens()
        self._pooled: OrderedDict[int, Memory] = OrderedDict()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every call of every module, and at what is done to images, until the block ends."""
        hooks = (
            module_hooks.register_module_forward_pre_hook(_unseen(self._enter)),
            module_hooks.register_module_forward_hook(_unseen(self._leave), with_kwargs=True, always_call=True),
        )
        try:
            with showing_images_to(self._trails):
                yield
        finally:
            for hook in hooks:
                hook.remove()
                module_hooks._global_forward_hooks_with_kwargs.pop(hook.id, None)  # which torch leaves behind

    def of(self, call: RoICall) -> Seen:
        """What is known of the images that the features of `call` were made of, where that can be told."""
        if not is_of_an_image(call) or not is_plain(call.input):
            return Seen()
        origin = self._origin(call.input)
        source = origin.source if origin is not None else None
        known = Surroundings(
            pyramid=self._pyramid_of(call),
            pooled_before=memory_key(call.input) in self._pooled,
            tokens=self._tokens.of(call.input),
            scrambled=None if origin is None else self._scrambled(origin, call.input),
        )
        if source is not None:
            known = replace(
                known,
                pictures=source.pictures,
                images=source.images,
                frames=source.frames,
                mosaic=source.mosaic,
            )
        around = None if known == Surroundings() else known
        if origin is None:
            return Seen(around=around)
        return Seen(known.images, self._grid(origin, call.input), around, origin.size_hw)

    def with_detections(self, seen: Seen, call: RoICall) -> Surroundings | None:
        """What happened around a call whose boxes can be read: whether these very ones left a detection model."""
        around = seen.around
        run = around.pyramid if around is not None else None
        all_known = run is not None and all(some.device.type == "cpu" for some in run.boxes)
        boxes = run.boxes if run is not None and all_known else of_each_image(call.rois, call.input.shape[0])
        detected = self._detections.frames_of([some.detach() for some in boxes])
        if not detected:
            return around
        around = around or Surroundings()
        frames = around.frames or (None,) * len(detected)
        if len(frames) == len(detected):
            detected = tuple(map(_in_the_frame_of, detected, frames))
        return replace(around, detected_in=detected)

    def pooled(self, output: Tensor) -> None:
        """An RoI operator made this."""
        if is_plain(output):
            memory = Memory(output)
            self._pooled[memory.key] = memory
            while len(self._pooled) > _POOLED_REMEMBERED:
                self._pooled.popitem(last=False)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        running = self._running
        if is_unseen() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return  # these hooks are no part of the program that is compiled, and see nothing of a trace
        if not running.modules:
            running.sources.clear()
        running.modules.append(module)
        role = roles.role(type(module))
        if role == roles.PREPARES:
            return
        for leaf in args:
            if is_image(leaf):
                self._take(running, leaf)
                return
        if role == roles.POOLER and len(args) == 3 and isinstance(args[0], dict):
            running.pooler = PoolerRun(module, args)

    def _take(self, running: _Running, image: Tensor) -> None:
        outer = running.taking[-1][1] if running.taking else None
        if outer is not None and outer.images.shape[:2] != image.shape[:2]:
            return  # a map inside a network, of as few channels as an image has
        if outer is None or not same_memory(outer.images, image):
            outer = self._source(image)
            running.sources.append(outer)
        running.taking.append((len(running.modules), outer))

    def _source(self, image: Tensor) -> Source:
        return Source(image.detach(), *self._trails.entered(image))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], *named_and_output: Any) -> None:
        *named, output = named_and_output  # where a module raised, torch leaves the named arguments out
        kwargs: dict[str, Any] = named[0] if named else {}
        running = self._running
        if is_unseen() or torch.compiler.is_compiling() or torch.jit.is_tracing():
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
        role = roles.role(type(module))
        if role == roles.PREPARES:
            return
        if taken is None and kwargs:
            taken = self._taken_by_name(running, kwargs)
        if taken is not None or depth == 1:
            self._note_output(module, args, output, taken)
        elif running.taking and _may_be_tokens(output):
            self._tokens.note(output, left_a_network=False)
        if role == roles.POOLER and running.pooler is not None and running.pooler.module is module:
            running.pooler = None
        elif role == roles.TRANSFORM:
            self._note_transformed(args, output)
        if role in (roles.POOLER, roles.POOLS) and isinstance(output, Tensor):
            self.pooled(output)
        if isinstance(output, (dict, list)) and (args or kwargs):
            given = args[0] if args else next(iter(kwargs.values()))
            self._detections.note(given, output, self._trails.frame_of)

    def _taken_by_name(self, running: _Running, kwargs: dict[str, Any]) -> Source | None:
        """The batch that a module was given by name, which those inside it took."""
        for leaf in kwargs.values():
            if is_image(leaf):
                return next((one for one in running.sources if same_memory(one.images, leaf)), None)
        return None

    def _note_output(self, module: nn.Module, args: tuple[Any, ...], output: Any, taken: Source | None) -> None:
        leaves = leaves_of([output] if type(output) is Tensor else tree_leaves(output))
        if taken is not None:
            others = [one for one in args if is_image(one) and not same_memory(one, taken.images)]
            own = [leaf for leaf in leaves if not any(self._origins.is_made_of(leaf, other) for other in others)]
            self._origins.remember(own, Origin.of(taken, module, is_output=True))
        else:
            self._pass_on(args, leaves)
        for leaf in leaves:
            if _may_be_tokens(leaf):
                self._tokens.note(leaf, left_a_network=True)

    def _pass_on(self, args: tuple[Any, ...], leaves: list[Tensor]) -> None:
        """What the program's outermost modules make of a map is of the map's image."""
        for leaf in args:
            if is_plain(leaf) and leaf.dim() == 4 and (origin := self._origin(leaf)):
                self._origins.remember(leaves, origin._replace(is_output=False))
                return

    def _note_transformed(self, args: tuple[Any, ...], output: Any) -> None:
        found = roles.transformed(args, output)
        if found is not None:
            images, originals, sizes_hw = found
            frames = [self._trails.frame_of(one) if is_plain(one) else None for one in originals]
            size_hw = (images.shape[2], images.shape[3])
            padded = [
                frame and _padded_to(size_hw, frame if resized_hw == frame.size_hw else frame.resize(resized_hw))
                for frame, resized_hw in zip(frames, sizes_hw, strict=True)
            ]
            self._trails.note(images, padded)

    def _origin(self, features: Tensor) -> Origin | None:
        """What a map was made of; None where that cannot be told, or where two images may be meant."""
        known = self._origins.known(features)
        if isinstance(known, Origin):
            return known
        return None if known else self._origin_by_nesting(features)

    def _origin_by_nesting(self, features: Tensor) -> Origin | None:
        running = self._running
        sources = [one for one in running.sources if one.images.shape[0] == features.shape[0]]
        if not running.modules or len({one.size_hw for one in running.sources}) != 1 or not sources:
            return None
        source = sources[-1]
        if source.images.shape[1] != 3 or min(features.shape[2:]) < 2:
            return None  # what has another number of channels may be a mask or a feature map
        fits = is_of_common_stride((source.size_hw, (features.shape[2], features.shape[3])))
        return Origin.of(source) if fits else None

    def _grid(self, origin: Origin, features: Tensor) -> FeatureGrid | None:
        with unseen():
            for module in origin.modules:
                grid = self._grids.of(module, origin.size_hw, origin.channels, features.shape)
                if grid is not None:
                    return grid
        return None

    def _scrambled(self, origin: Origin, features: Tensor) -> Scrambled | None:
        """What is out of order in a map that left a module as it is."""
        if not origin.is_output:
            return None
        with unseen():
            return self._grids.scrambled(origin.modules[0], origin.size_hw, origin.channels, features.shape)

    def _pyramid_of(self, call: RoICall) -> Pyramid | None:
        run = self._running.pooler
        return None if run is None else run.pyramid(call.input, self._origin, self._grid, self._grids.name_of)


def _unseen(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, of whose reading of tensors no mode of the program hears."""

    def unseen_hook(*args: Any) -> None:
        if torch.compiler.is_compiling() or not modes_are_on():
            return hook(*args)
        with unseen():
            return hook(*args)

    return unseen_hook


def _may_be_tokens(output: Any) -> bool:
    return type(output) is Tensor and output.dim() == 3 and output.shape[1] >= _LEAST_TOKENS and is_plain(output)


def _padded_to(size_hw: Size, frame: Frame) -> Frame:
    if frame.size_hw == size_hw:
        return frame
    return frame.pad(left=0, top=0, right=size_hw[1] - frame.size_hw[1], bottom=size_hw[0] - frame.size_hw[0])


def _in_the_frame_of(detected: Frame | None, entered: Frame | None) -> Frame | None:
    """`detected`, or the frame of the same size that the entered image was made of: it may have been loaded twice."""
    if detected is None or entered is None or detected.is_connected(entered):
        return detected
    return entered.root if detected.parent is None and detected.size_hw == entered.root.size_hw else detected
