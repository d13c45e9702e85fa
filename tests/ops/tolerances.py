"""How far two results may differ, by type: one table for all operator tests, here and in CI.

Each is relative to a scale that the caller names: the largest feature for pooled values, the largest
expected value for gradients. Sample positions are computed in one order everywhere, so results differ by
the order of summation and by the last rounding only.
"""

import torch
from torch import Tensor

RELATIVE = {
    torch.float64: 1e-12,  # a few thousand summands at 1.1e-16 each
    torch.float32: 1e-5,  # the same at 6e-8: the bound promised to those who come from torchvision
    torch.float16: 6e-4,  # computed in float32, then rounded once: half of 2**-10
    torch.bfloat16: 4.5e-3,  # computed in float32, then rounded once: half of 2**-7
}


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; infinite where one is NaN."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    if actual.numel() == 0:
        return 0.0
    differences = (actual.detach().double() - expected.detach().double()).abs()
    return float(differences.nan_to_num(nan=float("inf")).max())


def magnitude(tensor: Tensor) -> float:
    """The largest absolute value, 0 for an empty tensor."""
    return float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0


def assert_close(actual: Tensor, expected: Tensor, scale: Tensor, dtype: torch.dtype | None = None) -> None:
    """Hold `actual` against `expected` within the tolerance of `dtype`, the type of `actual` if not given."""
    allowed = RELATIVE[dtype or actual.dtype] * magnitude(scale)
    found = difference(actual, expected)
    assert found <= allowed, f"differs by {found:.3g}, allowed {allowed:.3g} ({actual.dtype})"


def assert_close_where_finite(actual: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Both finite in the same places, and close there; `scale` may have values that are not finite."""
    finite = expected.isfinite()
    differing = int((actual.isfinite() != finite).sum())
    assert differing == 0, f"{differing} of {finite.numel()} values are finite in one of the two only"
    zero = torch.zeros((), dtype=actual.dtype)
    assert_close(actual.where(finite, zero), expected.where(finite, zero), scale.where(scale.isfinite(), zero))


def assert_same_kinds(actual: Tensor, expected: Tensor) -> None:
    """NaN, infinity and minus infinity in the same places."""
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        differing = int((kind(actual) != kind(expected)).sum())
        assert differing == 0, f"{kind.__name__} differs in {differing} of {actual.numel()} values"
