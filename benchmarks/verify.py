"""Compares roialign's results with torchvision's, onnxruntime's and OpenVINO's: wrong results are not timed."""

from __future__ import annotations

from dataclasses import replace

import torch
from tests.ops import tolerances
from torch import Tensor

from .implementations import ROIALIGN, TORCHVISION, onnx_forwards, pool
from .workloads import Level, Setting, seeded_randn

_ROWS = 4096  # of an output that are compared at a time, for comparing takes several times their memory


def verify(setting: Setting) -> None:
    """End the program unless roialign's features and gradients agree with the others'.

    torchvision computes in float32 from the same values, also where the features are bfloat16.
    """
    try:
        for index, level in enumerate(setting.levels()):
            _verify_level(level, setting, seed=index)
    except AssertionError as error:
        raise SystemExit(f"roialign's results are wrong, so nothing is timed. {setting}: {error}") from error


def _verify_level(level: Level, setting: Setting, seed: int) -> None:
    workload, dtype = setting.workload, setting.torch_dtype
    exact = replace(level, features=level.features.float().contiguous())
    shape = (len(level.rois), workload.channels, workload.output_size, workload.output_size)
    upstream = seeded_randn(shape, seed).to(dtype)
    output, gradient = _differentiate(ROIALIGN, level, upstream, setting)
    expected_output, expected_gradient = _differentiate(TORCHVISION, exact, upstream.float(), setting)
    _compare(output, expected_output, level.features)
    _compare(gradient, expected_gradient, expected_gradient)
    for forward in onnx_forwards([level], setting, torch.get_num_threads()).values():
        _compare(output, forward()[0], level.features)


def _differentiate(implementation: str, level: Level, upstream: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """The output, and the gradient to the features for this gradient of the output."""
    leaf = level.features.detach().requires_grad_()
    output = pool(implementation, replace(level, features=leaf), setting)
    (gradient,) = torch.autograd.grad(output, leaf, torch.empty_like(output).copy_(upstream))
    return output.detach(), gradient


def _compare(actual: Tensor, expected: Tensor, scale: Tensor) -> None:
    for rows, expected_rows in zip(actual.split(_ROWS), expected.split(_ROWS), strict=True):
        tolerances.assert_close(rows, expected_rows, scale)
