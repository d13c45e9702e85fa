"""torch.onnx.export of programs that torch.export made before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from roialign.ops.onnx import EXPORTED


def decompositions() -> dict[Any, Callable[..., Sequence[Tensor]]]:
    """What roialign's operators are in ONNX, for an `ExportedProgram`.

    `torch.onnx.export(model, ...)` does not need it, with either exporter: there roialign's functions export ONNX's
    operators directly. A program from `torch.export` already contains roialign's own.

    Returns: A table for `ExportedProgram.run_decompositions`. It raises `ExportError`, RA601, for operators without an
        equivalent in ONNX.

    Example:
        >>> import torch, roialign
        >>> arguments = torch.rand(1, 8, 40, 40), torch.tensor([[0.0, 32, 32, 320, 200]])
        >>> program = torch.export.export(roialign.RoIAlign(7, 1 / 16, 2, aligned=True), arguments)
        >>> program = program.run_decompositions(decompositions())  # torch.onnx.export(program, ...) takes it now
        >>> "roialign" in str(program.graph)
        False
    """
    return dict(EXPORTED)
