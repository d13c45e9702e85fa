"""What pools from pyramids says of arguments that are of another kind altogether."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from roialign import Boxes, FeatureGrid, FPNLevels, Frame, MultiScaleRoIAlign, errors, pool_regions

MAP, BOXES = torch.rand(1, 2, 8, 8), [torch.tensor([[1.0, 1.0, 30.0, 30.0]])]
GRID = FeatureGrid((8, 8), (4.0, 4.0))
FRAME = Frame.image((32, 32))


def kind(value: Any) -> str:
    return type(value).__name__


def refused(call: Any) -> str:
    with pytest.raises(errors.RoIError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize("grids", [None, "a", 4.0, [None], {"a": None}, ((8, 8), (4, 4))], ids=kind)
@pytest.mark.parametrize("features", [MAP, [MAP], {"a": MAP}], ids=["one", "list", "dict"])
def test_grids(features: Any, grids: Any) -> None:
    assert refused(lambda: pool_regions(features, BOXES, 2, grids)).startswith("RA401: expected a FeatureGrid for each")


@pytest.mark.parametrize("features", [None, "a", 4.0, [None], {"a": [MAP]}], ids=kind)
def test_features(features: Any) -> None:
    assert refused(lambda: pool_regions(features, BOXES, 2, GRID)).startswith("RA306: expected a feature map")


@pytest.mark.parametrize("boxes", [None, 4.0, "a", [None], {"a": BOXES[0]}, [[1, 2, 3, 4]]], ids=kind)
def test_boxes(boxes: Any) -> None:
    assert refused(lambda: pool_regions(MAP, boxes, 2, GRID)).startswith("RA210: expected boxes as a tensor [K, 5]")


@pytest.mark.parametrize("frames", ["a", (32, 32), [None], 4.0], ids=kind)
def test_frames(frames: Any) -> None:
    assert refused(lambda: pool_regions(MAP, Boxes(BOXES[0], FRAME), 2, GRID, frames=frames)).startswith(
        "RA107: expected frames, the Frame of each image"
    )


@pytest.mark.parametrize(
    "shapes",
    [
        None,
        (32, 32),
        torch.tensor([[32, 32]]),
        [(3, 32, 32)],
        "ab",
        [(0, 32)],
        [(float("nan"), 32)],
        {"a": (32, 32)},
        [],
    ],
    ids=kind,
)
def test_image_shapes(shapes: Any) -> None:
    pooler = MultiScaleRoIAlign(["a"], 2, 2)
    assert refused(lambda: pooler({"a": MAP}, BOXES, shapes)).startswith("RA401: expected image_shapes, a list with")


@pytest.mark.parametrize("maps", [None, MAP, [MAP], "a"], ids=["None", "tensor", "list", "word"])
def test_maps_without_names(maps: Any) -> None:
    pooler = MultiScaleRoIAlign(["a"], 2, 2)
    assert refused(lambda: pooler(maps, BOXES, [(32, 32)])).startswith("RA401: expected feature maps by name, a dict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"featmap_names": None}, "RA401: expected featmap_names"),
        ({"featmap_names": [3]}, "RA401: expected featmap_names"),
        ({"scales": 0.25}, "RA401: expected scales, one for each"),
        ({"aligned": "no"}, "RA506: expected aligned"),
        ({"canonical_scale": "a"}, "RA401: expected canonical_size"),
        ({"canonical_scale": -1.0}, "RA401: expected canonical_size"),
        ({"canonical_level": float("nan")}, "RA401: expected canonical_size"),
    ],
    ids=kind,
)
def test_options_are_checked_when_the_module_is_made(options: dict[str, Any], message: str) -> None:
    given = {"featmap_names": ["a"], "output_size": 2, "sampling_ratio": 2} | options
    assert refused(lambda: MultiScaleRoIAlign(**given)).startswith(message)


def test_levels_of_no_size() -> None:
    assert refused(lambda: FPNLevels(0.0, 4)).startswith("RA401: expected canonical_size, pixels above zero")


def test_boxes_that_are_not_dense() -> None:
    for values in (BOXES[0].to_sparse(), BOXES[0].to_mkldnn(), torch.nested.nested_tensor(BOXES)):
        assert refused(lambda values=values: Boxes(values, FRAME)).startswith("RA505: expected dense boxes [N, 4]")
