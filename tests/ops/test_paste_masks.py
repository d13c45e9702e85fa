"""`paste_masks`: against detectron2's rule by `grid_sample`, torchvision's function, and finite differences."""

import math
import random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import grid_sample
from torchvision.models.detection.roi_heads import paste_masks_in_image

import roialign
from roialign import errors

from .tolerances import assert_close


def random_call(seed: int, square: bool = False) -> tuple[Tensor, Tensor, tuple[int, int]]:
    rng = random.Random(seed)
    size_hw = rng.randint(1, 60), rng.randint(1, 60)
    count, m = rng.randint(1, 6), rng.choice([1, 2, 7, 14, 28])
    n = m if square else rng.choice([1, 3, 14, 28])
    masks = torch.rand(count, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = []
    for _ in range(count):
        place = rng.choice(["inside", "inside", "across", "tiny", "outside", "whole pixels"])
        (y1, y2), (x1, x2) = (sorted((rng.uniform(0, side), rng.uniform(0, side))) for side in size_hw)
        if place == "across":
            x1, y1, x2, y2 = x1 - 20, y1 - 30, x2 + 25, y2 + 5
        elif place == "tiny":
            x2, y2 = x1 + 0.3, y1 + 0.01
        elif place == "outside":
            x1, x2 = x1 + 100, x2 + 110
        elif place == "whole pixels":
            x1, y1, x2, y2 = math.floor(x1), math.floor(y1), math.ceil(x2) + 1, math.ceil(y2) + 1
        boxes.append((x1, y1, x2, y2))
    return masks, torch.tensor(boxes, dtype=torch.float32).double(), size_hw


def by_grid_sample(masks: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """detectron2's rule on the CPU, from its definition: zeros beyond a pixel around the box."""
    pasted = masks.new_zeros(len(masks), *size_hw)
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        rows = range(max(math.floor(y1) - 1, 0), min(math.ceil(y2) + 1, size_hw[0]))
        columns = range(max(math.floor(x1) - 1, 0), min(math.ceil(x2) + 1, size_hw[1]))
        if not rows or not columns or x1 == x2 or y1 == y2:
            continue
        ys = (torch.tensor(rows, dtype=masks.dtype) + 0.5 - y1) / (y2 - y1) * 2 - 1
        xs = (torch.tensor(columns, dtype=masks.dtype) + 0.5 - x1) / (x2 - x1) * 2 - 1
        grid = torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], -1)[None]
        sampled = grid_sample(masks[k][None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        pasted[k, rows.start : rows.stop, columns.start : columns.stop] = sampled[0, 0]
    return pasted


@pytest.mark.parametrize("block", range(4))
def test_equals_detectron2s_rule(block):
    for seed in range(60 * block, 60 * (block + 1)):
        masks, boxes, size_hw = random_call(seed)
        expected = by_grid_sample(masks, boxes, size_hw)
        values = roialign.paste_masks(masks, boxes, size_hw, threshold=None)
        assert_close(values, expected, scale=torch.ones(1))
        pasted = roialign.paste_masks(masks, boxes, size_hw, threshold=0.5)
        clear = (expected - 0.5).abs() > 1e-9
        assert pasted.dtype == torch.bool
        assert torch.equal(pasted[clear], (expected >= 0.5)[clear])


@pytest.mark.parametrize("block", range(4))
def test_equals_torchvisions_function(block):
    for seed in range(60 * block, 60 * (block + 1)):
        masks, boxes, size_hw = random_call(seed, square=True)
        boxes[:, ::2].clamp_(-30, size_hw[1])
        boxes = boxes[(boxes[:, 0] < size_hw[1] - 1) & (boxes[:, 2] > 0)]  # torchvision raises for others
        masks = masks[: len(boxes)]
        expected = paste_masks_in_image(masks[:, None], boxes, size_hw)[:, 0]
        actual = roialign.paste_masks(masks[:, None], boxes, size_hw, threshold=None, compat="torchvision")
        assert_close(actual, expected.reshape(actual.shape), scale=torch.ones(1))


def test_the_two_rules_differ_and_off_the_image_nothing_is_pasted():
    masks, boxes = torch.ones(1, 28, 28), torch.tensor([[10.6, 10.6, 20.4, 20.4]])
    ours, theirs = (
        roialign.paste_masks(masks, boxes, (32, 32), compat=compat) for compat in ("detectron2", "torchvision")
    )
    assert ours.nonzero().amin(0).tolist() == [0, 11, 11]  # the first centre in the box is that of pixel 11
    assert not torch.equal(ours, theirs)
    for compat in ("detectron2", "torchvision"):
        for box in ([-50.0, 3, -30, 9], [3, 40, 9, 60], [1e30, 1, 2e30, 5], [20, 20, 3, 3], [5, 5, 5, 5]):
            pasted = roialign.paste_masks(masks, torch.tensor([box], dtype=torch.float32), (32, 32), compat=compat)
            assert pasted.sum() <= (1 if compat == "torchvision" else 0), (compat, box)


def test_a_mask_that_covers_its_box_is_the_box():
    masks, boxes = torch.ones(3, 28, 28), torch.tensor([[2.0, 3, 9, 12], [0, 0, 40, 30], [5, 5, 6, 6]])
    pasted = roialign.paste_masks(masks, boxes, (30, 40))
    for mask, (x1, y1, x2, y2) in zip(pasted, boxes.int().tolist(), strict=True):
        assert mask[y1:y2, x1:x2].all()
        assert mask.sum() == (y2 - y1) * (x2 - x1)


def test_what_is_pasted_is_found_again():
    """Pooling a pasted mask over its box gives the mask, blurred by interpolation: 1/8, 3/4, 1/8 on each axis."""
    mask = torch.rand(1, 7, 7, dtype=torch.float64)
    boxes = torch.tensor([[10.0, 20, 80, 90]], dtype=torch.float64)
    image = roialign.paste_masks(mask, boxes, (100, 100), threshold=None)
    found = roialign.roi_align(image[:, None], [boxes], 7, sampling_ratio=10, aligned=True)[:, 0]
    eighths = torch.full((6,), 1 / 8, dtype=torch.float64)
    blur = eighths.diag(1) + eighths.diag(-1) + torch.eye(7, dtype=torch.float64) * 3 / 4
    assert_close(found, blur @ mask @ blur, scale=mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compat", ["detectron2", "torchvision"])
def test_types_and_forms(dtype, compat):
    masks, boxes, size_hw = random_call(1, square=True)
    expected = roialign.paste_masks(masks.to(dtype).double(), boxes, size_hw, None, compat=compat)
    actual = roialign.paste_masks(masks.to(dtype), boxes, size_hw, None, compat=compat)
    assert actual.dtype == dtype
    assert_close(actual, expected, scale=torch.ones(1))
    strided = torch.stack([masks, -masks], -1)[..., 0].to(dtype)[:, None]
    assert torch.equal(roialign.paste_masks(strided, boxes, torch.Size(size_hw), None, compat=compat), actual)
    assert roialign.paste_masks(masks[:0], boxes[:0], (5, 6)).shape == (0, 5, 6)
    solid = roialign.paste_masks(masks > -1, boxes, size_hw, compat=compat)
    assert torch.equal(solid, roialign.paste_masks(torch.ones_like(masks), boxes, size_hw, compat=compat))


def test_large_images_are_pasted_in_parts():
    masks, boxes = torch.rand(1, 28, 28, dtype=torch.float64), torch.tensor([[3.3, 5.5, 2490.2, 1790.8]]).double()
    values = roialign.paste_masks(masks, boxes, (1800, 2500), None)
    assert_close(values, by_grid_sample(masks, boxes, (1800, 2500)), scale=torch.ones(1))


def test_the_gradient_of_large_images_is_summed_over_the_parts():
    masks, boxes = torch.rand(1, 9, 9, dtype=torch.float64), torch.tensor([[3.3, 5.5, 4990.2, 290.8]]).double()
    masks.requires_grad_()
    values = roialign.paste_masks(masks, boxes, (300, 5000), None)
    upstream = torch.rand(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(values, masks, upstream)
    assert (gradient * masks).sum().item() == pytest.approx((upstream * values).sum().item(), rel=1e-12)


@pytest.mark.parametrize("compat", ["detectron2", "torchvision"])
def test_finite_differences_agree(compat):
    masks, boxes, _ = random_call(4)
    masks = masks[:3, :7, :7].clone().requires_grad_()

    def paste(masks):
        return roialign.paste_masks(masks, boxes[: len(masks)], (12, 15), None, compat=compat)

    assert gradcheck(paste, (masks,))
    assert gradgradcheck(paste, (masks,))
    assert not roialign.paste_masks(masks, boxes[: len(masks)], (12, 15)).requires_grad


MASKS, BOXES = torch.rand(2, 7, 7), torch.tensor([[0.0, 1, 5, 6], [2, 2, 8, 8]])
REFUSED = [
    ("too few", {"masks": MASKS[:1]}, r"RA309: .*each of 2 boxes"),
    ("of every class", {"masks": MASKS[:, None].expand(2, 91, 7, 7)}, r"RA309: .*Each box needs one mask"),
    ("integers", {"masks": MASKS.int()}, r"RA309: .*masks\.float\(\)"),
    ("no tensor", {"masks": None}, r"RA309: .*got None"),
    ("with an index", {"boxes_xyxy": torch.rand(2, 5)}, r"RA210: .*\[K, 4\]"),
    ("integer boxes", {"boxes_xyxy": BOXES.int()}, r"RA505: .*float\(\)"),
    ("NaN", {"boxes_xyxy": BOXES * math.nan}, r"RA205: .*boxes_xyxy\[0\] = \[nan"),
    ("one number", {"image_size": 30}, r"RA307: .*got 30\. .*image\.shape\[-2:\]"),
    ("no pixels", {"image_size": (30, 0)}, r"RA307: "),
    ("threshold", {"threshold": "0.5"}, r"RA506: expected threshold"),
    ("compat", {"compat": "mmcv"}, r"RA506: expected compat"),
]


@pytest.mark.parametrize(("bad", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_its_code_and_the_way_out(bad, message):
    good = {"masks": MASKS, "boxes_xyxy": BOXES, "image_size": (9, 10)}
    assert roialign.paste_masks(**good).any()
    with pytest.raises(errors.RoIError, match=f"^{message}"):
        roialign.paste_masks(**good | bad)


@pytest.mark.parametrize(
    "arguments",
    [
        (MASKS[:1], BOXES, 9, 9, 0.5, False),
        (MASKS, BOXES[:, :3], 9, 9, 0.5, False),
        (MASKS, BOXES, 0, 9, 0.5, True),
        (MASKS[0], BOXES, 9, 9, None, True),
        (MASKS, BOXES / 0, 9, 9, None, True),
    ],
)
def test_direct_calls_are_checked(arguments):
    with pytest.raises(errors.RoIError, match=r"^RA\d{3}: "):
        torch.ops.roialign.paste_masks(*arguments)


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda masks, boxes: roialign.paste_masks(masks, boxes, (9, 10)), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(MASKS, BOXES), roialign.paste_masks(MASKS, BOXES, (9, 10)))


def test_opcheck_of_thresholded_masks():
    torch.library.opcheck(torch.ops.roialign.paste_masks.default, (MASKS.double(), BOXES.double(), 12, 9, 0.5, True))
