"""How well healthy boxes would look like these: whichever way boxes are made less likely, the sum falls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roialign.doctor.explanations.likelihood import log_likelihood

HEALTHY = torch.tensor([[2.0, 3, 20, 18], [10, 5, 31, 39], [30, 20, 52, 31], [40, 8, 63, 30], [5, 22, 18, 39]]).double()
CONTENT = torch.tensor([0.0, 0.0, 64.0, 40.0]).double()


def fit(cells: Tensor, per_unit: float = 1.0) -> float:
    """Of one explanation, beside the healthy boxes as called."""
    both = torch.stack([HEALTHY, cells])
    units = torch.ones(2, len(cells), 2).double()
    units[1] *= per_unit
    options = (torch.full((2,), 16.0).double(), torch.zeros(2).double(), torch.ones(len(cells), dtype=torch.bool))
    rest = (torch.ones(2, dtype=torch.bool), torch.zeros(len(cells), dtype=torch.bool), len(cells), False)
    healthy, other = log_likelihood(both, units, CONTENT.expand_as(both), *options, *rest).tolist()
    return float(other - healthy)


LESS_LIKELY = {
    "beyond the border": HEALTHY + torch.tensor([40.0, 0, 40, 0]),
    "far beyond it": HEALTHY + torch.tensor([4000.0, 0, 4000, 0]),
    "inverted": HEALTHY[:, [2, 1, 0, 3]],
    "without a width": HEALTHY[:, [0, 1, 0, 3]],
    "far smaller than a cell": HEALTHY / 640,
    "in a corner": HEALTHY / 8,
}

PER_UNIT = {"far smaller than a cell": 1 / 640, "in a corner": 1 / 8}


@pytest.mark.parametrize("name", LESS_LIKELY)
def test_what_is_less_likely(name: str) -> None:
    assert fit(HEALTHY) == pytest.approx(0)
    assert fit(LESS_LIKELY[name], PER_UNIT.get(name, 1.0)) < -2


def test_the_further_the_less_and_no_end_of_it() -> None:
    terms = [fit(HEALTHY + torch.tensor([shift, 0, shift, 0])) for shift in (0.0, 40.0, 120.0, 4e3, 4e6)]
    assert terms == sorted(terms, reverse=True)
    assert terms[-1] == pytest.approx(terms[-2], abs=1e-3)
    assert terms[-1] > -200


@pytest.mark.parametrize("value", [0.0, -5.0, 1e9])
def test_it_is_finite_for_any_boxes(value: float) -> None:
    assert abs(fit(torch.full_like(HEALTHY, value))) < 1e4


def test_clipped_sides_speak_for_their_border() -> None:
    clipped = HEALTHY.clone()
    clipped[[1, 4], 3] = 40.0
    assert fit(clipped) > 0.5
