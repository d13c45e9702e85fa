"""Grids: what they hold, and the numbers that cannot be one."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from roialign.errors import FeatureMapError, ScaleError
from roialign.geometry import FeatureGrid

NAN, INF = math.nan, math.inf


def test_numbers_of_any_library_are_kept_as_pythons():
    grid = FeatureGrid(torch.zeros(1, 8, 3, 4).shape[-2:], [np.float32(2), torch.tensor(4)], np.array([1, Fraction(2)]))
    assert grid == FeatureGrid((3, 4), (2.0, 4.0), (1.0, 2.0))
    assert hash(grid) == hash(FeatureGrid((3, 4), (2.0, 4.0), (1.0, 2.0)))
    assert repr(grid) == repr(FeatureGrid((3, 4), (2, 4), (1, 2)))
    assert FeatureGrid((3, 4), (2.0, 4.0)).offset_yx == (1.0, 2.0)
    assert FeatureGrid((3, 4), (2.0, 4.0), (-7.5, 0.0)).offset_yx == (-7.5, 0.0)


@pytest.mark.parametrize(
    "size_hw", [(1.5, 1), (0, 4), (-3, 4), (True, True), (3,), (3, 4, 5), 3, None, "34", (NAN, 4), (INF, 4), (None, 4)]
)
def test_sizes_that_no_map_has(size_hw):
    with pytest.raises(FeatureMapError, match=r"^RA306: expected size_hw, cells \(height, width\), whole .*; got "):
        FeatureGrid(size_hw, (4.0, 4.0))


@pytest.mark.parametrize(
    "stride_yx", [(0.0, 4.0), (-4.0, 4.0), (NAN, 4.0), (4.0, INF), (4.0,), 4.0, None, "44", ("4", "4"), (True, 4.0)]
)
def test_strides_that_no_map_has(stride_yx):
    with pytest.raises(ScaleError, match=r"^RA105: expected stride_yx, two finite numbers \(y, x\) above zero; got "):
        FeatureGrid((3, 4), stride_yx)


@pytest.mark.parametrize("name", ["offset_yx", "structural_offset_yx", "calibrated_offset_yx"])
@pytest.mark.parametrize("offset_yx", [(NAN, 0.0), (0.0, -INF), (0.5,), 0.5, "x", (None, 0.5)])
def test_offsets_that_are_no_numbers(name, offset_yx):
    with pytest.raises(FeatureMapError, match=rf"^RA111: expected {name} in two finite numbers \(y, x\), .*; got "):
        FeatureGrid((3, 4), (4.0, 4.0), **{name: offset_yx})


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("receptive_field_hw", (0, 3), "RA306"),
        ("receptive_field_hw", (1.5, 3), "RA306"),
        ("channels", 0, "RA306"),
        ("channels", "8", "RA306"),
        ("offset_range_yx", ((0.0, NAN), (0.0, 1.0)), "RA111"),
        ("offset_range_yx", (0.0, 1.0), "RA111"),
        ("offset_range_yx", 3, "RA111"),
    ],
)
def test_other_numbers_that_cannot_be(name, value, code):
    with pytest.raises(FeatureMapError, match=f"^{code}: expected {name}.*; got "):
        FeatureGrid((3, 4), (4.0, 4.0), **{name: value})


@pytest.mark.parametrize("kind", ["x", "", None, 3, ["convention"]])
def test_an_offset_that_there_is_not(kind):
    with pytest.raises(FeatureMapError, match=r'^RA111: expected an offset, one of "convention", "structural", "cal'):
        FeatureGrid((3, 4), (4.0, 4.0)).with_offset(kind)
