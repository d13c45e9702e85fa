"""What the modules share: an operator with its options kept, under the names that its constructor gives them."""

import inspect
from typing import NoReturn

from torch import nn

from roialign.errors import ExportError


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


class UnscriptedRoIModule(RoIModule):
    """One that is new with this library, which TorchScript, deprecated by then, is not given."""

    def __prepare_scriptable__(self) -> NoReturn:  # torch.jit.script asks for it first
        raise ExportError(
            "RA602: expected a module that torch.jit.script takes, one of torchvision's names; got "
            f"{type(self).__name__}. Use torch.jit.trace, torch.compile or torch.export."
        )
