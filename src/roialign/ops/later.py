"""Numbers of a GPU, copied while it works and read when they have arrived: nothing here waits but `Arrival.wait`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_WAITING = 256
"""Calls that may wait for their numbers; beyond, the oldest, whose have long been there, is waited for."""


@dataclass(frozen=True)
class Arrival:
    """When what was copied so far has arrived; at once where nothing had to be copied."""

    event: torch.cuda.Event | None

    @classmethod
    def after(cls, like: Tensor) -> Arrival:
        """Of the copies from the device of `like` that were begun before."""
        if not like.is_cuda:
            return cls(None)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(like.device))
        return cls(event)

    def is_ready(self) -> bool:
        """Whether all numbers have arrived; does not wait."""
        return self.event is not None and self.event.query()

    def wait(self) -> None:
        """Wait until all numbers have arrived."""
        if self.event is not None:
            self.event.synchronize()


def must_wait(tensor: Tensor) -> bool:
    """Whether reading a number of it would stop the program until its GPU is done."""
    return tensor.is_cuda


def is_capturing(tensor: Tensor) -> bool:
    """Whether the call is being recorded for a CUDA graph, of which nothing else may become a part."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def to_host(value: Tensor) -> Tensor:
    """A copy on the CPU, which arrives when its GPU is done."""
    value = value.detach()
    return value.clone() if value.device.type == "cpu" else value.to("cpu", non_blocking=True)


def shape_of(features: Tensor) -> Tensor:
    """A tensor of this shape and type without memory of its own."""
    return torch.zeros((), dtype=features.dtype, device="cpu").expand(features.shape)
