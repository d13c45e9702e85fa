"""`prroi_pool`: against the definition in closed form, numerical integration and `roi_align` with many samples."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign import errors
from roialign.ops import calls

from .cases import Case, kernel_cases, poisoned, random_case, random_cases
from .refusals import BAD_VALUES, MAP, REFUSED, ROIS
from .served import reference
from .tolerances import assert_close, assert_close_where_finite, magnitude

OP = torch.ops.roialign
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALF)
each_backend = pytest.mark.parametrize("pool", [OP.prroi_pool, reference.prroi_pool], ids=["C++", "reference"])


def options_of(case: Case) -> tuple[int, int, float]:
    return (*case.output_size_hw, case.spatial_scale)


def rois_of(case: Case, dtype: torch.dtype) -> Tensor:
    return case.rois(torch.promote_types(dtype, torch.float32))


def hat_integral(t: float) -> float:
    """The integral of the hat 1 - |t| of a cell, from its left foot on."""
    if t <= -1:
        return 0.0
    if t <= 0:
        return (t + 1) ** 2 / 2
    return 1 - (1 - t) ** 2 / 2 if t <= 1 else 1.0


def axis_weights(low: float, high: float, scale: float, pooled: int, extent: int) -> list[list[float]]:
    start, size = low * scale, (high - low) * scale
    if size <= 0:
        return [[0.0] * extent for _ in range(pooled)]
    length = size / pooled
    edges = [start + p * length for p in range(pooled + 1)]
    return [
        [(hat_integral(edges[p + 1] - cell) - hat_integral(edges[p] - cell)) / length for cell in range(extent)]
        for p in range(pooled)
    ]


def brute_force(features: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, scale: float) -> Tensor:
    """The definition with the antiderivative of the hat: no cutting into pieces, no bilinear sample."""
    features, outputs = features.double(), []
    for image, x1, y1, x2, y2 in rois.double().tolist():
        rows = torch.tensor(axis_weights(y1, y2, scale, pooled_height, features.shape[2]), dtype=torch.float64)
        columns = torch.tensor(axis_weights(x1, x2, scale, pooled_width, features.shape[3]), dtype=torch.float64)
        outputs.append(rows @ features[int(image)] @ columns.T)
    return torch.stack(outputs)


def surface(plane: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """The bilinear surface [len(ys), len(xs)] through a plane, zero beyond one cell from its border cells."""
    rows = (1 - (ys[:, None] - torch.arange(plane.shape[0])).abs()).clamp(min=0)
    columns = (1 - (xs[:, None] - torch.arange(plane.shape[1])).abs()).clamp(min=0)
    return rows @ plane @ columns.T


def kernels(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    return (
        *OP.prroi_pool(features, rois, *options_of(case)),
        OP.prroi_pool_backward(upstream, rois, *case.image_size, case.spatial_scale),
        OP.prroi_pool_backward_boxes(upstream, features, rois, case.spatial_scale),
    )


def references(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    features, upstream = features.to(rois.dtype), upstream.to(rois.dtype)
    return (
        *reference.prroi_pool(features, rois, *options_of(case)),
        reference.prroi_pool_backward(upstream, rois, *case.image_size, case.spatial_scale),
        reference.prroi_pool_backward_boxes(upstream, features, rois, case.spatial_scale),
    )


def on_whole_cells(seed: int) -> Case:
    """Boxes whose edges lie on cells' centres, on the border, one cell and more beyond it."""
    case = replace(random_case(seed, largest=6), spatial_scale=1.0)
    height, width = case.input_shape[2:]
    generator = torch.Generator().manual_seed(seed)
    corners = [torch.randint(-3, extent + 4, (6, 2), generator=generator) for extent in (width, height)]
    boxes = [(0.0, float(x[0]), float(y[0]), float(x[1]), float(y[1])) for x, y in zip(*corners, strict=True)]
    return replace(case, boxes=tuple(boxes))


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_closed_form(pool, dtype):
    for case in [*random_cases(200), *map(on_whole_cells, range(60))]:
        features = case.features(dtype)
        expected = brute_force(features, case.rois(), *options_of(case))
        assert_close(pool(features, case.rois(dtype), *options_of(case))[0], expected, scale=features)


@each_backend
def test_equals_numerical_integration(pool):
    """By midpoints: exact between the cells' centres, and elsewhere off by no more than the slope allows."""
    steps, compared = 300, 0
    for case in random_cases(60, first_seed=900, largest=12):
        case = case.with_boxes(("inside", "partly outside"), 3)
        features, rois = case.features(torch.float64), case.rois(torch.float64)
        output, _ = pool(features, rois, *options_of(case))
        for k, (image, x1, y1, x2, y2) in enumerate((rois * case.spatial_scale).tolist()):
            sides = (y2 - y1) / case.output_size_hw[0], (x2 - x1) / case.output_size_hw[1]
            middles = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
            plane = case.features(torch.float64)[round(image / case.spatial_scale), 0]
            value = surface(plane, y1 + middles * sides[0], x1 + middles * sides[1]).mean()
            # of `side + 1` kinks, each within one step, whose value is off by a quarter of the slope times the step
            bound = sum(side / steps / 4 * min(1.0, (side + 1) / side / steps) for side in sides) * 2 * magnitude(plane)
            assert abs(float(output[k, 0, 0, 0] - value)) <= bound + 1e-12
            compared += 1
    assert compared == 180


def test_roi_align_comes_to_it_with_more_and_more_samples():
    for case in random_cases(60, first_seed=40, aligned=False, largest=30):
        height, width = case.input_shape[2:]
        if min(height, width) < 4:
            continue
        rois = case.with_boxes(("inside",), 5).rois(torch.float64)
        cells = rois[:, 1:] * case.spatial_scale
        cells = torch.minimum(cells, cells.new_tensor([width - 2.0, height - 2.0] * 2))  # the border rules differ
        rois[:, 1:], features = cells, case.features(torch.float64)
        rois = rois[((cells[:, 2:] - cells[:, :2]) > 1).all(1)]  # roi_align makes them so
        exact = OP.prroi_pool(features, rois, *case.output_size_hw, 1.0)[0]
        off = [
            magnitude(OP.roi_align(features, rois, *case.output_size_hw, 1.0, ratio, False)[0] - exact)
            for ratio in (2, 16, 128)
        ]
        assert off[1] < off[0] / 4 or off[0] < 1e-3
        assert off[2] < 2e-3 * magnitude(features), off


@each_backend
@pytest.mark.parametrize(
    ("box", "value"),
    [
        ((0.0, 0, 3, 3), 1.0),
        ((-1.0, 0, 0, 3), 0.5),  # the surface falls from 1 to 0
        ((3.0, 3, 4, 4), 0.25),
        ((-1.0, -1, 4, 4), 0.64),  # 4 of 5 along each axis
        ((-2.0, 0, -1, 3), 0.0),
        ((4.0, 0, 9, 3), 0.0),
        ((1.0, 1, 1, 2), 0.0),
        ((2.0, 2, 1, 1), 0.0),
        ((1.0, 2, 2, 1), 0.0),
    ],
)
def test_on_a_map_of_ones(pool, box, value):
    output, _ = pool(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, *box]]), 1, 1, 1.0)
    assert float(output) == pytest.approx(value, abs=1e-6)


@each_backend
def test_coverage_is_the_share_of_the_box_on_the_map(pool):
    boxes = [[0, 0, 4, 4], [-1, -1, 4, 4], [-3, 0, 1, 4], [2, 2, 10, 10], [9, 9, 10, 10], [1, 1, 1, 2], [3, 3, 2, 2]]
    rois = torch.tensor([[0, *box] for box in boxes], dtype=torch.float32)
    _, coverage = pool(torch.ones(1, 0, 4, 4), rois, 3, 3, 1.0)
    assert coverage.tolist() == pytest.approx([1.0, 1.0, 0.5, 1 / 16, 0.0, 0.0, 0.0])
    assert coverage[:2].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_equal_the_reference(dtype):
    one = torch.ones(())
    for case in kernel_cases():
        features, upstream = case.features(dtype), case.grad(dtype)
        rois = rois_of(case, dtype)
        expected = references(features, rois, upstream, case)
        actual = kernels(features, rois, upstream, case)
        last = torch.channels_last
        again = kernels(features.contiguous(memory_format=last), rois, upstream.contiguous(memory_format=last), case)
        for results in (actual, again):
            for result, wanted, scale in zip(results, expected, (features, one, *expected[2:]), strict=True):
                assert_close(result, wanted, scale)


@pytest.mark.parametrize("seed", range(30))
def test_explicit_backward_equals_autograd_through_the_reference(seed):
    case = random_case(seed, largest=20).with_boxes(("inside", "partly outside", "outside"), 6)
    features = case.features(torch.float64).requires_grad_()
    rois = case.rois(torch.float64).requires_grad_()
    upstream = case.grad(torch.float64)
    output, _ = reference.prroi_pool(features, rois, *options_of(case))
    of_features, of_rois = torch.autograd.grad(output, (features, rois), upstream)
    explicit = references(features.detach(), rois.detach(), upstream, case)
    assert_close(explicit[2], of_features, scale=of_features)
    assert_close(explicit[3][:, 1:], of_rois[:, 1:], scale=of_rois)


def smooth_cases() -> Iterator[Case]:
    """Boxes with an area, anywhere: the integral has no kinks."""
    for seed in range(8):
        case = replace(random_case(seed, largest=5), output_size_hw=(2, 3), spatial_scale=0.5)
        yield case.with_boxes(("inside", "partly outside", "around"), 3)


@pytest.mark.parametrize("case", list(smooth_cases()), ids=lambda case: str(case.seed))
def test_finite_differences_agree(case):
    index = case.rois(torch.float64)[:, :1]

    def pool(features, coordinates):
        rois = torch.cat([index, coordinates], dim=1)
        return roialign.prroi_pool(features, rois, case.output_size_hw, case.spatial_scale)

    features = case.features(torch.float64)[:, :2].requires_grad_()
    coordinates = case.rois(torch.float64)[:, 1:].requires_grad_()
    assert gradcheck(pool, (features, coordinates.detach()), atol=1e-7)
    assert gradcheck(pool, (features.detach(), coordinates), atol=1e-6)
    assert gradgradcheck(lambda values: pool(values, coordinates.detach()), (features,), atol=1e-7)


def test_the_backward_operator_has_a_gradient_of_its_own():
    case = next(smooth_cases())
    index, size = case.rois(torch.float64)[:, :1], case.image_size

    def scatter(grad, coordinates):
        return OP.prroi_pool_backward(grad, torch.cat([index, coordinates], 1), *size, case.spatial_scale)

    coordinates = case.rois(torch.float64)[:, 1:].requires_grad_()
    assert gradcheck(scatter, (case.grad(torch.float64).requires_grad_(), coordinates), atol=1e-6)


@pytest.mark.parametrize("values", [(float("nan"),), (float("inf"), float("-inf"))], ids=["nan", "infinite"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_reaches_what_reads_it_and_nothing_else(values, dtype):
    for case in random_cases(30, first_seed=600):
        features, upstream = (
            poisoned(tensor, values, case.seed).to(dtype) for tensor in (case.features(), case.grad())
        )
        rois = rois_of(case, dtype)
        actual, expected = kernels(features, rois, upstream, case), references(features, rois, upstream, case)
        assert_close_where_finite(actual[0], expected[0].to(dtype), scale=features)
        assert_close_where_finite(actual[2], expected[2].to(dtype), scale=expected[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_and_thread_counts_agree_to_the_bit(dtype):
    case = replace(random_case(3), input_shape=(2, 40, 60, 70), output_size_hw=(7, 7), spatial_scale=0.25)
    case = case.with_boxes(("inside", "partly outside"), 300)
    arguments = case.features(dtype), rois_of(case, dtype), case.grad(dtype), case
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(kernels(*arguments))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_strides_change_nothing():
    case = random_case(5).with_boxes(("inside", "partly outside"), 6)
    features, rois = case.features(), case.rois()
    expected = OP.prroi_pool(features, rois, *options_of(case))[0]
    for odd in (features.transpose(2, 3).contiguous().transpose(2, 3), torch.stack([features] * 2, -1)[..., 1]):
        assert torch.equal(OP.prroi_pool(odd, rois, *options_of(case))[0], expected)
    strided = torch.stack([rois] * 2, -1)[..., 0]
    assert torch.equal(OP.prroi_pool(features, strided, *options_of(case))[0], expected)


def test_a_box_of_millions_of_cells_costs_no_more_than_the_map():
    features = torch.rand(1, 2, 30, 40)
    rois = torch.tensor([[0.0, -1e9, -1e8, 1e9, 1e9], [0, -1e30, -1e30, 1e30, 1e30], [0, 0, 0, 3e38, 3e38]])
    begin = time.perf_counter()
    output, coverage = OP.prroi_pool(features, rois, 3, 3, 0.5)
    assert time.perf_counter() - begin < 1
    assert output.isfinite().all()
    assert_close(output, reference.prroi_pool(features, rois, 3, 3, 0.5)[0], scale=output)
    assert coverage.max() < 1e-10


def test_no_boxes():
    features = torch.rand(2, 3, 4, 4, requires_grad=True)
    for boxes in (torch.empty(0, 5), [torch.empty(0, 4)] * 2, []):
        output = roialign.prroi_pool(features, boxes, (2, 3))
        assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert not features.grad.any()
    assert reference.prroi_pool(features, torch.empty(0, 5), 2, 3, 1.0)[0].shape == (0, 3, 2, 3)


def test_the_list_form_and_the_module():
    case = random_case(11)
    features, rois = case.features(), case.rois()
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(features.shape[0])]
    expected = roialign.prroi_pool(features, rois, case.output_size_hw, case.spatial_scale)
    module = roialign.PrRoIPool(case.output_size_hw, case.spatial_scale)
    assert torch.equal(module(features, boxes), expected)
    assert repr(module) == f"PrRoIPool(output_size={case.output_size_hw}, spatial_scale={case.spatial_scale})"


@pytest.mark.parametrize("dtype", HALF)
def test_half_types_are_rounded_once(dtype):
    case = random_case(9).with_boxes(("inside",), 6)
    features, rois = case.features(dtype), case.rois()
    pooled = roialign.prroi_pool(features, rois, case.output_size_hw, case.spatial_scale)
    wide = roialign.prroi_pool(features.float(), rois, case.output_size_hw, case.spatial_scale)
    assert torch.equal(pooled, wide.to(dtype))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(
            roialign.prroi_pool(features, rois.double(), case.output_size_hw, case.spatial_scale), pooled
        )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph(backend):
    torch._dynamo.reset()
    module = roialign.PrRoIPool((3, 2), 0.5)
    features = torch.rand(2, 3, 8, 9, requires_grad=True)
    rois = torch.tensor([[0.0, 1, 2, 9, 11], [1.0, 3, 1, 8, 20]], requires_grad=True)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    wanted = torch.autograd.grad(module(features, rois).square().sum(), (features, rois))
    found = torch.autograd.grad(compiled(features, rois).square().sum(), (features, rois))
    torch.testing.assert_close(found, wanted)


def test_observers_see_the_call_and_its_name(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    roialign.prroi_pool(MAP, ROIS, (2, 3), 0.5)
    (call,) = seen
    assert (call.operator, call.output_size_hw, call.spatial_scale) == ("prroi_pool", (2, 3), 0.5)
    roialign.roi_align(MAP, ROIS, 2)
    assert seen[1].operator == "roi_align"


def test_boxes_off_the_map_are_said():
    with roialign.set_policy("raise"), pytest.raises(errors.CoverageError, match=r"^RA"):
        roialign.prroi_pool(MAP, torch.tensor([[0.0, 90, 90, 99, 99]]), 2)


@pytest.mark.parametrize(
    ("bad", "good", "error", "message"),
    [row[1:] for row in REFUSED if not {"sampling_ratio", "aligned"} & row[1].keys() and "quantized" not in row[0]],
)
def test_refused_as_roi_align_refuses(bad, good, error, message):
    arguments = {"input": MAP, "boxes": ROIS, "output_size": 2}
    with pytest.raises(error, match=f"^({message})"):
        roialign.prroi_pool(**arguments | bad)
    assert roialign.prroi_pool(**arguments | good).isfinite().all()


@pytest.mark.parametrize(
    ("bad", "good", "error", "message"), [row[1:] for row in BAD_VALUES if row[0] != "astronomical"]
)
def test_bad_values_are_named_with_their_row(bad, good, error, message):
    with pytest.raises(error, match=f"^{message}"):
        roialign.prroi_pool(MAP, bad, 2)
    assert roialign.prroi_pool(MAP, good, 2).isfinite().all()
