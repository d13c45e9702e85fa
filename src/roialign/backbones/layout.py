"""How to find the maps in what a backbone returns, and to turn each into [N, C, H, W]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roialign.errors import FeatureMapError

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Layout:
    """Which output of a backbone a map is, and the order of its dimensions.

    Convention: sizes are (height, width) in cells, at the image size that was traced.

    Args:
        path: keys and indices through nested outputs; () for a plain tensor.
        kind: the dimensions in order: "NCHW", "NHWC", ...; "NHW" has no channels; "tokens" has all cells in one.
        size_hw: cells of the map.
        channels: channels of the map.
        prefix: leading tokens without a place, such as class and register tokens.
        token_dim: dimension of the tokens: 1 for [N, L, C], 2 for [N, C, L].
        order: which token (after the prefix) each cell is, rows first; None if they are in that order.
    """

    path: Path
    kind: str
    size_hw: tuple[int, int]
    channels: int
    prefix: int = 0
    token_dim: int = 1
    order: tuple[int, ...] | None = None

    def pick(self, outputs: Any) -> Tensor:
        """The output that holds the map, as the backbone returned it."""
        for key in self.path:
            outputs = outputs[key]
        if not isinstance(outputs, Tensor):
            raise FeatureMapError(
                f"RA305: expected a tensor at {'.'.join(map(str, self.path)) or 'the output'}; "
                f"got {type(outputs).__name__}. Trace the backbone as it is called now."
            )
        return outputs

    def as_map(self, output: Tensor, size_hw: tuple[int, int] | None = None) -> Tensor:
        """`output` as [N, C, H, W], a view where its memory allows; `size_hw` for tokens of another image size."""
        if self.kind == "tokens":
            return self._tokens_as_map(output, size_hw or self.size_hw)
        if output.ndim != len(self.kind):
            raise FeatureMapError(f"RA305: expected {self.kind}; got shape {list(output.shape)}. Trace again.")
        if "C" not in self.kind:
            return output.unsqueeze(1)
        if self.kind == "NCHW":
            return output
        return output.permute([self.kind.index(letter) for letter in "NCHW"])

    def find(self, outputs: Any, size_hw: tuple[int, int] | None = None) -> Tensor:
        """The map [N, C, H, W] out of all that the backbone returned."""
        return self.as_map(self.pick(outputs), size_hw)

    def _tokens_as_map(self, output: Tensor, size_hw: tuple[int, int]) -> Tensor:
        height, width = size_hw
        if output.ndim != 3 or output.shape[self.token_dim] != self.prefix + height * width:
            raise FeatureMapError(
                f"RA305: expected {self.prefix} + {height} x {width} tokens in dimension {self.token_dim}; got shape "
                f"{list(output.shape)}. Trace the backbone at this image size."
            )
        tokens = output.transpose(1, 2) if self.token_dim == 1 else output
        cells = tokens[:, :, self.prefix :]
        if self.order is not None:
            cells = cells[:, :, list(self.order)]
        return cells.reshape(*cells.shape[:2], height, width)


def named_outputs(outputs: Any, path: Path = ()) -> Iterator[tuple[str, Path, Any]]:
    """Name, path and value of each leaf of nested outputs that is not None, in order."""
    if isinstance(outputs, Mapping):
        items: Any = outputs.items()
    elif isinstance(outputs, (list, tuple)):
        items = enumerate(outputs)
    elif outputs is None:
        return
    else:
        yield ".".join(map(str, path)) or "0", path, outputs
        return
    for key, value in items:
        yield from named_outputs(value, (*path, key))
