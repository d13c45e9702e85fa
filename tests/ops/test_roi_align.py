"""What `roi_align` computes: against two peers, the definition in plain loops, and tables of the edges."""

import pytest
import torch

import roialign
from roialign.ops import backends

from .cases import brute_force, brute_force_coverage, random_case, random_cases
from .peers import onnxruntime_roi_align, torchvision_roi_align
from .served import reference
from .tolerances import assert_close, difference

SAMPLING = [(ratio, aligned) for ratio in range(4) for aligned in (False, True)]
CASES_EACH = 75  # 8 x 75 = 600 configurations
BACKENDS = {"C++": torch.ops.roialign.roi_align, "reference": reference.roi_align}

each_backend = pytest.mark.parametrize("pool", BACKENDS.values(), ids=BACKENDS)


@pytest.mark.kernels
def test_the_cpp_kernels_are_what_is_tested():
    assert backends.of_device("cpu") is not None
    assert backends.serving("roi_align", "cpu") == "C++"
    assert backends.serving("roi_align_backward", "cpu") == "C++"


@each_backend
@pytest.mark.parametrize(("ratio", "aligned"), SAMPLING)
def test_equals_torchvision_and_onnxruntime(pool, ratio, aligned):
    for case in random_cases(CASES_EACH, first_seed=1000 * ratio, sampling_ratio=ratio, aligned=aligned):
        features, rois = case.features(), case.rois()
        actual, _ = pool(features, rois, *case.options)
        assert_close(actual, torchvision_roi_align(features, rois, case), scale=features)
        assert_close(actual, onnxruntime_roi_align(features, rois, case), scale=features)


@pytest.mark.parametrize(("ratio", "aligned"), SAMPLING)
def test_cpp_equals_the_reference_and_torchvision_in_float64(ratio, aligned):
    for case in random_cases(CASES_EACH, first_seed=1000 * ratio, sampling_ratio=ratio, aligned=aligned):
        features, rois = case.features(torch.float64), case.rois(torch.float64)
        actual, coverage = torch.ops.roialign.roi_align(features, rois, *case.options)
        expected, expected_coverage = reference.roi_align(features, rois, *case.options)
        assert_close(actual, expected, scale=features)
        assert_close(actual, torchvision_roi_align(features, rois, case), scale=features)
        assert_close(coverage, expected_coverage, scale=torch.ones(1))


@each_backend
@pytest.mark.parametrize("seed", range(48))
def test_equals_the_definition(pool, seed):
    case = random_case(seed, largest=8)
    features, rois = case.features(torch.float64), case.rois(torch.float64)
    output, coverage = pool(features, rois, *case.options)
    assert_close(output, brute_force(features, rois, *case.options), scale=features)
    counted = brute_force_coverage(rois, *features.shape[2:], *case.options)
    assert_close(coverage, counted, scale=torch.ones(1))


def test_the_cases_reach_every_kind_of_box():
    coverage = torch.cat(
        [torch.ops.roialign.roi_align(case.features(), case.rois(), *case.options)[1] for case in random_cases(200)]
    )
    assert int((coverage == 0).sum()) > 50
    assert int((coverage == 1).sum()) > 50
    assert int(((coverage > 0) & (coverage < 1)).sum()) > 50


@each_backend
@pytest.mark.parametrize(
    ("y", "value"),
    [(-1.01, 0.0), (-1.0, 1.0), (-0.5, 1.0), (0.0, 1.0), (3.5, 1.0), (4.0, 1.0), (4.01, 0.0)],
)
def test_the_map_ends_one_cell_beyond_its_border(pool, y, value):
    """A sample at exactly -1 or H reads the border cell; a zero-size aligned box is one sample at y - 0.5."""
    along_y = torch.tensor([[0, 2, y + 0.5, 2, y + 0.5]], dtype=torch.float64)
    along_x = along_y[:, [0, 2, 1, 4, 3]]
    for rois in (along_y, along_x):
        output, coverage = pool(torch.ones(1, 1, 4, 4, dtype=torch.float64), rois, 1, 1, 1.0, 1, True)
        assert output.item() == value
        assert coverage.item() == value


@each_backend
def test_samples_off_the_map_count_in_the_average(pool):
    half_outside = torch.tensor([[0.0, -5.0, 0.0, 3.0, 4.0]])  # x samples at -4, -2, 0, 2
    output, coverage = pool(torch.ones(1, 1, 4, 4), half_outside, 1, 1, 1.0, 4, False)
    assert output.item() == 0.5
    assert coverage.item() == 0.5


@pytest.mark.parametrize(("aligned", "value"), [(False, 76.5), (True, 63.75)])
def test_a_box_is_at_least_one_cell_unless_aligned(aligned, value):
    """An 8-pixel box at stride 16, as torchvision pools it."""
    rows = torch.arange(16.0)[:, None]
    features = (rows * 16 + torch.arange(16.0)).reshape(1, 1, 16, 16)
    box = torch.tensor([[0.0, 64.0, 64.0, 72.0, 72.0]])
    assert roialign.roi_align(features, box, 1, 1 / 16, 2, aligned).item() == value


DEGENERATE = [
    # box (x1, y1, x2, y2), sampling_ratio, aligned, expected from features[y, x] = 10 y + x
    ("zero size, adaptive, aligned: zero", (2.5, 1.5, 2.5, 1.5), 0, True, 0.0),
    ("zero size, sampled, aligned: the point", (2.5, 1.5, 2.5, 1.5), 2, True, 12.0),
    ("zero size, adaptive: a box of one cell", (2.0, 1.0, 2.0, 1.0), 0, False, 17.5),
    ("zero size, sampled: a box of one cell", (2.0, 1.0, 2.0, 1.0), 2, False, 17.5),
    ("inverted, adaptive, aligned: zero", (3.5, 3.5, 1.5, 1.5), 0, True, 0.0),
    ("inverted on one axis, adaptive, aligned: zero", (1.5, 3.5, 3.5, 1.5), 0, True, 0.0),
    ("inverted, adaptive: a box of one cell at x1, y1", (2.0, 1.0, 0.0, 0.0), 0, False, 17.5),
    ("inverted, sampled: a box of one cell at x1, y1", (2.0, 1.0, 0.0, 0.0), 2, False, 17.5),
]


@each_backend
@pytest.mark.parametrize(
    ("box", "ratio", "aligned", "value"), [row[1:] for row in DEGENERATE], ids=[r[0] for r in DEGENERATE]
)
def test_degenerate_boxes(pool, box, ratio, aligned, value):
    features = (10 * torch.arange(5.0)[:, None] + torch.arange(5.0)).reshape(1, 1, 5, 5)
    output, _ = pool(features, torch.tensor([[0.0, *box]]), 1, 1, 1.0, ratio, aligned)
    assert output.item() == value


@each_backend
def test_an_inverted_aligned_box_with_fixed_samples_is_flipped(pool):
    features = random_case(3).features()
    upright = torch.tensor([[0.0, 1.0, 0.5, 4.0, 3.5]])
    inverted = upright[:, [0, 3, 4, 1, 2]]
    options = (3, 2, 1.0, 2, True)
    flipped = pool(features, inverted, *options)[0].flip(-1, -2)
    assert_close(flipped, pool(features, upright, *options)[0], scale=features)


@each_backend
def test_a_nan_that_no_sample_reads_stays_out(pool):
    clean = torch.randn(2, 3, 8, 8)
    rois = torch.tensor([[0.0, 2.0, 2.0, 5.0, 5.0], [1.0, 4.0, 4.0, 20.0, 20.0], [1.0, 50.0, 50.0, 60.0, 60.0]])
    poisoned = clean.clone()
    poisoned[0, :, 0, 0] = poisoned[0, :, 7, :] = poisoned[1, :, :3] = poisoned[1, :, :, :3] = float("nan")
    options = (2, 3, 1.0, 0, False)
    assert torch.equal(pool(poisoned, rois, *options)[0], pool(clean, rois, *options)[0])
    everywhere = torch.full_like(clean, float("inf"))
    assert torch.equal(pool(everywhere, rois[2:], *options)[0], torch.zeros(1, 3, 2, 3))


@each_backend
def test_a_nan_that_a_sample_reads_comes_through(pool):
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 3, 3] = float("nan")
    output, _ = pool(features, torch.tensor([[0.0, 2.0, 2.0, 5.0, 5.0]]), 1, 1, 1.0, 2, True)
    assert output.isnan().all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("container", [list, tuple])
def test_the_list_form_equals_the_tensor_form(seed, container):
    case = random_case(seed)
    features, rois = case.features(), case.rois()
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = container(rois[rois[:, 0] == image, 1:] for image in range(features.shape[0]))
    as_list = roialign.roi_align(features, boxes, case.output_size_hw, *case.sampling)
    assert torch.equal(as_list, roialign.roi_align(features, rois, case.output_size_hw, *case.sampling))


def test_fewer_lists_than_images():
    features = torch.randn(3, 2, 8, 8)
    output = roialign.roi_align(features, [torch.tensor([[1.0, 1, 4, 4]])], 2)
    assert torch.equal(output, roialign.roi_align(features[:1], torch.tensor([[0.0, 1, 1, 4, 4]]), 2))


@pytest.mark.parametrize(
    "boxes",
    [torch.empty(0, 5), [torch.empty(0, 4)], [torch.empty(0, 4), torch.empty(0, 4)], [], ()],
    ids=["tensor", "one list", "two lists", "no lists", "no tuple"],
)
@pytest.mark.parametrize("channels", [0, 3])
def test_no_boxes_no_features(boxes, channels):
    features = torch.randn(2, channels, 4, 4, requires_grad=True)
    output = roialign.roi_align(features, boxes, (2, 3))
    assert output.shape == (0, channels, 2, 3)
    assert output.dtype == features.dtype
    output.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@each_backend
def test_no_channels_still_have_a_coverage(pool):
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 90, 90, 99, 99]])
    output, coverage = pool(torch.empty(1, 0, 8, 8), rois, 2, 2, 1.0, 2, True)
    assert output.shape == (2, 0, 2, 2)
    assert coverage.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("output_size", [3, (3, 3), [3, 3], torch.Size((3, 3))])
def test_output_size_is_a_number_or_a_pair(output_size):
    features, boxes = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]])
    assert torch.equal(roialign.roi_align(features, boxes, output_size), roialign.roi_align(features, boxes, (3, 3)))


@pytest.mark.parametrize("ratio", [-1, -7, 0])
def test_every_ratio_below_one_is_adaptive(ratio):
    features, boxes = torch.randn(1, 2, 16, 16), torch.tensor([[0.0, 1, 1, 14, 11]])
    adaptive = roialign.roi_align(features, boxes, (2, 3), sampling_ratio=-1)
    assert torch.equal(roialign.roi_align(features, boxes, (2, 3), sampling_ratio=ratio), adaptive)
    assert difference(adaptive, roialign.roi_align(features, boxes, (2, 3), sampling_ratio=1)) > 1e-3


def test_the_module_is_the_function():
    case = random_case(11, sampling_ratio=2, aligned=True)
    module = roialign.RoIAlign(case.output_size_hw, *case.sampling)
    expected = roialign.roi_align(case.features(), case.rois(), case.output_size_hw, *case.sampling)
    assert torch.equal(module(case.features(), case.rois()), expected)
    assert "sampling_ratio=2, aligned=True" in repr(module)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("seed", range(6))
def test_quantized_features_of_one_image(seed):
    case = random_case(seed).with_boxes(("inside",), 4)
    features = torch.quantize_per_tensor(case.features()[:1], 0.05, 3, torch.qint8)
    rois = case.rois()
    rois[:, 0] = 0
    rois = torch.quantize_per_tensor(rois, float(rois.max()) / 100 + 1e-3, 0, torch.qint8)
    output = roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)
    expected = torchvision_roi_align(features, rois, case)
    assert (output.dtype, output.q_scale(), output.q_zero_point()) == (torch.qint8, 0.05, 3)
    assert difference(output.dequantize(), expected.dequantize()) <= 0.0501  # one quantum, where rounding ties
