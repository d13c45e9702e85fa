"""torch's functions that resize, pad, flip and join images: while someone looks, each shows what it made.

Stand-ins take their places in torch's modules, and only there: a mode of torch would be a part of every program that
is compiled. `torch.nn.functional` fetches its kernels from `torch._C._nn` at each call, so that they are seen there
for whoever has imported `interpolate` or `pad` by name, torchvision's transforms among them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor

from roialign.doctor.seen import pil

_LEAST_SIDE = 8
_IMAGE_CHANNELS = (1, 3, 4)
_RESIZE = (
    *("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "adaptive_avg_pool2d"),
)
_WHERE: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("resized", torch._C._nn, _RESIZE),
    ("averaged", torch.nn.functional, ("avg_pool2d",)),
    ("padded", torch._C._nn, ("pad",)),
    ("flipped", torch, ("flip",)),
    ("flipped", torch.Tensor, ("flip",)),
    ("joined", torch, ("cat", "concat", "concatenate")),
    ("stacked", torch, ("stack",)),
    ("bent", torch, ("grid_sampler", "rot90")),
)
"""What is done to images, and the functions that do it."""


class Follower(Protocol):
    """Who follows images."""

    def follow(self, deed: str, name: str, output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an image [C, H, W] or [N, C, H, W] that one of the functions made of these arguments."""

    def follow_pil(self, deed: str, output: Any, image: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at an image that a method of PIL made of another."""


_lock = threading.Lock()
_followers: tuple[Follower, ...] = ()
_open = ExitStack()


class _StandIn:
    """Stands in for a function of torch, passes each call on, and shows an image that came out.

    To the JIT it is the function itself; pickled, hashed and compared, too.
    """

    def __init__(self, deed: str, module: Any, name: str, original: Any) -> None:
        self._deed = deed
        self._original = original
        # Of these torch hands the stand-in itself to a mode, which calls it once more; of `torch.cat` the original.
        self._is_called_by_modes = module is not torch
        self.__name__ = name
        self.__doc__ = original.__doc__
        self.__wrapped__ = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            return self._original(*args, **kwargs)
        output = self._original(*args, **kwargs)
        if type(output) is Tensor and not (self._is_called_by_modes and torch._C._is_torch_function_mode_enabled()):
            with torch._C.DisableTorchFunction():  # what is asked of tensors here is nothing that the program does
                if 3 <= output.dim() <= 4:
                    _show(self._deed, self.__name__, output, args, kwargs)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)

    def __reduce__(self) -> Any:
        return self._original.__reduce__()

    def __eq__(self, other: object) -> bool:
        return self is other or other is self._original

    def __hash__(self) -> int:
        return hash(self._original)


def _show(deed: str, name: str, output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    *_, channels, height, width = output.shape
    if channels in _IMAGE_CHANNELS and height >= _LEAST_SIDE and width >= _LEAST_SIDE:
        for follower in _followers:
            follower.follow(deed, name, output, args, kwargs)


def _show_pil(deed: str, output: Any, image: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for follower in _followers:
        follower.follow_pil(deed, output, image, args, kwargs)


class _MethodStandIn(_StandIn):
    """Stands in for a method of tensors."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)


# The same ones for every watch: compiled code knows them and would be compiled anew for each, and the JIT knows its
# builtins by their addresses.
_STAND_INS: list[tuple[Any, _StandIn]] = []


@contextmanager
def showing_images_to(follower: Follower) -> Iterator[None]:
    """Show `follower` every image of this process that is resized, padded, flipped or joined, until the block ends.

    torch is touched when the first follower comes and left as it was when the last one goes, whatever the order.
    """
    global _followers
    with _lock:
        if not _followers:
            _begin()
        _followers = (*_followers, follower)
    try:
        yield
    finally:
        with _lock:
            _followers = tuple(one for one in _followers if one is not follower)
            if not _followers:
                _end()


def _begin() -> None:
    if not _STAND_INS:
        for deed, module, names in _WHERE:
            for name in names:
                original = getattr(module, name, None)
                if original is not None:
                    kind = _MethodStandIn if module is torch.Tensor else _StandIn
                    stand_in = kind(deed, module, name, original)
                    builtin = torch.jit._builtins._find_builtin(original)
                    if builtin is not None:
                        torch.jit._builtins._register_builtin(stand_in, builtin)
                    _STAND_INS.append((module, stand_in))
    for module, stand_in in _STAND_INS:
        setattr(module, stand_in.__name__, stand_in)
    _open.enter_context(pil.watched(_show_pil))


def _end() -> None:
    _open.close()
    for module, stand_in in _STAND_INS:
        if module.__dict__.get(stand_in.__name__) is not stand_in:
            continue  # somebody else put something there meanwhile
        if module is torch.Tensor:  # which inherits it
            delattr(module, stand_in.__name__)
        else:
            setattr(module, stand_in.__name__, stand_in.__wrapped__)
