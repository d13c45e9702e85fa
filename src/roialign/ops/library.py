"""The operators as torch.library knows them: schema, fake, autograd, and which backend serves them.

The reference is registered for every backend; a kernel library that loads takes its own over.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops import reference
from roialign.ops.validate import check_operator, check_values, describe

_OPTIONS = "float spatial_scale, int sampling_ratio, bool aligned"
_SCHEMAS = {
    "roi_align": (
        f"(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, {_OPTIONS})"
        " -> (Tensor output, Tensor coverage)"
    ),
    "roi_align_backward": (
        f"(Tensor grad, Tensor rois, SymInt images, SymInt height, SymInt width, {_OPTIONS}) -> Tensor"
    ),
    "roi_align_backward_boxes": f"(Tensor grad, Tensor input, Tensor rois, {_OPTIONS}) -> Tensor",
}
CPU_LIBRARY = Path(__file__).parent / "cpu" / "_kernels.so"

for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"roialign::{_name}", _schema)

_op: Any = torch.ops.roialign


@torch.library.impl("roialign::roi_align", "CompositeExplicitAutograd")
def _roi_align(input: Tensor, rois: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    check_operator(input, _size_nhw(input), rois, options[:2], *options[2:4])
    check_values(input.shape[0], rois, *options)
    return reference.roi_align(input, rois, *options)


@torch.library.impl("roialign::roi_align_backward", "CompositeExplicitAutograd")
def _roi_align_backward(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    _check_grad(grad, rois)
    check_operator(grad, (images, height, width), rois, grad.shape[2:], *options[:2])
    check_values(images, rois, *grad.shape[2:], *options)
    return reference.roi_align_backward(grad, rois, images, height, width, *options)


@torch.library.impl("roialign::roi_align_backward_boxes", "CompositeExplicitAutograd")
def _roi_align_backward_boxes(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    _check_grad(grad, rois)
    check_operator(input, _size_nhw(input), rois, grad.shape[2:], *options[:2])
    check_values(input.shape[0], rois, *grad.shape[2:], *options)
    return reference.roi_align_backward_boxes(grad, input, rois, *options)


def _size_nhw(input: Tensor) -> tuple[int, int, int]:
    return (input.shape[0], input.shape[2], input.shape[3]) if input.dim() == 4 else (0, 0, 0)


def _check_grad(grad: Tensor, rois: Tensor) -> None:
    if grad.dim() != 4 or grad.shape[0] != len(rois):
        raise FeatureMapError(
            f"RA306: expected a gradient [K, C, h, w] with one entry for each of {len(rois)} boxes; got "
            f"{describe(grad)}. It is made by autograd; call roialign.roi_align."
        )


@torch.library.register_fake("roialign::roi_align")
def _(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, *options: Any) -> tuple[Tensor, Tensor]:
    output = input.new_empty(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    return output, rois.new_empty(rois.shape[0])


@torch.library.register_fake("roialign::roi_align_backward")
def _(grad: Tensor, rois: Tensor, images: int, height: int, width: int, *options: Any) -> Tensor:
    return grad.new_empty(images, grad.shape[1], height, width)


@torch.library.register_fake("roialign::roi_align_backward_boxes")
def _(grad: Tensor, input: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, _, _, *options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.input_shape, ctx.options = features.shape, options
    ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, rois)


def _differentiate_forward(ctx: Any, grad: Tensor | None, _grad_coverage: Tensor | None) -> tuple[Any, ...]:
    features, rois = ctx.saved_tensors
    images, _, height, width = ctx.input_shape
    grad_input = grad_rois = None
    if grad is not None and ctx.needs_input_grad[0]:
        grad_input = _op.roi_align_backward(grad, rois, images, height, width, *ctx.options)
    if grad is not None and ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_backward_boxes(grad, features, rois, *ctx.options)
    return grad_input, grad_rois, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, _, _, _, *options = inputs
    ctx.pooled_hw, ctx.options = grad.shape[2:], options
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, rois)


def _differentiate_backward(ctx: Any, grad_grad_input: Tensor) -> tuple[Any, ...]:
    """The backward is linear in `grad`, and the forward is its transpose."""
    grad, rois = ctx.saved_tensors
    grad_grad = grad_rois = None
    if ctx.needs_input_grad[0]:
        grad_grad = _op.roi_align(grad_grad_input, rois, *ctx.pooled_hw, *ctx.options)[0]
    if ctx.needs_input_grad[1]:
        grad_rois = _op.roi_align_backward_boxes(grad, grad_grad_input, rois, *ctx.options)
    return grad_grad, grad_rois, None, None, None, None, None, None


def _refuse_second_derivative(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "roi_align has no second derivative with respect to the boxes; detach the boxes, or differentiate twice with "
        "respect to the features only"
    )


torch.library.register_autograd("roialign::roi_align", _differentiate_forward, setup_context=_save_forward)
torch.library.register_autograd("roialign::roi_align_backward", _differentiate_backward, setup_context=_save_backward)
torch.library.register_autograd("roialign::roi_align_backward_boxes", _refuse_second_derivative)


def _load_cpu_kernels() -> str | None:
    """Load the C++ kernels; the reason why they do not serve, or None."""
    if not CPU_LIBRARY.exists():
        return "the C++ kernels were not built"
    try:
        torch.ops.load_library(CPU_LIBRARY)
    except OSError as error:
        return f"the C++ kernels could not be loaded: {error}"
    return None


why_no_cpu_kernels = _load_cpu_kernels()


def cpu_capability() -> str | None:
    """The instruction set that the C++ kernels use: "avx512", "avx2" or "baseline"; None where they do not serve.

    The best that the processor can run. The environment variable ROIALIGN_CPU_CAPABILITY, read when the kernels
    are first used, can name a lesser one.
    """
    if why_no_cpu_kernels:
        return None
    ask = ctypes.CDLL(str(CPU_LIBRARY)).roialign_cpu_capability
    ask.restype = ctypes.c_char_p
    return cast(bytes, ask()).decode()


_said_slow = False


def say_once_if_slow(input: Tensor) -> None:
    """Say, the first time that it matters, that the reference serves where the C++ kernels should."""
    global _said_slow
    if why_no_cpu_kernels and input.is_cpu and not _said_slow:
        _said_slow = True
        warnings.warn(
            f"{why_no_cpu_kernels}, so the slower reference in PyTorch serves. Install again with "
            "pip install --no-build-isolation, torch and a C++20 compiler at hand. `roialign env` shows more.",
            stacklevel=4,
        )


def backend(op: str, device_type: str) -> str:
    """Which implementation serves `op` on this type of device: "C++" or "reference"."""
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    key = "CPU" if device_type == "cpu" else device_type.upper()
    return "C++" if kernel(f"roialign::{op}", key) and key == "CPU" else "reference"


def names() -> list[str]:
    """The names of the registered operators."""
    return list(_SCHEMAS)
