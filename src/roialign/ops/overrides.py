"""Kernels in Python that are put before those that operators have, and taken away again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

# Another thread may have found a kernel and wait for the interpreter, to call it, when it is removed: so each is kept
# until many others came after it.
_lately: deque[Any] = deque(maxlen=1024)


def serving(operator: str, key: str) -> Any:
    """The kernel that is used for an operator and this dispatch key; it is called by `call_boxed(keys, *arguments)`.

    Raises:
        RuntimeError: if there is no such operator, or it has no kernel.
    """
    return torch.library.get_kernel(operator, key)


def is_served(operator: str, key: str) -> bool:
    """Whether an operator has a kernel for this dispatch key."""
    try:
        serving(operator, key)
    except RuntimeError:
        return False
    return True


class Overrides:
    """Kernels of the operators of one namespace. Of several put before one another the last one is used."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._library = torch.library.Library(namespace, "IMPL")

    def put(self, operator: str, key: str, kernel: Callable[..., Any]) -> None:
        """Have `kernel`, which is given the dispatch keys and the arguments, be used from now on."""
        self._library.impl(operator, kernel, key, with_keyset=True, allow_override=True)
        _lately.append(serving(f"{self._namespace}::{operator}", key))

    def remove(self) -> None:
        """Take all of them away; those that they hid are used again."""
        self._library._destroy()
