"""How operators are differentiated: backward, forward and under torch.func, which torch.library's rules cannot all do.

What an operator keeps and what it gives for gradients stands beside its schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from roialign.errors import DerivativeError

Parts = tuple[Any, ...]

_WITHOUT_TANGENT = ("coverage", "maxima")
"""Results, by name, that are not differentiated."""

_TENSOR = object()
"""In the place of a tensor that is kept elsewhere."""

_library = torch.library.Library("roialign", "IMPL")


def differentiate(
    name: str,
    save: Callable[[Any, Parts, Any], None],
    pull_back: Callable[..., Parts],
    linear_in: Sequence[int] = (),
    constant_in: Sequence[int] = (),
    push_forward: Callable[[Parts, Parts], Any] | None = None,
) -> None:
    """Register the derivatives of an operator.

    `save` is given a context, the arguments and the result; `pull_back` the context and a gradient of each result, None
    where there is none, though never of all. `ctx.needed` says of each argument whether it needs a gradient.
    `linear_in` has the positions of the arguments in each of which the operator is linear, so that it is its own
    forward derivative; tangents of those in `constant_in` move nothing, for they are rounded. Where it is not linear,
    `push_forward` makes of arguments and tangents the tangents of the results.
    """
    op = getattr(torch.ops.roialign, name).default
    gives_list = [str(one.type) for one in op._schema.returns] == ["List[Tensor]"]

    class Derivatives(_SingleLevelFunction):  # of one level: torch.func has taken the others apart by then
        @staticmethod
        def forward(keyset: Any, lengths: Any, *flat: Any) -> Any:
            with _recording_at_other_levels():
                found = _below_autograd(op, keyset, _nested(lengths, flat))
            return tuple(found) if gives_list else found

        @staticmethod
        def setup_context(ctx: Any, inputs: Parts, output: Any) -> None:
            _, ctx.lengths, *flat = inputs
            ctx.set_materialize_grads(False)
            ctx.needed = _nested(ctx.lengths, ctx.needs_input_grad[2:])
            save(ctx, _nested(ctx.lengths, flat), output)
            if forward_ad._current_level >= 0:
                ctx.save_for_forward(*(one for one in flat if isinstance(one, Tensor)))
                ctx.flat = [_TENSOR if isinstance(one, Tensor) else one for one in flat]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Parts:
            if all(one is None for one in grads):
                return (None,) * len(ctx.needs_input_grad)
            return None, None, *_flat(pull_back(ctx, *grads))

        @staticmethod
        def jvp(ctx: Any, _keyset: Any, _lengths: Any, *flat_tangents: Any) -> Any:
            kept = iter(ctx.saved_tensors)
            flat = [next(kept) if one is _TENSOR else one for one in ctx.flat]
            arguments, tangents = _nested(ctx.lengths, flat), _nested(ctx.lengths, flat_tangents)
            if push_forward is not None:
                return push_forward(arguments, tangents)
            return _push_forward(op, linear_in, constant_in, arguments, tangents)

    def call(keyset: Any, *arguments: Any) -> Any:
        if not is_recorded(arguments):
            return _below_autograd(op, keyset, arguments)
        flat = unwrap_dead_wrappers(_flat(arguments))
        with enable_single_level_autograd_function():
            found = Derivatives.apply(keyset, _lengths(arguments), *flat)  # type: ignore[attr-defined]
        return list(found) if gives_list else found

    _library.impl(name, call, "Autograd", with_keyset=True)


def is_recorded(arguments: Sequence[Any]) -> bool:
    """Whether autograd has anything to record of these arguments, in either direction."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
        return True
    return forward_ad._current_level >= 0


def refuse_second_derivative(ctx: Any, *_: Any) -> Parts:
    """Raise, where a gradient is differentiated again that has no derivative."""
    raise DerivativeError(
        "RA507: expected a gradient that is differentiated once: there is no second derivative with respect to the "
        'boxes, and none with mode="max". Use boxes.detach(), or mode="avg".'
    )


def save_nothing(ctx: Any, inputs: Parts, output: Any) -> None:
    """What an operator keeps whose gradients are not differentiated again."""


def _push_forward(
    op: Any, linear_in: Sequence[int], constant_in: Sequence[int], arguments: Parts, tangents: Parts
) -> Any:
    """The tangents of the results: the sum of the operator's on each tangent in the place of what it belongs to."""
    told = [at for at, tangent in enumerate(tangents) if any(one is not None for one in _flat((tangent,)))]
    moving = [at for at in told if at not in constant_in] or [linear_in[0]]
    refused = [op._schema.arguments[at].name for at in moving if at not in linear_in]
    if refused:
        raise DerivativeError(
            f"RA507: expected forward-mode tangents only of what {op._opname} is linear in; got one of its "
            f"{' and '.join(refused)}. Use .detach() there, or reverse mode: backward(), torch.func.vjp or jacrev."
        )
    parts = [
        _flat((op(*arguments[:at], _without_gaps(tangents[at], arguments[at]), *arguments[at + 1 :]),)) for at in moving
    ]
    names = [one.name for one in op._schema.returns]
    totals = [sum(one[1:], one[0]) for one in zip(*parts, strict=True)]
    if len(names) == 1:
        return tuple(totals) if len(totals) > 1 else totals[0]
    return tuple(None if name in _WITHOUT_TANGENT else total for name, total in zip(names, totals, strict=True))


def _without_gaps(tangent: Any, primal: Any) -> Any:
    """A tangent with zeros where there is none."""
    if isinstance(primal, Tensor):
        return torch.zeros_like(primal) if tangent is None else tangent
    return [torch.zeros_like(own) if one is None else one for one, own in zip(tangent, primal, strict=True)]


def _recording_at_other_levels() -> Any:
    """Undoes, for the levels of torch.func further out, that nothing is recorded within a function's forward."""
    if not torch._C._are_functorch_transforms_active():
        return nullcontext()
    both = ExitStack()
    both.enter_context(torch.enable_grad())
    both.enter_context(forward_ad._set_fwd_grad_enabled(True))
    return both


def _below_autograd(op: Any, keyset: Any, arguments: Sequence[Any]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def _lengths(arguments: Sequence[Any]) -> tuple[int | None, ...]:
    """Of the lists of tensors among the arguments."""
    return tuple(len(one) if _is_list(one) else None for one in arguments)


def _flat(arguments: Sequence[Any]) -> Parts:
    """The arguments with the members of lists of tensors one by one, which is how autograd wants them."""
    flat: list[Any] = []
    for one in arguments:
        flat.extend(one if _is_list(one) else (one,))
    return tuple(flat)


def _nested(lengths: Sequence[int | None], flat: Sequence[Any]) -> Parts:
    """The reverse of `_flat`."""
    rest = iter(flat)
    return tuple(next(rest) if length is None else [next(rest) for _ in range(length)] for length in lengths)


def _is_list(argument: Any) -> bool:
    return (
        isinstance(argument, (list, tuple))
        and len(argument) > 0
        and (argument[0] is None or isinstance(argument[0], Tensor))
    )
