"""Recurrent layers, run as one operator each: step by step they would be as slow as the image is long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAMES = ("lstm", "gru", "rnn_tanh", "rnn_relu")

OnWhole = Callable[[torch._ops.OpOverload, Any, tuple[Tensor, ...]], None]


class WholeRecurrent(TorchFunctionMode):
    """Gives recurrent layers results without values; `on_whole` is told the operator, its arguments and the results."""

    def __init__(self, on_whole: OnWhole | None) -> None:
        super().__init__()
        self.on_whole = on_whole

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name not in NAMES or not isinstance(args[3], bool):  # packed sequences have other arguments
            return function(*args, **(kwargs or {}))
        out = results(args)
        if self.on_whole is not None:
            self.on_whole(getattr(torch.ops.aten, name).input, args, out)
        return out


def results(args: Any) -> tuple[Tensor, ...]:
    """New tensors of the shapes that a recurrent layer returns: all steps, then the last states."""
    data, states, bidirectional = args[0], args[1], args[7]
    last = tuple(states) if isinstance(states, (list, tuple)) else (states,)
    steps = data.new_empty(*data.shape[:2], last[0].shape[-1] * (2 if bidirectional else 1))
    return (steps, *(state.new_empty(state.shape) for state in last))
