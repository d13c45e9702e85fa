"""One call of a registered operator: observers see it, it runs, and the notice looks at its coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roialign.ops import calls, library, notice


def pool(
    call: calls.RoICall,
    operator: str,
    options: tuple[Any, ...],
    find_words: Callable[[], None],
    stacklevel: int = 4,
) -> Tensor:
    """The features of `call`, by the registered operator of that name.

    When the operator raises, `find_words` looks for what is wrong with the values of its arguments, and raises.
    """
    op = getattr(torch.ops.roialign, operator)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        compiled: Tensor = op(call.input, call.rois, *options)[0]
        return compiled
    library.say_once_if_slow(call.input, stacklevel)
    concrete = call.is_concrete()
    for observe in calls.observers if concrete else ():
        observe(call)
    try:
        output: Tensor
        output, coverage = op(call.input, call.rois, *options)
    except RuntimeError:
        find_words()
        raise
    if concrete:
        notice.look(call, coverage)
    return output
