"""The mean and the standard deviation that images are normalized by."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from roialign.errors import FeatureMapError, OptionError
from roialign.regions import RegionExtractor

NAN = math.nan


def extractor(**options) -> RegionExtractor:
    return RegionExtractor(nn.Conv2d(3, 4, 4, stride=4), 2, **options)


@pytest.mark.parametrize(
    "std", [0, 0.0, (0.2, 0.0, 0.2), (0.2, -0.2, 0.2), NAN, (NAN, 1, 1), math.inf, "x", [], [None]]
)
def test_deviations_that_cannot_be_divided_by(std):
    with pytest.raises(OptionError, match=r"^RA506: expected std, a finite number above zero for each channel; got "):
        extractor(std=std)


@pytest.mark.parametrize("mean", [NAN, (0.5, NAN, 0.5), math.inf, "x", (), {}, 10**400, [[1, 2], [3]]])
def test_means_that_are_no_numbers(mean):
    with pytest.raises(OptionError, match=r"^RA506: expected mean, a finite number for each channel; got "):
        extractor(mean=mean)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_values_for_other_channels(name):
    with pytest.raises(FeatureMapError, match=rf"^RA307: expected images of 4 channels, for which {name} has values"):
        extractor(**{name: (0.5,) * 4}).prepare(torch.rand(3, 8, 8))


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_images_are_normalized(kind):
    image = torch.rand(3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    prepared = extractor(mean=kind(mean), std=kind(std)).prepare(image).pixels[0]
    expected = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(prepared, expected)
    assert torch.equal(extractor(mean=0.5, std=2).prepare(image).pixels[0], (image - 0.5) / 2)
