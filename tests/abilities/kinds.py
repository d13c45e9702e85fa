"""Questions about types, layouts, modes and systems around the operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import roialign.integrations.flops  # noqa: F401  registers the formulas
from tests.abilities.outcomes import NotApplicableError, WrongError, agree
from tests.abilities.subjects import Subject


def bfloat16(subject: Subject) -> None:
    _half(subject, torch.bfloat16, 2e-2)


def float16(subject: Subject) -> None:
    _half(subject, torch.float16, 3e-3)


def _half(subject: Subject, dtype: torch.dtype, tolerance: float) -> None:
    module = subject.module()
    found = module.to(dtype)(*_features_as(subject, dtype))
    expected = subject.module().to(torch.float32)(*_features_as(subject, dtype, torch.float32))
    agree(found.float(), expected, tolerance)


def autocast(subject: Subject) -> None:
    module = subject.module()
    arguments = subject.arguments(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(*arguments)
    agree(found.float(), module.float()(*_features_as(subject, torch.bfloat16, torch.float32)), 5e-2)


def channels_last(subject: Subject) -> None:
    module, arguments = subject.module(), subject.arguments()
    if subject.axes != 2 or subject.pastes:
        raise NotApplicableError
    last = tree_map(lambda one: one.contiguous(memory_format=torch.channels_last) if _is_map(one) else one, arguments)
    agree(module(*last), module(*arguments))


def no_boxes(subject: Subject) -> None:
    found = subject.module()(*subject.arguments(0)) if not subject.is_pyramid else None
    if found is None:
        features, boxes, sizes = subject.arguments()
        found = subject.module()(features, [one[:0] for one in boxes], sizes)
    if found.shape[0] != 0:
        raise WrongError(f"{found.shape}")


def index_out_of_range(subject: Subject) -> None:
    """An error that says so, and no read out of bounds: asked of this library only, for the others may crash."""
    if not subject.is_ours or subject.is_pyramid or subject.pastes:
        raise NotApplicableError
    features, boxes, *more = subject.arguments()
    boxes[0, 0] = 7
    subject.module()(features, boxes, *more)
    raise WrongError("no error")


def repeatable(subject: Subject) -> None:
    """Bit-identical gradients under torch.use_deterministic_algorithms."""
    if subject.pastes or subject.is_pyramid:
        raise NotApplicableError
    found = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(0)
            features, *more = subject.arguments()
            module = subject.module()
            leaf = features.requires_grad_()
            module(leaf, *more).square().sum().backward()
            found.append(leaf.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    if not torch.equal(*found):
        raise WrongError("other bits")


def flops(subject: Subject) -> None:
    """Counted by torch.utils.flop_counter, of what samples."""
    if ("pool" in subject.name and "regions" not in subject.name) or subject.pastes:
        raise NotApplicableError
    with FlopCounterMode(display=False) as counter:
        subject.module()(*subject.arguments())
    counted = counter.get_flop_counts().get("Global", {})
    if not any("roi" in str(one) or "paste" in str(one) for one in counted):
        raise LookupError(str(counted))


def distributed(subject: Subject) -> None:
    """DTensors of a mesh of one device, boxes sharded; two processes are in tests/ops/test_sharded.py."""
    module, arguments = subject.module(), subject.arguments()
    expected = module(*arguments)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        module = distribute_module(module, mesh)
        sharded = tree_map(
            lambda one: (
                distribute_tensor(one, mesh, [Replicate() if _is_map(one) else Shard(0)])
                if isinstance(one, Tensor)
                else one
            ),
            arguments,
        )
        found = module(*sharded)
        agree(found.full_tensor() if isinstance(found, DTensor) else found, expected)
    finally:
        dist.destroy_process_group()


def _features_as(subject: Subject, dtype: torch.dtype, wide: torch.dtype | None = None) -> tuple[Any, ...]:
    """The arguments with features rounded to `dtype`, in that type or in a wide one."""
    return tree_map(lambda one: one.to(dtype).to(wide or dtype) if _is_map(one) else one, subject.arguments())  # type: ignore[no-any-return]


def _is_map(one: Any) -> bool:
    return isinstance(one, Tensor) and one.dim() > 2 and one.dtype != torch.bool


QUESTIONS = {
    "bfloat16": bfloat16,
    "float16": float16,
    "autocast": autocast,
    "channels_last": channels_last,
    "no boxes": no_boxes,
    "bad batch index": index_out_of_range,
    "deterministic": repeatable,
    "FLOPs": flops,
    "DTensor": distributed,
}
