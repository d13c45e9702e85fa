"""torchvision's operators on this library's kernels: under their names, for the whole process."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.watch.libraries import behind_the_lookers
from roialign.errors import RoIError
from roialign.ops.backends import BACKENDS
from roialign.ops.operators import OPERATORS, ROI_ALIGN, ROI_POOL, Operator
from roialign.ops.overrides import Overrides, serving
from roialign.ops.perform import refuse
from roialign.ops.validate import as_rois, check_input

_LIBRARY = "torchvision"
_OF_OPTIONS = ("RA105", "RA506")  # torchvision accepts some scales and sampling ratios that are refused here

_lock = threading.RLock()
_overrides: Overrides | None = None
_asked = 0
"""How many calls of `enable` hold."""
_round = 0
"""How often they were ended by `disable`."""


class enable:
    """Have torchvision's RoI operators run on this library's kernels, in the whole process, from this line on.

    As a function it applies until `disable()`, as a context manager until the block ends, unless another one is still
    open. It applies to all threads. torchvision's functions, modules, `MultiScaleRoIAlign` and detectors, and all code
    built on them, including scripted, traced, exported and compiled code, get faster without a change.

    Results and gradients are torchvision's; boxes get no gradient, as with torchvision. This covers `roi_align`,
    `roi_pool`, `ps_roi_align` and `ps_roi_pool`, forward and backward, on the CPU; on a GPU those with Triton kernels.
    float16 is computed in float32, coordinates too, and bfloat16 is supported on the CPU. A box that is NaN or
    infinite, or has a batch index out of range, raises an `RoIError`, where torchvision reads out of bounds. There are
    no notices about boxes off the map: `roialign doctor` reports those.

    On the CPU deterministic, forward and backward, for any number of threads.

    Raises:
        ImportError: if torchvision or its operators are not installed.

    Warns:
        UserWarning: if no kernels were built for this process, so torchvision's own stay in use.

    Example:
        >>> import torch, torchvision, roialign
        >>> features, boxes = torch.rand(1, 8, 50, 68), [torch.tensor([[100.0, 80.0, 300.0, 420.0]])]
        >>> expected = torchvision.ops.roi_align(features, boxes, 7, 1 / 16, 2)
        >>> with roialign.enable():
        ...     pooled = torchvision.ops.roi_align(features, boxes, 7, 1 / 16, 2)
        >>> torch.allclose(pooled, expected, atol=1e-5)
        True
    """

    _round: int

    def __init__(self) -> None:
        self._begin()

    def __enter__(self) -> enable:
        if self._round != _round:  # it was ended since it was called
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _asked
        with _lock:
            if self._round == _round:
                _asked -= 1
                self._round = -1
                if not _asked:
                    _remove()

    def _begin(self) -> None:
        global _asked
        _import_torchvision()
        with _lock:
            if _overrides is None:
                _put()
            _asked += 1
            self._round = _round


def disable() -> None:
    """Have torchvision's operators run on torchvision's own kernels again, whatever called or entered `enable`.

    Example:
        >>> import roialign
        >>> _ = roialign.enable()
        >>> roialign.disable()
    """
    global _asked, _round
    with _lock:
        _asked = 0
        _round += 1
        _remove()


def _import_torchvision() -> None:
    """Have torchvision's operators there: imported later, its own kernels would be put before these."""
    try:
        extension = importlib.import_module(f"{_LIBRARY}.extension")
    except ImportError as error:
        raise ImportError(
            f"roialign.enable() needs torchvision, which cannot be imported: {error}. Install it: pip install "
            "torchvision. roialign's own operators do not need it."
        ) from error
    if not extension._has_ops():
        raise ImportError(
            "roialign.enable() replaces torchvision's operators, which torchvision cannot load with torch "
            f"{torch.__version__}. Install the matching torchvision: pip install --upgrade torch torchvision."
        )


def _put() -> None:
    global _overrides
    overrides = Overrides(_LIBRARY)
    with behind_the_lookers():
        for name, (operator, pool) in _SERVED.items():
            for key in (backend.key for backend in BACKENDS if backend.serves(operator)):
                overrides.put(name, key, _kernel(pool, serving(f"{_LIBRARY}::{name}", key)))
    _overrides = overrides
    if all(backend.why_not is not None for backend in BACKENDS):
        slow = BACKENDS[0]
        warnings.warn(
            f"{slow.why_not}, so torchvision's own kernels stay in use. {slow.advice} `roialign env` shows more.",
            UserWarning,
            stacklevel=4,
        )


def _remove() -> None:
    global _overrides
    if _overrides is not None:
        with behind_the_lookers():
            _overrides.remove()
        _overrides = None


def _kernel(pool: Callable[..., Any], hidden: Any) -> Callable[..., Any]:
    def kernel(keys: Any, *arguments: Any) -> Any:
        with torch._C.DisableTorchFunction():  # what sees the operator must not see its kernel
            try:
                return pool(*arguments)
            except (RuntimeError, RoIError) as error:
                if not str(error).startswith(_OF_OPTIONS):
                    raise
            return hidden.call_boxed(keys, *arguments)

    return kernel


@dataclass(frozen=True)
class _Forward:
    """How an operator of torchvision's is computed by one of roialign's, which takes the same arguments and more."""

    operator: Operator
    fixed: tuple[bool, ...] = ()
    """The further options, which give torchvision's numbers."""
    results: Callable[[Sequence[Tensor]], Any] = lambda found: found[0]
    """From what the operator gives, features and coverage first, to what torchvision's gives."""

    def __call__(self, input: Tensor, rois: Tensor, scale: float, height: int, width: int, *sampling: Any) -> Any:
        check_input(input)
        boxes, options = as_rois(rois, input), (scale, *sampling, *self.fixed)
        try:
            found = self.operator.op(input, boxes, height, width, *options)
        except RuntimeError as error:
            if not str(error).startswith(_OF_OPTIONS):
                refuse(self.operator, input.shape[0], boxes, (height, width), options)
            raise
        return self.results(found)


def _with_channels(found: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """With the channel that each value was pooled from."""
    pooled = found[0]
    channels = torch.arange(prod(pooled.shape[1:]), dtype=torch.int32, device=pooled.device)
    return pooled, channels.view(1, *pooled.shape[1:]).repeat(len(pooled), 1, 1, 1)


def _roi_align_backward(grad: Tensor, rois: Tensor, scale: float, _h: int, _w: int, *rest: Any) -> Tensor:
    images, _channels, height, width, ratio, aligned = rest
    size = (images, height, width)
    return _gradient("roi_align", grad, as_rois(rois, grad), *size, scale, ratio, aligned)


def _roi_pool_backward(
    grad: Tensor, rois: Tensor, maxima: Tensor, _scale: float, _h: int, _w: int, *shape: int
) -> Tensor:
    images, _channels, height, width = shape
    return _gradient("roi_pool", grad, maxima, as_rois(rois, grad), images, height, width)


def _ps_roi_align_backward(
    grad: Tensor, rois: Tensor, _mapping: Tensor, scale: float, _h: int, _w: int, ratio: int, *shape: int
) -> Tensor:
    images, _channels, height, width = shape
    return _gradient("ps_roi_align", grad, as_rois(rois, grad), images, height, width, scale, ratio)


def _ps_roi_pool_backward(
    grad: Tensor, rois: Tensor, _mapping: Tensor, scale: float, _h: int, _w: int, *shape: int
) -> Tensor:
    images, _channels, height, width = shape
    return _gradient("ps_roi_pool", grad, as_rois(rois, grad), images, height, width, scale, True)


def _gradient(operator: str, *arguments: Any) -> Tensor:
    found: Tensor = getattr(torch.ops.roialign, f"{operator}_backward").default(*arguments)
    return found


_SERVED: dict[str, tuple[str, Callable[..., Any]]] = {
    "roi_align": ("roi_align", _Forward(ROI_ALIGN)),
    "_roi_align_backward": ("roi_align_backward", _roi_align_backward),
    "roi_pool": ("roi_pool", _Forward(ROI_POOL, (True, True), lambda found: (found[0], found[2]))),
    "_roi_pool_backward": ("roi_pool_backward", _roi_pool_backward),
    "ps_roi_align": ("ps_roi_align", _Forward(OPERATORS["ps_roi_align"], (True,), _with_channels)),
    "_ps_roi_align_backward": ("ps_roi_align_backward", _ps_roi_align_backward),
    "ps_roi_pool": ("ps_roi_pool", _Forward(OPERATORS["ps_roi_pool"], (False, True), _with_channels)),
    "_ps_roi_pool_backward": ("ps_roi_pool_backward", _ps_roi_pool_backward),
}
"""By torchvision's names: the operator of roialign's whose backends are asked for, and what computes it by that."""
