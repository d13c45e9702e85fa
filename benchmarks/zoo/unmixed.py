"""A model without what mixes the whole image, so that a cell sees its own place and no more.

Attention leaves each token its own value, gates and normalisations take no statistics of the image. The functions of
torch are replaced while it runs, and not its modules, so that it serves any library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Unmixed(nn.Module):
    """A model that runs so."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.acted: set[str] = set()
        """The functions that were another than torch's."""

    def forward(self, image: Tensor) -> Any:
        with _functions_replaced(self.acted):
            return self.model(image)


@contextmanager
def _functions_replaced(acted: set[str]) -> Iterator[None]:
    with ExitStack() as exits:
        for owner, name, make in _REPLACED:
            exits.enter_context(
                mock.patch.object(owner, name, make(getattr(owner, name), functools.partial(acted.add, name)))
            )
        fast = torch.backends.mha.get_fastpath_enabled()
        exits.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


_Function = Callable[..., Any]
_Note = Callable[[], None]  # to be called where something else is done than torch does


def _own_value(_: _Function, note: _Note) -> _Function:
    """For attention: the value of the token itself; nothing where queries are others than keys."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        note()
        if query.shape[-2] != value.shape[-2]:
            return query.new_zeros(*query.shape[:-1], value.shape[-1])
        if query.ndim == 4 and query.shape[1] != value.shape[1]:  # several queries share a value
            return value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return value

    return attention


def _to_itself(real: _Function, note: _Note) -> _Function:
    """For the softmax of attention: each token looks at itself; at nothing where queries are others than keys."""

    def softmax(scores: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
        if scores.ndim < 3 or dim not in (-1, scores.ndim - 1):
            return real(scores, dim, *args, **kwargs)
        note()
        weights = scores.new_zeros(scores.shape)
        if scores.shape[-1] == scores.shape[-2]:
            weights.diagonal(dim1=-2, dim2=-1).fill_(1)
        weights.of_attention = True  # for what multiplies values by it
        return weights

    return softmax


def _of_itself(real: _Function, note: _Note) -> _Function:
    """For the product of such weights and values: 0 * NaN would be NaN, and a product mixes for who looks at shapes."""

    def product(weights: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(weights, "of_attention", False) and weights.shape[:-2] == values.shape[:-2]:
            return _own_value(real, note)(weights, weights, values)
        return real(weights, values, *args, **kwargs)

    return product


def _kept_in_eval(real: _Function, _: _Note) -> _Function:
    """For dropout, which otherwise returns another tensor object."""

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, *args: Any, **kwargs: Any) -> Any:
        return real(values, p, training, *args, **kwargs) if training else values

    return dropout


def _as_it_is(_: _Function, note: _Note) -> _Function:
    def norm(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        note()
        return values

    return norm


def _constant_if_one_cell(real: _Function, note: _Note) -> _Function:
    def pool(values: Tensor, size: Any, *args: Any, **kwargs: Any) -> Any:
        pooled = real(values, size, *args, **kwargs)
        if not isinstance(pooled, Tensor) or pooled.shape[-2:].numel() > 1:
            return pooled
        note()
        return torch.ones_like(pooled)

    return pool


def _constant_over_the_image(real: _Function, note: _Note) -> _Function:
    """For means, maxima and norms: of a whole map or of all tokens a constant."""

    def statistic(values: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = real(values, *args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        dims = kwargs.get("dim", next((a for a in args if isinstance(a, (int, tuple, list)) and a != 2), None))
        if isinstance(dims, int):
            over = values.ndim == 3 and dims in (1, -2)
        else:
            dims = sorted(d % values.ndim for d in dims or ())
            over = values.ndim == 4 and dims in ([2, 3], [1, 2])
        if not over:
            return result
        note()
        return torch.ones_like(result)

    return statistic


_REPLACED: tuple[tuple[Any, str, Callable[[_Function, _Note], _Function]], ...] = (
    (F, "scaled_dot_product_attention", _own_value),
    (F, "dropout", _kept_in_eval),
    *((owner, "softmax", _to_itself) for owner in (F, torch, Tensor)),
    *((owner, name, _of_itself) for owner in (torch, Tensor) for name in ("matmul", "bmm")),
    (Tensor, "__matmul__", _of_itself),
    *((F, name, _as_it_is) for name in ("group_norm", "instance_norm")),
    *((F, f"adaptive_{name}_pool2d", _constant_if_one_cell) for name in ("avg", "max")),
    *((owner, name, _constant_over_the_image) for owner in (torch, Tensor) for name in ("mean", "amax", "norm")),
)
