"""The kernels for GPUs, in Triton: deterministic, one source for NVIDIA's and AMD's.

Nothing here needs a GPU or Triton to be imported; `load` says why they cannot be used.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

OPERATORS = (
    "roi_align",
    "roi_align_backward",
    "roi_align_backward_boxes",
    "multi_scale_roi_align",
    "multi_scale_roi_align_backward",
    "multi_scale_roi_align_backward_boxes",
    "ps_roi_align",
    "ps_roi_align_backward",
    "ps_roi_align_backward_boxes",
    "ps_roi_pool",
    "ps_roi_pool_backward",
    "prroi_pool",
    "prroi_pool_backward",
    "prroi_pool_backward_boxes",
    "roi_align_3d",
    "roi_align_3d_backward",
    "roi_align_3d_backward_boxes",
    "roi_pool",
    "roi_pool_backward",
    "roi_align_rotated",
    "roi_align_rotated_backward",
    "roi_align_rotated_backward_boxes",
    "roi_align_max",
    "roi_align_max_backward",
    "roi_align_max_backward_boxes",
    "masked_roi_align",
    "masked_roi_align_backward",
    "masked_roi_align_backward_boxes",
)

CHOSEN_BY = "ROIALIGN_TRITON"
"""The environment variable that has to be 1 for the kernels to be used."""

_library: torch.library.Library | None = None


def load() -> str | None:
    """Register the kernels for the operators above on CUDA and ROCm; the reason why they cannot be used, or None.

    Triton is imported when a kernel is first used.
    """
    global _library
    if os.environ.get(CHOSEN_BY) != "1":
        return "the Triton kernels have not passed all of their checks on a GPU yet"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if _library is None:
        _library = torch.library.Library("roialign", "IMPL", "CUDA")
        for name in OPERATORS:
            _library.impl(name, _implementation(name))
    return None


def _implementation(name: str) -> Callable[..., Any]:
    """The function that computes this operator, which imports Triton when it is first called."""

    def call(*arguments: Any) -> Any:
        from roialign.ops.triton import operators

        return operators.IMPLEMENTATIONS[name](*arguments)

    return call
