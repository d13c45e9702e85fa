"""One call of a registered operator: observers see it, it runs, and the notice looks at its coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roialign.ops import calls, library, notice, validate


def pool(
    call: calls.RoICall,
    operator: Callable[..., tuple[Tensor, Tensor]],
    options: tuple[Any, ...],
    find_words: Callable[[], None] | None = None,
    stacklevel: int = 4,
) -> Tensor:
    """The features of `call`, by this registered operator with these options.

    When it raises, `find_words` looks for what is wrong with the values of its arguments, and raises; it is
    `validate.check_values` if none is given.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return operator(call.input, call.rois, *options)[0]
    library.say_once_if_slow(call.input, stacklevel)
    concrete = call.is_concrete()
    for observe in calls.observers if concrete else ():
        observe(call)
    try:
        output, coverage = operator(call.input, call.rois, *options)
    except RuntimeError:
        if find_words is None:
            validate.check_values(call.input.shape[0], call.rois, *call.options)
        else:
            find_words()
        raise
    if concrete:
        notice.look(call, coverage)
    return output
