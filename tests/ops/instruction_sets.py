"""All kernels with one instruction set: `ROIALIGN_CPU_CAPABILITY=avx2 python -m tests.ops.instruction_sets avx2 [N]`.

The kernels read the variable once, so each set takes a process of its own. Exits 0 if that set was used and every
result is the reference's. With N one of N cases is taken. `make sanitize` runs all, `test_instruction_sets.py` all with
the best set, most of them in tests of their own, and some with the others.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from roialign.ops import backends

from . import bins
from .cases import Case, kernel_cases, poisoned
from .served import reference
from .tolerances import assert_close, assert_close_where_finite, assert_same_kinds

ALL = ("baseline", "avx2", "avx512")
HALF = (torch.float16, torch.bfloat16)


def supported() -> tuple[str, ...]:
    """The sets that this processor can run, as torch sees it."""
    return ALL[: {"AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)]


def kernels(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    """Output, coverage, and the gradients to the features and to the boxes, from the operators called directly."""
    ops = torch.ops.roialign
    return (
        *ops.roi_align(features, rois, *case.options),
        ops.roi_align_backward(upstream, rois, *case.image_size, *case.sampling),
        ops.roi_align_backward_boxes(upstream, features, rois, *case.sampling),
    )


def references(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    """The same from the reference, in the type that is computed in: half types are not rounded at the end."""
    features, upstream = features.to(rois.dtype), upstream.to(rois.dtype)
    return (
        *reference.roi_align(features, rois, *case.options),
        reference.roi_align_backward(upstream, rois, *case.image_size, *case.sampling),
        reference.roi_align_backward_boxes(upstream, features, rois, *case.sampling),
    )


def in_all_types(tensor: Tensor) -> Tensor:
    """The nearest values that all four types can hold."""
    return tensor.to(torch.bfloat16).to(torch.float16)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def check(case: Case) -> None:
    """Hold float64 and float32 against the reference, half types against float32, other layouts against NCHW."""
    features, upstream = in_all_types(case.features()), in_all_types(case.grad())
    for dtype in (torch.float64, torch.float32):
        tensors = features.to(dtype), case.rois(dtype), upstream.to(dtype)
        results, expected = kernels(*tensors, case), references(*tensors, case)
        scales = (tensors[0], torch.ones(1), *expected[2:])
        for actual, wanted, scale in zip(results, expected, scales, strict=True):
            assert_close(actual, wanted, scale=scale)
        others = kernels(channels_last(tensors[0]), tensors[1], channels_last(tensors[2]), case)
        assert all(torch.equal(actual, wanted) for actual, wanted in zip(others, results, strict=True)), dtype
    for dtype in HALF:  # rounded once, from the same sums
        output, coverage, grad_features, grad_rois = results
        rounded = output.to(dtype), coverage, grad_features.to(dtype), grad_rois
        for layout in (torch.Tensor.contiguous, channels_last):
            others = kernels(layout(features.to(dtype)), case.rois(), layout(upstream.to(dtype)), case)
            assert all(torch.equal(actual, wanted) for actual, wanted in zip(others, rounded, strict=True)), dtype


def check_nan(case: Case, dtype: torch.dtype) -> None:
    """NaN features reach the outputs that read them, NaN gradients the cells that were read, and nothing else."""
    features, upstream = (poisoned(tensor, (math.nan,), case.seed) for tensor in (case.features(), case.grad()))
    tensors = features.to(dtype), case.rois(torch.promote_types(dtype, torch.float32)), upstream.to(dtype)
    expected = references(*tensors, case)
    for layout in (torch.Tensor.contiguous, channels_last):
        results = kernels(layout(tensors[0]), tensors[1], layout(tensors[2]), case)
        for which, scale in ((0, tensors[0]), (2, expected[2])):
            assert_close_where_finite(results[which], expected[which], scale=scale)
            assert_same_kinds(results[which], expected[which])


@contextmanager
def named(case: Case) -> Iterator[None]:
    """Say of which case a failed assertion speaks."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{case}: {error}") from error


def check_roi_align(every: int = 1) -> int:
    """Check one of `every` cases; gives how many."""
    cases = list(enumerate(kernel_cases()))[::every]
    for number, case in cases:
        with named(case):
            check(case)
            check_nan(case, (torch.float32, torch.float64, *HALF)[number % 4])
    return len(cases)


def main(capability: str, every: int) -> None:
    used = backends.cpu_capability()
    assert used == capability, f"the kernels use {used}"
    count = check_roi_align(every)
    for operator in bins.OPERATORS:
        for case in list(bins.bin_cases(operator))[::every]:
            with named(case):
                bins.check_kernels(operator, case)
                bins.check_nan(operator, case, (torch.float32, torch.float64, *HALF)[case.seed % 4])
            count += 1
    print(f"{count} calls with {capability}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
