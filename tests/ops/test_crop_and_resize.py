"""`crop_and_resize`: against TensorFlow's definition as loops."""

import math
import random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import roialign
from roialign import errors

from .tolerances import assert_close

IMAGE = torch.rand(2, 3, 6, 8)
BOXES = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 1.0, 1.0]])
INDICES = torch.tensor([1, 0])


def place(low: float, high: float, i: int, count: int, extent: int) -> float:
    if count > 1:
        return low * (extent - 1) + i * (high - low) * (extent - 1) / (count - 1)
    return 0.5 * (low + high) * (extent - 1)


def brute_force(image: Tensor, boxes: Tensor, indices: Tensor, size_hw: tuple[int, int], outside: float) -> Tensor:
    _, channels, height, width = image.shape
    output = torch.full((len(boxes), channels, *size_hw), outside, dtype=torch.float64)
    for k, (y1, x1, y2, x2) in enumerate(boxes.double().tolist()):
        plane = image[int(indices[k])].double()
        for i in range(size_hw[0]):
            y = place(y1, y2, i, size_hw[0], height)
            for j in range(size_hw[1]):
                x = place(x1, x2, j, size_hw[1], width)
                if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                    top, bottom, left, right = math.floor(y), math.ceil(y), math.floor(x), math.ceil(x)
                    upper = plane[:, top, left].lerp(plane[:, top, right], x - left)
                    lower = plane[:, bottom, left].lerp(plane[:, bottom, right], x - left)
                    output[k, :, i, j] = upper.lerp(lower, y - top)
    return output


def random_call(seed: int) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], float]:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 20), rng.randint(1, 20)
    count = rng.randint(1, 5)
    boxes = torch.rand(count, 4, generator=generator) * rng.choice([1.0, 1.0, 2.0]) - rng.choice([0.0, 0.3])
    if rng.random() < 0.2:
        boxes = boxes.round()  # on the borders
    indices = torch.randint(shape[0], (count,), generator=generator)
    return torch.randn(shape, generator=generator), boxes, indices, (rng.randint(1, 5), rng.randint(1, 5)), 7.5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_the_definition(dtype, tolerance):
    """Positions are rounded in another order than TensorFlow's: float32 results differ by some rounding steps."""
    for seed in range(250):
        image, boxes, indices, size_hw, outside = random_call(seed)
        boxes = boxes.to(dtype)
        found = roialign.crop_and_resize(image.to(dtype), boxes, indices, size_hw, outside)
        expected = brute_force(image.to(dtype), boxes, indices, size_hw, outside)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=tolerance * float(image.abs().max()), rtol=0)


def test_a_flipped_box_gives_a_flipped_crop():
    flipped = roialign.crop_and_resize(IMAGE, BOXES[:, [2, 3, 0, 1]], INDICES, (3, 4))
    assert_close(flipped.flip(-1, -2), roialign.crop_and_resize(IMAGE, BOXES, INDICES, (3, 4)), scale=IMAGE)


def test_the_whole_image_is_the_image():
    crop = roialign.crop_and_resize(IMAGE, BOXES[1:], INDICES[1:], (6, 8))
    assert_close(crop, IMAGE[:1], scale=IMAGE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    found = roialign.crop_and_resize(IMAGE.to(dtype), BOXES, INDICES, 4)
    assert torch.equal(found, roialign.crop_and_resize(IMAGE.to(dtype).float(), BOXES, INDICES, 4).to(dtype))


def test_finite_differences_agree():
    image, boxes = IMAGE[:, :2].double().requires_grad_(), (BOXES[:1].double() + 0.013).requires_grad_()
    assert gradcheck(
        lambda *tensors: roialign.crop_and_resize(*tensors, INDICES[:1], (3, 4)), (image, boxes), atol=1e-6
    )


def test_compiles_in_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(roialign.crop_and_resize, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGE, BOXES, INDICES, 4), roialign.crop_and_resize(IMAGE, BOXES, INDICES, 4))


def test_no_boxes():
    assert roialign.crop_and_resize(IMAGE, BOXES[:0], INDICES[:0], (2, 3)).shape == (0, 3, 2, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": IMAGE[0]}, errors.FeatureMapError, r"RA306: .*\[N, C, H, W\]"),
        ({"boxes": [BOXES]}, errors.BoxesShapeError, r"RA210: expected boxes as a tensor \[K, 4\] \(y1, x1, y2, x2\)"),
        ({"boxes": BOXES.double()}, errors.DtypeError, r"RA505: expected float32 boxes"),
        ({"box_indices": INDICES.float()}, errors.BatchIndexError, r"RA206: expected box_indices, integers \[2\]"),
        ({"box_indices": INDICES[:1]}, errors.BatchIndexError, r"RA206: .*got int64 tensor \[1\]"),
        ({"box_indices": INDICES + 1}, errors.BatchIndexError, r"RA206: "),
        ({"boxes": BOXES * float("nan")}, errors.BoxesValueError, r"RA205: "),
        ({"crop_size": 0}, errors.OutputSizeError, r"RA506: "),
    ],
)
def test_refused(change, error, message):
    good = {"image": IMAGE, "boxes": BOXES, "box_indices": INDICES, "crop_size": 4}
    with pytest.raises(error, match=f"^{message}"):
        roialign.crop_and_resize(**good | change)
