"""`masked_roi_align`: against the definition in plain loops, `roi_align`, finite differences and its two backends."""

import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign import errors
from roialign.ops import backends, calls

from .cases import Case, random_case
from .instruction_sets import channels_last
from .masked import Masked, all_results, along, brute_force, masked_case
from .served import reference
from .tolerances import assert_close

OPS = ("masked_roi_align", "masked_roi_align_backward", "masked_roi_align_backward_boxes")
BACKENDS = {"C++": torch.ops.roialign.masked_roi_align, "reference": reference.masked_roi_align}

each_backend = pytest.mark.parametrize("pool", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    assert {backends.serving(op, "cpu") for op in OPS} == {"C++"}


@pytest.mark.parametrize("block", range(5))
def test_equals_the_definition(block):
    for seed in range(50 * block, 50 * (block + 1)):
        masked = masked_case(seed)
        features, rois, masks = masked.case.features(torch.float64), masked.case.rois(torch.float64), masked.masks()
        expected = brute_force(masked, features, rois, masks)
        counted = torch.ops.roialign.roi_align(features, rois, *masked.case.options)[1]
        for pool in BACKENDS.values():
            output, coverage = pool(features, rois, masks, *masked.options)
            clear = output.where(expected.isfinite(), output.new_zeros(()))
            assert_close(clear, expected.nan_to_num(0.0), scale=features)
            assert_close(coverage, counted, scale=torch.ones(1))


@each_backend
@pytest.mark.parametrize("kind", ["box", "image"])
def test_under_masks_of_ones_it_is_roi_align(pool, kind):
    for seed in range(50):
        case = random_case(seed, largest=20)
        size = (3, 5)
        if kind == "image":
            case = replace(case, aligned=True).with_boxes(("inside", "degenerate"), 5)
            size = tuple(math.ceil(side / case.spatial_scale) for side in case.input_shape[2:])
        features, rois = case.features(torch.float64), case.rois(torch.float64)
        for masks in (torch.ones(len(rois), *size).bool(), torch.full((len(rois), *size), 3.0, dtype=torch.float64)):
            output, coverage = pool(features, rois, masks, *case.options, kind == "image")
            expected, expected_coverage = torch.ops.roialign.roi_align(features, rois, *case.options)
            assert_close(output, expected, scale=features)
            assert_close(coverage, expected_coverage, scale=torch.ones(1))


def test_one_bin_is_the_mean_feature_of_the_instance():
    """With a sample in the middle of each cell, of masks that have a value for each cell."""
    features = torch.rand(1, 4, 12, 15, dtype=torch.float64)
    masks = torch.rand(3, 12, 15) < torch.tensor([0.5, 0.1, 0.01])[:, None, None]
    masks[:, 0, 0] = True
    boxes = [torch.tensor([[0.0, 0, 15, 12]], dtype=torch.float64).repeat(3, 1)]
    expected = torch.stack([features[0][:, mask].mean(1) for mask in masks])
    output = roialign.masked_roi_align(features, boxes, masks, 1)
    assert_close(output[..., 0, 0], expected, scale=features)


def test_a_flipped_box_flips_its_mask_too():
    features, mask = torch.rand(1, 2, 9, 9), torch.rand(1, 4, 4)
    box = torch.tensor([[0.0, 1, 2, 7, 8]])
    options = (3, 1.0, 2, True)
    upright = roialign.masked_roi_align(features, box, mask, *options, masks_in="box")
    inverted = roialign.masked_roi_align(features, box[:, [0, 3, 4, 1, 2]], mask.flip(1, 2), *options, masks_in="box")
    assert_close(inverted.flip(2, 3), upright, scale=features)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cpp_equals_the_reference_in_every_type_and_layout(dtype):
    computed = torch.promote_types(dtype, torch.float32)
    for seed in range(30):
        masked = masked_case(seed, largest=20)
        features, rois, grad = masked.case.features(dtype), masked.case.rois(computed), masked.case.grad(dtype)
        masks = masked.masks(computed)
        expected = all_results(masked, features, rois, masks, grad, reference)
        summands = float(features.abs().max() * grad.abs().max()) * features.shape[1]  # which may cancel
        scales = [features, torch.ones(1), expected[2]]
        scales += [torch.cat([gradient.flatten(), gradient.new_tensor([summands])]) for gradient in expected[3:]]
        for layout in (lambda tensor: tensor, channels_last, lambda tensor: torch.stack([tensor, tensor], -1)[..., 1]):
            strided = torch.stack([masks, ~masks if masks.dtype == torch.bool else -masks], -1)[..., 0]
            actual = all_results(masked, layout(features), rois, strided, layout(grad))
            for ours, wanted, scale in zip(actual, expected, scales, strict=True):
                assert ours.dtype == wanted.dtype
                assert_close(ours, wanted, scale=scale, dtype=None if ours.dtype == dtype else torch.float32)


LARGE = [
    ("one bin of the whole map", (1, 2, 60, 70), (1, 1), 0, 2),
    ("pieces of a RoI", (1, 2, 90, 100), (30, 30), 0, 2),
    ("many samples", (1, 2, 30, 30), (3, 3), 128, 2),
    ("several passes", (2, 2, 40, 50), (7, 7), 2, 600),
]


@pytest.mark.parametrize("in_image", [True, False])
@pytest.mark.parametrize(
    ("shape", "size_hw", "ratio", "count"), [row[1:] for row in LARGE], ids=[row[0] for row in LARGE]
)
def test_large_calls_equal_the_reference(shape, size_hw, ratio, count, in_image):
    case = Case(1, shape, (), size_hw, 1.0, ratio, True)
    case = case.with_boxes(("around",) if count < 10 else ("inside", "partly outside"), count)
    masked = Masked(case, shape[2:] if in_image else (28, 28), "bool", in_image)
    inputs = case.features(torch.float64), case.rois(torch.float64), masked.masks(), case.grad(torch.float64)
    for actual, wanted in zip(all_results(masked, *inputs), all_results(masked, *inputs, reference), strict=True):
        assert_close(actual, wanted, scale=wanted)


def smooth_case(seed: int) -> Masked:
    """A small call whose samples stay away from the kinks, on the map and on the masks; every bin has some weight."""
    for number in range(seed, seed + 20_000):
        masked = masked_case(number)
        case = masked.case.with_boxes(("inside", "partly outside"), 2)
        masked = replace(masked, case=case, kind="float")
        values = []
        for _, x1, y1, x2, y2 in case.rois(torch.float64).tolist():
            for low, high, pooled, pixels in zip((y1, x1), (y2, x2), case.output_size_hw, masked.mask_hw, strict=True):
                values += [*chain(*chain(*along(case, low, high, pooled, pixels, masked.in_image)))]
                size = (high - low) * case.spatial_scale
                values += [size / pooled if case.aligned else max(size, 1.5) / pooled]
                values += [] if case.aligned else [size]
        small = math.prod(masked.mask_hw) < 200 and len(values) < 400 and min(case.input_shape[2:]) > 3
        if small and min(abs(value - round(value)) for value in values) > 1e-4:
            totals = torch.ops.roialign.masked_roi_align(
                case.features(torch.float64), case.rois(torch.float64), masked.masks(), *masked.options
            )[0]
            if totals.abs().amin() > 1e-3:
                return masked
    raise AssertionError("no such case")


def pool_of(masked: Masked):
    index = masked.case.rois(torch.float64)[:, :1]

    def pool(features, sides, masks):
        rois, kind = torch.cat([index, sides], 1), "image" if masked.in_image else "box"
        return roialign.masked_roi_align(
            features, rois, masks, masked.case.output_size_hw, *masked.case.sampling, masks_in=kind
        )

    return pool


@pytest.mark.parametrize("seed", [0, 30_000, 60_000, 90_000, 120_000, 150_000])
def test_finite_differences_agree(seed):
    masked = smooth_case(seed)
    features, sides, masks = masked.case.features(torch.float64), masked.case.rois(torch.float64)[:, 1:], masked.masks()
    for which in range(3):
        inputs = [features, sides, masks]
        inputs[which] = inputs[which].clone().requires_grad_()
        assert gradcheck(pool_of(masked), inputs, atol=1e-5, rtol=1e-4), f"input {which}"
    assert gradgradcheck(lambda values: pool_of(masked)(values, sides, masks), (features.requires_grad_(),), atol=1e-7)


@pytest.mark.parametrize("block", range(4))
def test_explicit_gradients_equal_autograd_through_the_definition(block):
    for seed in range(20 * block, 20 * (block + 1)):
        masked = masked_case(seed, largest=16)
        case = masked.case
        features, rois = case.features(torch.float64).requires_grad_(), case.rois(torch.float64).requires_grad_()
        masks, grad = masked.masks().double().requires_grad_(), case.grad(torch.float64)
        reference.masked_roi_align(features, rois, masks, *masked.options)[0].backward(grad)
        inputs = features.detach(), rois.detach(), masks.detach(), grad
        for backend in (torch.ops.roialign, reference):
            to_features, to_boxes, to_masks = all_results(masked, *inputs, backend)[2:]
            assert_close(to_features, features.grad, scale=features.grad)
            assert_close(to_boxes, rois.grad, scale=torch.cat([rois.grad.flatten(), torch.ones(1)]))
            assert_close(to_masks, masks.grad, scale=torch.cat([masks.grad.flatten(), torch.ones(1)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_thread_counts_agree_to_the_bit(dtype):
    torch.use_deterministic_algorithms(True)  # also fills fresh memory with NaN
    computed = torch.promote_types(dtype, torch.float32)
    for shape, count in (((2, 40, 60, 50), 300), ((1, 2, 60, 50), 300), ((1, 100, 60, 50), 1)):
        case = Case(3, shape, (), (5, 6), 0.5, 2, True).with_boxes(("inside", "partly outside"), count)
        masked = Masked(case, (60, 50), "float", True)
        inputs = case.features(dtype), case.rois(computed), masked.masks(computed), case.grad(dtype)
        runs = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            runs.append(all_results(masked, *inputs))
        for run in runs[1:]:
            assert all(torch.equal(actual, wanted) for actual, wanted in zip(run, runs[0], strict=True))
        assert all(result.isfinite().all() for result in runs[0])


@each_backend
def test_what_is_outside_of_the_mask_does_not_matter(pool):
    features, masks = torch.rand(1, 20, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, :, :4] = True
    rois = torch.tensor([[0.0, 0, 0, 9, 9]])
    expected = pool(features, rois, masks, 3, 1, 1.0, 0, True, True)[0]
    features[:, 3, 5, 7], features[:, 5, 2, 8] = math.nan, math.inf
    output = pool(features, rois, masks, 3, 1, 1.0, 0, True, True)[0]
    assert output.isfinite().all()
    assert torch.equal(output, expected)
    masks[0, 5, 7] = True
    output = pool(features, rois, masks, 3, 1, 1.0, 0, True, True)[0]
    assert output[0, 3].isnan().sum() == 1
    assert output.isfinite().sum() == output.numel() - 1


def test_the_gradient_to_a_mask_grows_it_where_the_features_are_wanted():
    features = torch.zeros(1, 1, 8, 8)
    features[..., :4] = 1
    mask = torch.full((1, 8, 8), 0.5, requires_grad=True)
    roialign.masked_roi_align(features, [torch.tensor([[0.0, 0, 8, 8]])], mask, 1).sum().backward()
    assert (mask.grad[..., :4] > 0).all()
    assert (mask.grad[..., 4:] < 0).all()


MAP, ROIS = torch.rand(2, 3, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5], [1, 2, 2, 6, 6]])
MASKS = torch.ones(2, 8, 8)


def call(**changes):
    return roialign.masked_roi_align(**{"input": MAP, "boxes": ROIS, "masks": MASKS, "output_size": 2} | changes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_forms_of_masks_and_boxes(dtype):
    features, rois = MAP.to(dtype), ROIS.to(dtype)
    expected = call(input=features, boxes=rois)
    assert expected.dtype == dtype
    listed = [rois[:1, 1:], rois[1:, 1:]]
    for masks in (
        MASKS.bool(),
        MASKS.half(),
        MASKS.double(),
        MASKS[:, None],
        [MASKS[:1], MASKS[1:]],
        MASKS[:1].expand(2, 8, 8),
    ):
        assert torch.equal(call(input=features, boxes=listed, masks=masks), expected)
    assert call(boxes=[], masks=MASKS[:0]).shape == (0, 3, 2, 2)
    assert call(input=MAP[:, :0]).shape == (2, 0, 2, 2)
    module = roialign.MaskedRoIAlign(2, 1.0, -1, masks_in="box")
    assert torch.equal(module(MAP, ROIS, MASKS), call(masks_in="box"))
    assert "aligned=True, masks_in='box'" in repr(module)


REFUSED = [
    ("too few", {"masks": MASKS[:1]}, r"RA309: .*each of 2 boxes; got float32 tensor \[1, 8, 8\]"),
    (
        "of every class",
        {"masks": MASKS[:, None].expand(2, 91, 8, 8)},
        r"RA309: .*\[2, 91, 8, 8\]\. Each box needs one mask",
    ),
    ("no pixels", {"masks": MASKS[:, :0]}, r"RA309: "),
    ("integers", {"masks": MASKS.int()}, r"RA309: .*got int32.*masks\.bool\(\)"),
    ("another device", {"masks": MASKS.to("meta")}, r"RA309: .*on meta"),
    ("no tensor", {"masks": MASKS.numpy()}, r"RA309: .*got a ndarray"),
    ("several sizes", {"masks": [MASKS[:1], MASKS[1:, :4]]}, r"RA309: .*several sizes"),
    ("nowhere", {"masks_in": "map"}, r'RA506: expected masks_in, "image".*got str'),
    ("no index", {"boxes": ROIS[:, 1:]}, r"RA207: "),
    ("scale", {"spatial_scale": 0}, r"RA105: "),
    ("ratio", {"sampling_ratio": 1000}, r"RA506: "),
    ("size", {"output_size": 0}, r"RA506: "),
    ("one image", {"input": MAP[0]}, r"RA306: "),
]


@pytest.mark.parametrize(("bad", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_its_code_and_the_way_out(bad, message):
    assert call().isfinite().all()
    with pytest.raises(errors.RoIError, match=f"^{message}"):
        call(**bad)


@pytest.mark.parametrize("in_image", [True, False])
@pytest.mark.parametrize(
    ("column", "value", "code"),
    [(0, 2.0, "RA206"), (0, math.nan, "RA206"), (1, math.nan, "RA205"), (4, math.inf, "RA205"), (3, 1e6, "RA205")],
)
def test_bad_values_are_named_with_their_row(column, value, code, in_image):
    bad = ROIS.clone()
    bad[1, column] = value
    with pytest.raises(errors.RoIError, match=rf"^{code}: .*boxes\[1\] = "):
        call(boxes=bad, masks_in="image" if in_image else "box")
    grad, options = torch.ones(2, 3, 2, 2), (1.0, -1, True, in_image)
    arguments = ((MAP, bad, MASKS, 2, 2), (grad, bad, MASKS, 2, 8, 8), (grad, MAP, bad, MASKS))
    for op, tensors in zip(OPS, arguments, strict=True):
        with pytest.raises(RuntimeError, match=f"^{code}: "):
            getattr(torch.ops.roialign, op)(*tensors, *options)


DIRECT = (1.0, 2, True, True)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (OPS[0], (MAP, ROIS[:, :4], MASKS, 2, 2, *DIRECT)),
        (OPS[0], (MAP, ROIS, MASKS[:1], 2, 2, *DIRECT)),
        (OPS[0], (MAP, ROIS, MASKS.double(), 2, 2, *DIRECT)),
        (OPS[0], (MAP, ROIS, MASKS[0], 2, 2, *DIRECT)),
        (OPS[0], (MAP, ROIS, MASKS, 0, 2, *DIRECT)),
        (OPS[1], (torch.ones(3, 3, 2, 2), ROIS, MASKS, 2, 8, 8, *DIRECT)),
        (OPS[1], (torch.ones(2, 3, 2, 2), ROIS, MASKS[:1], 2, 8, 8, *DIRECT)),
        (OPS[2], (torch.ones(2, 2, 2, 2), MAP, ROIS, MASKS, *DIRECT)),
        (OPS[2], (torch.ones(2, 3, 2, 2), MAP, ROIS, MASKS[:, :0], *DIRECT)),
    ],
)
def test_direct_calls_are_checked(op, arguments):
    with pytest.raises(RuntimeError, match=r"^RA\d{3}: "):
        getattr(torch.ops.roialign, op)(*arguments)


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-10, 1.0, 1e30, 1e38])
@pytest.mark.parametrize("side", [1e-45, 1.0, 1e9, 3e38])
def test_extreme_numbers_stay_in_bounds(scale, side):
    boxes = torch.tensor([[0.0, -side, -side, side, side], [0, side, 0, -side, side], [0, 0, 0, side / 3, 1]])
    for masks_in in ("image", "box"):
        for ratio in (-1, 1, 2):
            try:
                leaf = boxes.clone().requires_grad_()
                output = roialign.masked_roi_align(MAP, leaf, torch.ones(3, 5, 4), 2, scale, ratio, masks_in=masks_in)
                output.sum().backward()
            except errors.BoxesValueError:
                continue
            assert output.isfinite().all()


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    inputs = [tensor.clone().requires_grad_() for tensor in (MAP, ROIS, MASKS)]

    def pool(maps, boxes, masks):
        return roialign.masked_roi_align(maps, boxes, masks, 3, 0.5, 2)

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), pool(*inputs))
    wanted = torch.autograd.grad(pool(*inputs).sum(), inputs)
    for actual, gradient in zip(torch.autograd.grad(compiled(*inputs).sum(), inputs), wanted, strict=True):
        assert torch.equal(actual, gradient)


def test_observers_and_the_notice_see_the_call(monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(calls, "observers", [seen.append])
        call()
    assert seen[0].operator == "masked_roi_align"
    assert torch.equal(seen[0].rois, ROIS)
    off = torch.tensor([[0.0, 90, 90, 99, 99]] * 2)
    with roialign.set_policy("raise"):
        call()
        with pytest.raises(errors.CoverageError, match=r"^RA\d{3}: "):
            call(boxes=off)
    with roialign.watch() as report:
        call(boxes=off)
    assert not report.ok
