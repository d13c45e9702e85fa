"""One call of an operator, once its arguments were found usable: observers, the registered operator, the notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from roialign.errors import OptionError
from roialign.ops import calls, library, notice

COMPATIBLE = (None, "torchvision")


def perform(
    call: calls.RoICall,
    op: Callable[..., Any],
    options: tuple[Any, ...],
    check_values: Callable[[], None],
    shown_as: Callable[[calls.RoICall], calls.RoICall] | None = None,
) -> Tensor:
    """The features of `call`. `op` gives features and coverage first; `check_values` finds the words where it fails.

    `shown_as` makes of a call whose boxes are no upright ones the call that others look at.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return cast(Tensor, op(call.input, call.rois, *call.output_size_hw, *options)[0])
    library.say_once_if_slow(call.input)
    concrete = call.is_concrete()
    if concrete:
        calls.show(lambda: shown_as(call) if shown_as else call)
    try:
        output, coverage, *_ = op(call.input, call.rois, *call.output_size_hw, *options)
    except RuntimeError:
        check_values()
        raise
    if concrete:
        notice.look(call, coverage, shown_as)
    return cast(Tensor, output)


def check_compat(compat: Any) -> bool:
    """Whether torchvision's faults are asked for; raise for a word that names nothing."""
    if compat not in COMPATIBLE:
        raise OptionError(f'RA506: expected compat, None or "torchvision"; got {compat!r}. Leave it out for none.')
    return compat is not None
