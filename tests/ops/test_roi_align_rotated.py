"""`roi_align_rotated`: against the definition in plain loops, `roi_align`, finite differences and its two backends."""

import math
import random
from itertools import chain

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign import errors
from roialign.ops import backends, calls

from .instruction_sets import channels_last
from .rotated import Rotated, all_results, brute_force, positions, random_case
from .served import reference
from .tolerances import assert_close

OPS = ("roi_align_rotated", "roi_align_rotated_backward", "roi_align_rotated_backward_boxes")
BACKENDS = {"C++": torch.ops.roialign.roi_align_rotated, "reference": reference.roi_align_rotated}

each_backend = pytest.mark.parametrize("pool", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    assert {backends.serving(op, "cpu") for op in OPS} == {"C++"}


@pytest.mark.parametrize("block", range(5))
def test_equals_the_definition(block):
    for seed in range(50 * block, 50 * (block + 1)):
        case = random_case(seed)
        features, rois = case.features(), case.rois()
        expected, counted = brute_force(case, features, rois)
        for pool in BACKENDS.values():
            output, coverage = pool(features, rois, *case.size_hw, *case.sampling)
            assert_close(output, expected, scale=features)
            assert_close(coverage, counted, scale=torch.ones(1))


def test_the_cases_reach_every_kind_of_box():
    coverage = torch.cat(
        [all_results(case, case.features(), case.rois(), case.grad())[1] for case in map(random_case, range(100))]
    )
    assert (
        min(int((coverage == 0).sum()), int((coverage == 1).sum()), int(((coverage > 0) & (coverage < 1)).sum())) > 30
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cpp_equals_the_reference_in_every_type_and_layout(dtype):
    computed = torch.promote_types(dtype, torch.float32)
    for seed in range(60):
        case = random_case(seed, largest=24, channels=40)
        features, rois, grad = case.features(dtype), case.rois(computed), case.grad(dtype)
        expected = all_results(case, features, rois, grad, reference)
        for layout in (lambda tensor: tensor, channels_last, lambda tensor: torch.stack([tensor, tensor], -1)[..., 1]):
            actual = all_results(case, layout(features), rois, layout(grad))
            for ours, wanted, scale in zip(
                actual, expected, (features, torch.ones(1), expected[2], expected[3]), strict=True
            ):
                assert ours.dtype == wanted.dtype
                assert_close(ours, wanted, scale=scale)


LARGE = [
    ("many cells in one bin", (1, 2, 200, 150), (1, 1), 0, 2, 1.0),
    ("pieces of a RoI", (1, 2, 90, 100), (30, 30), 0, 2, 1.0),
    ("many samples", (1, 2, 30, 30), (3, 3), 128, 2, 1.0),
    ("several passes", (2, 2, 40, 50), (7, 7), 2, 600, 0.25),
]


@pytest.mark.parametrize(
    ("shape", "size_hw", "ratio", "count", "share"), [row[1:] for row in LARGE], ids=[row[0] for row in LARGE]
)
def test_large_calls_equal_the_reference(shape, size_hw, ratio, count, share):
    rng = random.Random(count)
    images, _, height, width = shape
    boxes = tuple(
        (
            float(rng.randrange(images)),
            rng.uniform(0, width),
            rng.uniform(0, height),
            share * width,
            share * height,
            rng.uniform(-180, 180),
        )
        for _ in range(count)
    )
    case = Rotated(count, shape, boxes, size_hw, 1.0, ratio, True, False, False)
    features, rois, grad = case.features(), case.rois(), case.grad()
    expected = all_results(case, features, rois, grad, reference)
    for actual, wanted in zip(all_results(case, features, rois, grad), expected, strict=True):
        assert_close(actual, wanted, scale=wanted)


@each_backend
def test_a_box_of_millions_of_cells_costs_no_more_than_the_map(pool):
    features = torch.rand(1, 1, 12, 10, dtype=torch.float64)
    rois = torch.tensor(
        [[0.0, 5, 6, 3e6, 2e6, 33.0], [0, 5, 6, 1e7, 3, 12.0], [0, 5, 6, 3, 1e7, 100.0]], dtype=torch.float64
    )
    output, coverage = pool(features, rois, 3, 3, 1.0, -1, True, False, False)
    cells = features.sum() + features[..., [0, -1], :].sum() + features[..., [0, -1]].sum()
    assert output[0].sum().item() == pytest.approx(float(cells) * 9 / 6e12, rel=0.3)
    assert bool(((coverage > 0) & (coverage < 1e-4)).all())


@each_backend
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("quarter", range(-4, 9))
def test_quarter_turns_are_roi_align_turned(pool, quarter, ratio):
    for seed in range(15):
        case = random_case(seed, largest=20, places=("inside", "around", "outside", "degenerate", "negative", "thin"))
        features, rois = case.features(), case.rois()
        rois[:, 5] = 90.0 * quarter
        ph, pw = case.size_hw
        sampling = case.spatial_scale, ratio
        turned, coverage = pool(features, rois, ph, pw, *sampling, True, False, False)
        x, y, w, h = rois[:, 1:5].unbind(1)
        w, h, size_hw = (h, w, (pw, ph)) if quarter % 2 else (w, h, (ph, pw))
        upright = torch.stack([rois[:, 0], x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
        expected, expected_coverage = torch.ops.roialign.roi_align(features, upright, *size_hw, *sampling, True)
        assert_close(turned, expected.rot90(-quarter, (2, 3)), scale=features)
        assert_close(coverage, expected_coverage, scale=torch.ones(1))


def test_mmcvs_conventions_are_detectron2s_with_other_angles():
    case = random_case(3, largest=20)
    features, rois = case.features(), case.rois()
    rois[:, 5] = torch.linspace(-200, 200, len(rois))
    expected = roialign.roi_align_rotated(features, rois, 3, 0.5, 2)
    radians = rois.clone()
    radians[:, 5].deg2rad_()
    assert_close(roialign.roi_align_rotated(features, radians, 3, 0.5, 2, compat="mmcv"), expected, scale=features)
    radians[:, 5].neg_()
    clockwise = roialign.roi_align_rotated(features, radians, 3, 0.5, 2, compat="mmcv", clockwise=True)
    assert_close(clockwise, expected, scale=features)


def test_a_positive_angle_is_counter_clockwise_as_seen():
    """A bright spot to the upper right of the centre is to the right of a box turned by 45 degrees."""
    features = torch.zeros(1, 1, 21, 21)
    features[0, 0, 10 - 5, 10 + 5] = 1
    output = roialign.roi_align_rotated(features, torch.tensor([[0.0, 10.5, 10.5, 21.0, 3.0, 45.0]]), (1, 3), 1.0, 8)
    assert output.flatten().argmax() == 2


def smooth_case(seed: int) -> Rotated:
    """A call whose samples stay away from the kinks: whole numbers, and sizes where the grid or the minimum changes."""
    for number in range(seed, seed + 5000):
        case = random_case(number, places=("inside", "around"))
        values = [
            value for roi in case.rois().tolist() for point in chain(*chain(*positions(case, roi))) for value in point
        ]
        for _, _, _, w, h, _ in case.rois().tolist():
            for size, bins in ((w * case.spatial_scale, case.size_hw[1]), (h * case.spatial_scale, case.size_hw[0])):
                values += [size / bins, size] if size else [0.5]
        if len(values) < 1500 and min(abs(value - round(value)) for value in values) > 1e-4 and min(case.shape[2:]) > 3:
            return case
    raise AssertionError("no such case")


def pool_of(case: Rotated):
    index = case.rois()[:, :1]

    def pool(features, numbers):
        compat = "mmcv" if case.radians else "detectron2"
        rois = torch.cat([index, numbers], 1)
        return roialign.roi_align_rotated(
            features, rois, case.size_hw, case.spatial_scale, case.sampling_ratio,
            compat=compat, aligned=case.aligned, clockwise=case.clockwise,
        )  # fmt: skip

    return pool


@pytest.mark.parametrize("seed", [0, 6000, 12000, 18000, 24000, 30000])
def test_finite_differences_agree(seed):
    case = smooth_case(seed)
    features, numbers = case.features().requires_grad_(), case.rois()[:, 1:].requires_grad_()
    assert gradcheck(pool_of(case), (features, numbers.detach()), atol=1e-7)
    assert gradcheck(pool_of(case), (features.detach(), numbers), atol=1e-6)
    assert gradgradcheck(lambda values: pool_of(case)(values, numbers.detach()), (features,), atol=1e-7)


@pytest.mark.parametrize("seed", range(60))
def test_explicit_gradients_equal_autograd_through_the_definition(seed):
    case = random_case(seed, largest=20)
    features, rois, grad = case.features().requires_grad_(), case.rois().requires_grad_(), case.grad()
    reference.roi_align_rotated(features, rois, *case.size_hw, *case.sampling)[0].backward(grad)
    *_, to_features, to_boxes = all_results(case, features.detach(), rois.detach(), grad)
    assert_close(to_features, features.grad, scale=features.grad)
    assert_close(to_boxes, rois.grad, scale=rois.grad)
    assert not to_boxes[:, 0].any()


@pytest.mark.filterwarnings("error")
def test_no_second_derivative_with_respect_to_the_boxes():
    case = smooth_case(0)
    numbers = case.rois()[:, 1:].requires_grad_()
    (slope,) = torch.autograd.grad(pool_of(case)(case.features(), numbers).square().sum(), numbers, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_thread_counts_agree_to_the_bit(dtype):
    torch.use_deterministic_algorithms(True)  # also fills fresh memory with NaN
    for shape, count in (((2, 40, 60, 50), 300), ((1, 2, 60, 50), 300), ((1, 100, 60, 50), 1)):
        rng = random.Random(count)
        boxes = tuple(
            (float(rng.randrange(shape[0])), *(rng.uniform(0, 50) for _ in range(4)), rng.uniform(-180, 180))
            for _ in range(count)
        )
        case = Rotated(7, shape, boxes, (5, 6), 1.0, 2, True, False, False)
        runs = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            runs.append(
                all_results(
                    case, case.features(dtype), case.rois(torch.promote_types(dtype, torch.float32)), case.grad(dtype)
                )
            )
        for run in runs[1:]:
            assert all(torch.equal(actual, wanted) for actual, wanted in zip(run, runs[0], strict=True))
        assert all(result.isfinite().all() for result in runs[0])


def test_nan_and_infinity_reach_the_bins_that_read_them_only():
    features = torch.zeros(1, 20, 9, 9)
    features[:, 3, 0, 0], features[:, 5, 8, 8] = math.nan, math.inf
    rois = torch.tensor([[0.0, 4.5, 4.5, 6.0, 6.0, 0.0], [0, 4.5, 4.5, 12, 12, 45], [0, 90, 90, 2, 2, 30]])
    for pool in BACKENDS.values():
        output, _ = pool(features, rois, 3, 3, 1.0, 4, True, False, False)
        assert output[0].isfinite().all()
        assert output[1, 3].isnan().any()
        assert not output[1, 5].isfinite().all()
        assert output[1, [0, 1, 2, 4, 6]].isfinite().all()
        assert not output[2].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_lists_of_boxes_are_boxes_with_an_index(dtype):
    features, boxes = torch.rand(2, 3, 8, 8).to(dtype), torch.tensor([[3.0, 4, 4, 2, 30], [4, 3, 3, 5, -70]]).to(dtype)
    listed = roialign.roi_align_rotated(features, [boxes[:1], boxes[1:]], (2, 3))
    rois = torch.cat([torch.tensor([[0.0], [1.0]]).to(dtype), boxes], 1)
    assert torch.equal(listed, roialign.roi_align_rotated(features, rois, (2, 3)))
    assert listed.dtype == dtype
    for nothing in ([], [boxes[:0]], rois[:0]):
        assert roialign.roi_align_rotated(features, nothing, (2, 3)).shape == (0, 3, 2, 3)
    assert roialign.roi_align_rotated(features[:, :0], rois, 2).shape == (2, 0, 2, 2)


def test_the_module_is_the_function():
    features, rois = torch.rand(1, 2, 8, 8), torch.tensor([[0.0, 4, 4, 4, 2, 0.5]])
    module = roialign.RoIAlignRotated((2, 3), 0.5, 2, compat="mmcv", aligned=False, clockwise=True)
    expected = roialign.roi_align_rotated(features, rois, (2, 3), 0.5, 2, compat="mmcv", aligned=False, clockwise=True)
    assert torch.equal(module(features, rois), expected)
    assert "compat='mmcv', aligned=False, clockwise=True" in repr(module)


MAP, ROIS = torch.rand(2, 3, 8, 8), torch.tensor([[0.0, 3, 3, 4, 2, 30], [1, 4, 4, 3, 5, -20]])
REFUSED = [  # name, bad arguments, error, message
    ("five columns", {"boxes": ROIS[:, 1:]}, errors.BoxesShapeError, r"RA207: .*\[K, 6\].*centre x.*\[2, 5\].*\[boxes\]"),  # noqa: E501
    ("upright boxes", {"boxes": ROIS[:, :4]}, errors.BoxesShapeError, r"RA210: .*reshape\(-1, 6\)"),
    ("index in a list", {"boxes": [ROIS]}, errors.BoxesShapeError, r"RA210: .*\[L, 5\].*torch\.empty\(0, 5\)"),
    ("lists", {"boxes": [ROIS[:, 1:]] * 3}, errors.BatchIndexError, r"RA208: .*got 3 lists"),
    ("one image", {"input": MAP[0]}, errors.FeatureMapError, r"RA306: .*input\[None\]"),
    ("wide boxes", {"boxes": ROIS.double()}, errors.DtypeError, r"RA505: .*boxes\.to\(torch\.float32\)"),
    ("scale", {"spatial_scale": 0}, errors.ScaleError, r"RA105: "),
    ("ratio", {"sampling_ratio": 1000}, errors.OutputSizeError, r"RA506: "),
    ("size", {"output_size": 0}, errors.OutputSizeError, r"RA506: "),
    ("compat", {"compat": "torchvision"}, errors.RoIError, r'RA506: expected compat, "detectron2" or "mmcv"; got str'),
    ("clockwise degrees", {"clockwise": True}, errors.RoIError, r'RA506: .*negate the angles; or use compat="mmcv"'),
    ("not aligned", {"aligned": False}, errors.RoIError, r"RA506: .*aligned=False"),
]  # fmt: skip


def call(**changes):
    return roialign.roi_align_rotated(**{"input": MAP, "boxes": ROIS, "output_size": 2} | changes)


@pytest.mark.parametrize(("bad", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_its_code_and_the_way_out(bad, error, message):
    assert call().isfinite().all()
    with pytest.raises(error, match=f"^{message}"):
        call(**bad)


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_bad_values_are_named_with_their_row(column, value):
    bad = ROIS.clone()
    bad[1, column] = value
    if column in (1, 2, 5) and value == 1e30:  # a centre far off the map, an angle of many turns
        assert call(boxes=bad).isfinite().all()
        return
    code, error = ("RA206", errors.BatchIndexError) if column == 0 else ("RA205", errors.BoxesValueError)
    with pytest.raises(error, match=rf"^{code}: .*boxes\[1\] = \[.*Look at|^{code}: .*centre x"):
        call(boxes=bad)
    arguments = {
        "roi_align_rotated": (MAP, bad, 2, 2),
        "roi_align_rotated_backward": (torch.ones(2, 3, 2, 2), bad, 2, 8, 8),
        "roi_align_rotated_backward_boxes": (torch.ones(2, 3, 2, 2), MAP, bad),
    }
    for op, tensors in arguments.items():
        with pytest.raises(RuntimeError, match=f"^{code}: "):
            getattr(torch.ops.roialign, op)(*tensors, 1.0, -1, True, False, False)


DIRECT = (1.0, 2, True, False, False)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("roi_align_rotated", (MAP, ROIS[:, :5], 2, 2, *DIRECT)),
        ("roi_align_rotated", (MAP, ROIS.double(), 2, 2, *DIRECT)),
        ("roi_align_rotated", (MAP, ROIS, 0, 2, *DIRECT)),
        ("roi_align_rotated", (MAP[..., :0], ROIS, 2, 2, *DIRECT)),
        ("roi_align_rotated", (MAP, ROIS, 2, 2, -1.0, *DIRECT[1:])),
        ("roi_align_rotated_backward", (torch.ones(3, 3, 2, 2), ROIS, 2, 8, 8, *DIRECT)),
        ("roi_align_rotated_backward", (torch.ones(2, 3, 2, 2), ROIS, 2, -8, 8, *DIRECT)),
        ("roi_align_rotated_backward_boxes", (torch.ones(2, 2, 2, 2), MAP, ROIS, *DIRECT)),
        ("roi_align_rotated_backward_boxes", (torch.ones(2, 3, 2, 2).half(), MAP, ROIS, *DIRECT)),
    ],
)
def test_direct_calls_are_checked(op, arguments):
    with pytest.raises(RuntimeError, match=r"^RA\d{3}: "):
        getattr(torch.ops.roialign, op)(*arguments)


def test_kernels_and_words_draw_the_line_at_the_same_size():
    for beyond in range(-6, 8):
        boxes = torch.tensor([[0.0, 3, 3, 2.0**24 + beyond, 2.0, 20.0]])
        try:
            assert call(boxes=boxes, output_size=1).isfinite().all()
        except errors.BoxesValueError:
            assert beyond > 0


def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    features, rois = MAP.clone().requires_grad_(), ROIS.clone().requires_grad_()
    compiled = torch.compile(
        lambda maps, boxes: roialign.roi_align_rotated(maps, boxes, 3, 0.5, 2), fullgraph=True, backend="aot_eager"
    )
    expected = roialign.roi_align_rotated(features, rois, 3, 0.5, 2)
    assert torch.equal(compiled(features, rois), expected)
    wanted = torch.autograd.grad(expected.sum(), (features, rois))
    for actual, gradient in zip(
        torch.autograd.grad(compiled(features, rois).sum(), (features, rois)), wanted, strict=True
    ):
        assert_close(actual, gradient, scale=gradient)


def test_observers_see_the_upright_boxes_around(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    call(boxes=torch.tensor([[1.0, 4, 4, 4, 2, 90]]))
    assert seen[0].operator == "roi_align_rotated"
    assert_close(seen[0].rois, torch.tensor([[1.0, 3, 2, 5, 6]]), scale=torch.ones(1))


def test_boxes_off_the_map_are_noticed():
    off = torch.tensor([[0.0, 100, 100, 20, 20, 30]])
    with roialign.set_policy("raise"):
        call(boxes=ROIS)
        with pytest.raises(errors.CoverageError, match=r"^RA\d{3}: "):
            call(boxes=off)
    with roialign.watch() as report:
        call(boxes=off)
    assert not report.ok
