"""One call of an operator, once its arguments were found usable: observers, the registered operator, the notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from roialign.errors import OptionError
from roialign.ops import calls, later, notice, onnx, validate
from roialign.ops.operators import Operator
from roialign.ops.registered.derivatives import is_recorded
from roialign.ops.validate import check_rows

COMPATIBLE = (None, "torchvision")


def perform(
    op: Any,
    arguments: Sequence[Any],
    tensors: Sequence[Tensor],
    refuse: Callable[[], None],
    shown: Callable[[], Any] | None,
    off_the_map: notice.OffTheMap | None,
) -> Sequence[Tensor]:
    """What `op` gives for `arguments`, features and coverage first.

    The one place where a call is shown, run and looked at.

    `tensors` are those of the arguments that have values and derivatives or not, features and boxes first; `refuse`
    finds the words where the operator raised; `shown` makes the call that others look at, if any is to be shown;
    `off_the_map` finds the words for what lies off the map, if anything is to be said.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return cast(Sequence[Tensor], (onnx.EXPORTED[op] if onnx.is_exporting() else op)(*arguments))
    concrete = calls.is_concrete(tensors)
    if not concrete:
        prepare_for(tensors)
    if concrete and shown is not None:
        calls.show(shown)
    try:
        if concrete and not is_recorded(tensors):
            with torch._C._AutoDispatchBelowAutograd():  # with nothing to record it is half the time of a small call
                found = op(*arguments)
        else:
            found = op(*arguments)
    except RuntimeError:
        if concrete:
            refuse()
        raise
    if concrete and off_the_map is not None:
        notice.look(found[1], tensors[1], off_the_map)
    return cast(Sequence[Tensor], found)


def prepare_for(tensors: Sequence[Tensor]) -> None:
    """Teach torch how distributed tensors are sharded, if any are among these."""
    if any(map(validate.is_distributed, tensors)):
        from roialign.ops import sharding  # noqa: F401


def pool(
    operator: Operator,
    call: calls.RoICall,
    options: tuple[Any, ...],
    *beside: Tensor,
    shown_as: Callable[[calls.RoICall], calls.RoICall] | None = None,
    noticed: bool = True,
) -> Tensor:
    """The features of `call`, by the operator with these options after the numbers of bins.

    `shown_as` makes of a call whose boxes are no upright ones the call that others look at.
    """
    rois, bins = call.rois, call.output_size_hw

    def shown() -> calls.RoICall:
        return shown_as(call) if shown_as else call

    def off_the_map(coverage: Tensor, numbers: Tensor) -> Callable[[], str] | None:
        nonlocal call
        if numbers is not rois:  # they were waited for, on the CPU
            call = call.with_(input=later.shape_of(call.input), rois=numbers)
        return notice.of_call(shown(), coverage)

    tensors = (call.input, rois, *beside)
    found = perform(
        operator.op,
        (*tensors, *bins, *options),
        tensors,
        lambda: refuse(operator, call.input.shape[0], rois, bins, options),
        shown,
        off_the_map if noticed else None,
    )
    return found[0]


def refuse(operator: Operator, images: int, rois: Tensor, bins: Sequence[int], options: tuple[Any, ...]) -> None:
    """Raise for the first box that the operator cannot pool, in the form that its caller gave."""
    usable = operator.usable(rois, bins, *options)
    check_rows(images, operator.as_given(rois), usable, operator.form)


def check_compat(compat: Any) -> bool:
    """Whether torchvision's faults are asked for; raise for a word that names nothing."""
    if compat not in COMPATIBLE:
        raise OptionError(
            f'RA506: expected compat, None or "torchvision"; got {compat!r}. Leave it out for the default.'
        )
    return compat is not None
