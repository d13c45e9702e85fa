"""The libraries that backbones come from, as far as those below need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import nn


class Built(NamedTuple):
    """A backbone that was built by name."""

    backbone: nn.Module
    mean: Sequence[float] | None
    """Of each channel, as it was trained with; None where the library does not say."""
    std: Sequence[float] | None


class Library(Protocol):
    """What is known of models of other libraries."""

    def build(self, model: str, pretrained: bool) -> Built:
        """The backbone of this name, "timm/resnet50", for images of any size that it takes, in eval mode."""

    def with_maps(self, module: nn.Module) -> nn.Module:
        """`module`; of a classifier that is known, a module that returns its maps."""


known: Library | None = None
"""Set by `roialign.integrations.named`."""


def current() -> Library:
    """Raises RuntimeError before `import roialign` is done."""
    if known is None:
        raise RuntimeError("models are built by name once roialign.integrations.named was imported")
    return known
