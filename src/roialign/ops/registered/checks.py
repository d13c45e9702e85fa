"""What the registered operators accept: what the public functions make of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from roialign.errors import FeatureMapError
from roialign.ops.operators import Operator
from roialign.ops.reference import Arguments
from roialign.ops.validate import (
    check_operator,
    check_operator_masks,
    check_ratio,
    check_rows,
    check_scale,
    describe,
)


def size_of(features: Tensor) -> tuple[int, ...]:
    """Images and cells of features, none where they have no such axes."""
    return (features.shape[0], *features.shape[2:]) if features.dim() > 2 else ()


def check_arguments(operator: Operator, map_like: Tensor, size: Sequence[int], arguments: Arguments) -> None:
    """Raise unless an operator was given what its public function makes of its arguments.

    `map_like` is what has the type of the features: they or the gradient of what was pooled. Reads the values of boxes,
    so it waits for them.
    """
    check_form(operator, map_like, size, arguments)
    usable = operator.usable(arguments.rois, arguments.bins, *arguments.options)
    check_rows(size[0], arguments.rois, usable, operator.form)


def check_form(operator: Operator, map_like: Tensor, size: Sequence[int], arguments: Arguments) -> None:
    """`check_arguments` without the values of boxes, which kernels on a GPU look at."""
    check_options(operator.options, arguments.options)
    check_operator(map_like, size, arguments.rois, arguments.bins, operator.form)
    for masks in arguments.beside:
        check_operator_masks(masks, arguments.rois)


def check_options(schema: str, options: Sequence[Any]) -> None:
    """Raise for scales and sampling ratios that the public functions would not take; other options are flags."""
    for declared, value in zip(schema.split(", "), options, strict=True):
        if declared.startswith("float "):
            check_scale(value)
        elif declared == "int sampling_ratio":
            check_ratio(value)


def check_grad(grad: Tensor, rois: Tensor, bins: Sequence[str]) -> None:
    """Raise unless `grad` has the shape of a gradient of the RoIs' features."""
    if grad.dim() != 2 + len(bins) or grad.shape[0] != len(rois):
        raise FeatureMapError(
            f"RA306: expected a gradient [K, C, {', '.join(bins)}] with one entry for each of {len(rois)} boxes; got "
            f"{describe(grad)}. It is made by autograd; call the public function of this operator."
        )


def check_grad_of(grad: Tensor, input: Tensor) -> None:
    """Raise unless `grad` is of the type and has the channels of the features."""
    if grad.shape[1] != input.shape[1] or grad.dtype != input.dtype or grad.device != input.device:
        raise FeatureMapError(
            f"RA306: expected a gradient of the type and with the channels of the features {describe(input)}; got "
            f"{describe(grad)}. It is made by autograd; call the public function of this operator."
        )
