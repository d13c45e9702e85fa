"""The table of operators and that of backends: what is read from them is there."""

from __future__ import annotations

import warnings

import pytest
import torch

import roialign
from roialign.errors import BoxesShapeError
from roialign.ops import backends, registered
from roialign.ops.functions import FUNCTIONS
from roialign.ops.operators import OPERATORS, ROI_POOL


@pytest.mark.parametrize("name", registered.SCHEMAS)
def test_what_is_registered_is_what_the_table_says(name: str) -> None:
    schema = getattr(torch.ops.roialign, name).default._schema
    written = torch._C.parse_schema(f"roialign::{name}{registered.SCHEMAS[name]}")
    assert str(schema) == str(written)
    assert name in registered.REFERENCE


def test_every_public_function_is_known_to_those_who_look_at_calls() -> None:
    public = {name for name in dir(roialign) if name in OPERATORS or name == ROI_POOL.name} | {"roi_align_1d"}
    assert public <= FUNCTIONS.keys()


@pytest.mark.parametrize("name", ["ps_roi_align", "ps_roi_pool"])
def test_boxes_are_looked_at_before_the_number_of_channels(name: str) -> None:
    with pytest.raises(BoxesShapeError, match=r"^RA207: "):
        getattr(roialign, name)(torch.rand(1, 5, 8, 8), torch.tensor([[1.0, 1, 4, 4]]), 3)


@pytest.mark.kernels
def test_a_backend_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = backends.of_device("cpu")
    assert cpu is not None
    assert cpu.serves("roi_align")
    assert not cpu.serves("paste_masks")
    broken = backends.Backend("C++", "cpu", "CPU", "no compiler", "Install one.")
    monkeypatch.setattr(backends, "BACKENDS", (broken,))
    monkeypatch.setattr(backends, "_slow", {"cpu": broken})
    assert backends.of_device("cpu") is None
    assert backends.serving("roi_align", "cpu") == backends.REFERENCE
    arguments = torch.rand(1, 8, 8), torch.tensor([[1.0, 1, 4, 4]]), (9, 9)
    with pytest.warns(UserWarning, match="no compiler, so the slower PyTorch reference is used. Install one."):
        roialign.paste_masks(*arguments)
    with warnings.catch_warnings(action="error"):
        roialign.paste_masks(*arguments)
