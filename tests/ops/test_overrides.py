"""Kernels in Python put before others: the last one serves, and each outlives its removal for a while."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from typing import Any

import pytest
import torch

from roialign.ops import overrides
from roialign.ops.overrides import Overrides, is_served, serving

OPERATOR = "roialign::paste_masks"
ARGUMENTS = (torch.ones(1, 2, 2), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), 2, 2, None, False)


def paste() -> float:
    return float(torch.ops.roialign.paste_masks(*ARGUMENTS).sum())


def test_the_last_one_serves_until_it_is_removed_in_any_order() -> None:
    expected, first, second = paste(), Overrides("roialign"), Overrides("roialign")
    first.put("paste_masks", "CPU", lambda _keys, *_: torch.full((1,), 7.0))
    hidden = serving(OPERATOR, "CPU")
    second.put("paste_masks", "CPU", lambda keys, *args: hidden.call_boxed(keys, *args) + 1)
    assert paste() == 8
    second.remove()
    assert paste() == 7
    first.remove()
    assert paste() == expected


def test_what_is_not_there_is_not_served() -> None:
    assert is_served(OPERATOR, "CPU")
    assert not is_served("roialign::nothing", "CPU")


def test_a_removed_kernel_is_kept_for_those_that_are_about_to_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __call__(self, *_: Any) -> Any:
            raise AssertionError

    def put_and_remove() -> weakref.ref[Kernel]:
        kernel, put = Kernel(), Overrides("roialign")
        put.put("paste_masks", "CPU", kernel)
        put.remove()
        return weakref.ref(kernel)

    monkeypatch.setattr(overrides, "_lately", deque(maxlen=2))
    kept = put_and_remove()
    put_and_remove()
    gc.collect()
    assert kept() is not None
    put_and_remove()
    gc.collect()
    assert kept() is None, "not for ever"
