"""What docs/migrate.md says of kornia and OpenVINO, asked of them: run by `make compare-peers`, which installs both."""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import onnx.parser
import pytest
import torch
from torch import Tensor

import roialign

FEATURES = torch.randn(2, 5, 20, 30, generator=torch.Generator().manual_seed(0))


def rois(count: int, seed: int) -> Tensor:
    """[K, 5] in cells of FEATURES, some beyond its border."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([30.0, 20.0]) - 4
    sides = torch.rand(count, 2, generator=generator) * 18 + 0.1
    images = torch.randint(2, (count, 1), generator=generator)
    return torch.cat([images, corners, corners + sides], 1)


@pytest.fixture
def openvino() -> ModuleType:
    return pytest.importorskip("openvino", reason="OpenVINO is not installed: make compare-peers")


@pytest.fixture
def kornia() -> ModuleType:
    return pytest.importorskip("kornia", reason="kornia is not installed: make compare-peers")


def run(openvino: ModuleType, model: Any, inputs: Any) -> Tensor:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled(inputs)[0])


def pooled_as_onnx(openvino: ModuleType, boxes: Tensor, sampling_ratio: int | None) -> Tensor:
    """By a model of ONNX's operator, which may leave `sampling_ratio` out."""
    ratio = "" if sampling_ratio is None else f", sampling_ratio = {sampling_ratio}"
    text = f"""<ir_version: 8, opset_import: ["": 16]> pool (float[n, c, h, w] x, float[k, 4] boxes, int64[k] images)
        => (float[k, c, 3, 4] y) {{ y = RoiAlign <output_height = 3, output_width = 4, spatial_scale = 0.5{ratio}>
        (x, boxes, images) }}"""
    model = openvino.Core().read_model(onnx.parser.parse_model(text).SerializeToString())
    given = {"x": FEATURES, "boxes": boxes[:, 1:] * 2, "images": boxes[:, 0].long()}
    return run(openvino, model, {name: np.ascontiguousarray(value) for name, value in given.items()})


def pooled_as_operation(
    openvino: ModuleType, boxes: Tensor, sampling_ratio: int, mode: str, aligned_mode: str
) -> Tensor:
    """By OpenVINO's own operation, which has a mode more than ONNX."""
    operations = import_module("openvino.opset9")
    given = (FEATURES, boxes[:, 1:] * 2, boxes[:, 0].int())
    constants = [operations.constant(np.ascontiguousarray(value)) for value in given]
    node = operations.roi_align(*constants, 3, 4, sampling_ratio, 0.5, mode, aligned_mode)
    return run(openvino, openvino.Model([node], []), [])


def pooled(boxes: Tensor, sampling_ratio: int, mode: str, aligned: bool) -> Tensor:
    """By roialign: 3 x 4 bins, boxes in pixels of an image twice the size of the map."""
    scaled = boxes * torch.tensor([1.0, 2, 2, 2, 2])
    return roialign.roi_align(FEATURES, scaled, (3, 4), 0.5, sampling_ratio, aligned, mode=mode)


@pytest.mark.filterwarnings("ignore::roialign.RoIWarning")
@pytest.mark.parametrize("aligned_mode", ["asymmetric", "half_pixel_for_nn", "half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
def test_openvino(openvino, aligned_mode, mode, sampling_ratio):
    boxes = rois(100, seed=sampling_ratio)
    shifted = boxes + torch.tensor([0, 0.25, 0.25, 0.25, 0.25]) * (aligned_mode == "half_pixel")  # half a pixel
    ours = pooled(shifted, sampling_ratio, mode, aligned_mode != "asymmetric")
    ours = ours.clamp(min=0) if mode == "max" else ours
    theirs = pooled_as_operation(openvino, boxes, sampling_ratio, mode, aligned_mode)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore::roialign.RoIWarning")
def test_openvino_takes_one_sample_where_a_model_says_nothing(openvino):
    boxes = rois(50, seed=9)
    theirs = pooled_as_onnx(openvino, boxes, None)
    torch.testing.assert_close(theirs, pooled(boxes, 1, "avg", True), rtol=1e-5, atol=2e-5)
    adaptive = pooled_as_onnx(openvino, boxes, 0)
    torch.testing.assert_close(adaptive, pooled(boxes, 0, "avg", True), rtol=1e-5, atol=2e-5)
    assert not torch.allclose(theirs, adaptive, atol=1e-2)


def corners_of(x1: int, y1: int, x2: int, y2: int) -> Tensor:
    return torch.tensor([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], dtype=torch.float32)


@pytest.mark.parametrize("size", [(2, 2), (5, 3), (7, 7), (10, 8)])
def test_kornia_within_the_image(kornia, size):
    image, generator = FEATURES[:1], torch.Generator().manual_seed(sum(size))
    for _ in range(20):
        x1, y1 = (int(torch.randint(high, (), generator=generator)) for high in (20, 10))
        x2, y2 = x1 + int(torch.randint(1, 10, (), generator=generator)), y1 + 9
        theirs = kornia.geometry.transform.crop_and_resize(image, corners_of(x1, y1, x2, y2), size)
        boxes_yxyx = torch.tensor([[y1 / 19, x1 / 29, y2 / 19, x2 / 29]])
        ours = roialign.crop_and_resize(image, boxes_yxyx, torch.tensor([0]), size)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5)


def test_kornia_off_the_image_fades_over_a_pixel(kornia):
    image, corners = torch.ones(1, 1, 20, 30), corners_of(-2, 0, 2, 4)
    theirs = kornia.geometry.transform.crop_and_resize(image, corners, (3, 9))[0, 0, 0]
    ours = roialign.crop_and_resize(image, torch.tensor([[0, -2 / 29, 4 / 19, 2 / 29]]), torch.tensor([0]), (3, 9))
    assert theirs.tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1, 1, 1, 1], abs=1e-5)
    assert ours[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_kornia_fails_where_docs_say_so(kornia):
    image = FEATURES[:1]
    assert kornia.geometry.transform.crop_and_resize(image, corners_of(3, 3, 3, 8), (4, 4)).isnan().any()  # no width
    assert kornia.geometry.transform.crop_and_resize(image, corners_of(2, 2, 9, 9), (1, 1)).isnan().any()
    with pytest.raises(RuntimeError, match="must match the existing size"):  # two boxes for one image
        kornia.geometry.transform.crop_and_resize(image, corners_of(2, 2, 9, 9).repeat(2, 1, 1), (4, 4))


def test_kornia_boxes_store_inclusive_corners(kornia):
    boxes = kornia.geometry.boxes.Boxes.from_tensor(torch.tensor([[1.0, 1.0, 3.0, 4.0]]), mode="xyxy")
    assert boxes.data[0, [0, 2]].tolist() == [[1.0, 1.0], [2.0, 3.0]]
    assert boxes.to_tensor("xyxy").tolist() == [[1.0, 1.0, 3.0, 4.0]]
