"""What the modules share: an operator with its options kept, under the names that its constructor gives them."""

import inspect

from torch import nn


class RoIModule(nn.Module):
    """A module whose attributes are what its constructor takes.

    It shows them as torchvision's modules do, and of roialign's own, keyword-only options those that were given.
    """

    def extra_repr(self) -> str:
        options = inspect.signature(type(self)).parameters.values()
        values = [(option, getattr(self, option.name)) for option in options]
        return ", ".join(
            f"{option.name}={value!r}"
            for option, value in values
            if option.kind is not option.KEYWORD_ONLY or value != option.default
        )
