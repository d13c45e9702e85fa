"""`roi_align_3d`: against the definition as loops, and against `roi_align` where volumes and boxes are flat."""

import random
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign import errors
from roialign.ops import notice

from .cases import PLACES, _side, axis_positions, poisoned
from .served import reference
from .tolerances import assert_close, assert_close_where_finite

OP = torch.ops.roialign
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALF)
VOLUME = torch.rand(2, 3, 5, 7, 8)
BOXES = torch.tensor([[0.0, 1, 1, 1, 5, 5, 4], [1, 2, 2, 0, 6, 6, 3]])
each_backend = pytest.mark.parametrize("pool", [OP.roi_align_3d, reference.roi_align_3d], ids=["C++", "reference"])


@dataclass(frozen=True)
class Case:
    """One call of `roi_align_3d`."""

    seed: int
    input_shape: tuple[int, ...]
    boxes: tuple[tuple[float, ...], ...]
    output_size_dhw: tuple[int, int, int]
    scales_zyx: tuple[float, float, float]
    sampling_ratio: int
    aligned: bool

    @property
    def sampling(self) -> tuple[float, float, float, int, bool]:
        return (*self.scales_zyx, self.sampling_ratio, self.aligned)

    @property
    def options(self) -> tuple:
        return (*self.output_size_dhw, *self.sampling)

    @property
    def image_size(self) -> tuple[int, ...]:
        return self.input_shape[:1] + self.input_shape[2:]

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Features, rois and an upstream gradient."""
        generator = torch.Generator().manual_seed(self.seed)
        features = torch.randn(self.input_shape, generator=generator)
        shape = (len(self.boxes), self.input_shape[1], *self.output_size_dhw)
        upstream = torch.randn(shape, generator=generator)
        rois = torch.tensor(self.boxes).reshape(-1, 7).to(torch.promote_types(dtype, torch.float32))
        return features.to(dtype), rois, upstream.to(dtype)


def random_case(seed: int, places: tuple[str, ...] = PLACES, largest: int = 9, **fixed) -> Case:
    rng = random.Random(seed)
    size = tuple(rng.randint(1, largest) for _ in range(3))
    shape = rng.randint(1, 2), rng.choice([1, 2, 3, 5, 18]), *size
    scales = tuple(rng.choice([1.0, 1 / 2, 1 / 3, 1 / 8]) for _ in range(3))
    boxes = []
    for _ in range(rng.randint(1, 6)):
        place = rng.choice(places)
        (z1, z2), (y1, y2), (x1, x2) = (
            tuple(side / scale for side in _side(rng, extent, place))
            for extent, scale in zip(size, scales, strict=True)
        )
        boxes.append((float(rng.randrange(shape[0])), x1, y1, z1, x2, y2, z2))
    bins = tuple(rng.randint(1, 4) for _ in range(3))
    options = {"sampling_ratio": rng.randint(0, 3), "aligned": rng.random() < 0.5} | fixed
    return Case(seed, shape, tuple(boxes), bins, scales, **options)


def random_cases(count: int, first_seed: int = 0, **fixed) -> Iterator[Case]:
    for seed in range(first_seed, first_seed + count):
        yield random_case(seed, **fixed)


def axis_matrix(low: float, high: float, pooled: int, extent: int, scale: float, ratio: int, aligned: bool) -> Tensor:
    """Weights [pooled, extent], sample by sample."""
    positions, grid = axis_positions(low, high, pooled, scale, ratio, aligned)
    matrix = torch.zeros(pooled, extent, dtype=torch.float64)
    for p, values in enumerate(positions):
        for value in values:
            if -1 <= value <= extent:
                inside = min(max(value, 0.0), extent - 1)
                cell = int(inside)
                matrix[p, cell] += (cell + 1 - inside) / grid
                matrix[p, min(cell + 1, extent - 1)] += (inside - cell) / grid
    return matrix


def trilinear(volume: list, z: float, y: float, x: float) -> float:
    sizes = len(volume), len(volume[0]), len(volume[0][0])
    if not all(-1 <= value <= size for value, size in zip((z, y, x), sizes, strict=True)):
        return 0.0
    sides = []
    for value, size in zip((z, y, x), sizes, strict=True):
        value = min(max(value, 0.0), size - 1)
        low = int(value)
        sides.append(((low, low + 1 - value), (min(low + 1, size - 1), value - low)))
    return sum(volume[k][j][i] * wz * wy * wx for (k, wz), (j, wy), (i, wx) in product(*sides))


def brute_force(features: Tensor, rois: Tensor, case: Case) -> Tensor:
    """The definition as plain loops over all samples."""
    pd, ph, pw = case.output_size_dhw
    ratio, aligned = case.sampling_ratio, case.aligned
    output = torch.zeros(len(rois), features.shape[1], pd, ph, pw, dtype=torch.float64)
    volumes = features.double().tolist()
    for k, (image, x1, y1, z1, x2, y2, z2) in enumerate(rois.double().tolist()):
        sides = (z1, z2, pd), (y1, y2, ph), (x1, x2, pw)
        along = [
            axis_positions(low, high, bins, scale, ratio, aligned)
            for (low, high, bins), scale in zip(sides, case.scales_zyx, strict=True)
        ]
        count = max(along[0][1] * along[1][1] * along[2][1], 1)
        for c, p, q, r in product(range(features.shape[1]), range(pd), range(ph), range(pw)):
            samples = product(along[0][0][p], along[1][0][q], along[2][0][r])
            output[k, c, p, q, r] = sum(trilinear(volumes[int(image)][c], *sample) for sample in samples) / count
    return output


def kernels(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    return (
        *OP.roi_align_3d(features, rois, *case.options),
        OP.roi_align_3d_backward(upstream, rois, *case.image_size, *case.sampling),
        OP.roi_align_3d_backward_boxes(upstream, features, rois, *case.sampling),
    )


def references(features: Tensor, rois: Tensor, upstream: Tensor, case: Case) -> tuple[Tensor, ...]:
    features, upstream = features.to(rois.dtype), upstream.to(rois.dtype)
    return (
        *reference.roi_align_3d(features, rois, *case.options),
        reference.roi_align_3d_backward(upstream, rois, *case.image_size, *case.sampling),
        reference.roi_align_3d_backward_boxes(upstream, features, rois, *case.sampling),
    )


def test_equals_the_definition_sample_by_sample():
    for case in random_cases(60, largest=5):
        features, rois, _ = case.tensors(torch.float64)
        assert_close(OP.roi_align_3d(features, rois, *case.options)[0], brute_force(features, rois, case), features)


@each_backend
def test_equals_the_definition_axis_by_axis(pool):
    """The same for larger volumes: the three axes are independent of one another."""
    for case in random_cases(240, first_seed=100, largest=16):
        features, rois, _ = case.tensors(torch.float64)
        output, coverage = pool(features, rois, *case.options)
        for k, (image, x1, y1, z1, x2, y2, z2) in enumerate(rois.tolist()):
            sides = (z1, z2), (y1, y2), (x1, x2)
            az, ay, ax = (
                axis_matrix(*side, bins, extent, scale, case.sampling_ratio, case.aligned)
                for side, bins, extent, scale in zip(
                    sides, case.output_size_dhw, case.input_shape[2:], case.scales_zyx, strict=True
                )
            )
            expected = torch.einsum("pz,qy,rx,czyx->cpqr", az, ay, ax, features[int(image)])
            assert_close(output[k], expected, scale=features)
            assert float(coverage[k]) == pytest.approx(float(az.mean(0).sum() * ay.mean(0).sum() * ax.mean(0).sum()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_kernels_equal_the_reference(dtype, layout):
    one = torch.ones(())
    for case in random_cases(60, first_seed=1000, largest=12):
        features, rois, upstream = case.tensors(dtype)
        expected = references(features, rois, upstream, case)
        features, upstream = (tensor.contiguous(memory_format=layout) for tensor in (features, upstream))
        actual = kernels(features, rois, upstream, case)
        for result, wanted, scale in zip(actual, expected, (features, one, *expected[2:]), strict=True):
            assert_close(result, wanted, scale)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_volume_of_equal_slices_is_pooled_as_a_map(pool, dtype):
    for case in random_cases(40, first_seed=2000, places=("inside",), sampling_ratio=2):
        features, rois, _ = case.tensors(dtype)
        depth = 30
        features = features[:, :, :1].expand(-1, -1, depth, -1, -1)
        rois[:, [3, 6]] = torch.tensor([5.0, 20.0], dtype=rois.dtype) / case.scales_zyx[0]
        output = pool(features.contiguous(), rois, *case.options)[0]
        scale = case.scales_zyx[1]
        rois[:, [1, 4]] *= case.scales_zyx[2] / scale
        expected = roialign.roi_align(
            features[:, :, 0].contiguous(), rois[:, [0, 1, 2, 4, 5]], case.output_size_dhw[1:], scale, 2, case.aligned
        )
        assert_close(output, expected[:, :, None].expand_as(output), scale=features)


def test_every_axis_is_treated_alike():
    """Volume, boxes and scales with their axes in another order give the bins in that order."""
    for case in random_cases(40, first_seed=3000):
        features, rois, _ = case.tensors(torch.float64)
        expected = OP.roi_align_3d(features, rois, *case.options)[0]
        turned = rois[:, [0, 3, 1, 2, 6, 4, 5]]  # x is what was z, y what was x, z what was y
        d, h, w = case.output_size_dhw
        z, y, x = case.scales_zyx
        options = (h, w, d, y, x, z, case.sampling_ratio, case.aligned)
        output = OP.roi_align_3d(features.permute(0, 1, 3, 4, 2).contiguous(), turned, *options)[0]
        assert_close(output.permute(0, 1, 4, 2, 3), expected, scale=features)


@pytest.mark.parametrize("values", [(float("nan"),), (float("inf"), float("-inf"))], ids=["nan", "infinite"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_reaches_what_reads_it_and_nothing_else(values, dtype):
    for case in random_cases(30, first_seed=600):
        features, rois, upstream = case.tensors(dtype)
        features, upstream = (poisoned(tensor, values, case.seed) for tensor in (features, upstream))
        actual, expected = kernels(features, rois, upstream, case), references(features, rois, upstream, case)
        assert_close_where_finite(actual[0], expected[0].to(dtype), scale=features)
        assert_close_where_finite(actual[2], expected[2].to(dtype), scale=expected[2])


def distance_to_kinks(case: Case) -> float:
    values = []
    for _, x1, y1, z1, x2, y2, z2 in case.boxes:
        sides = zip(((z1, z2), (y1, y2), (x1, x2)), case.output_size_dhw, case.scales_zyx, strict=True)
        for (low, high), pooled, scale in sides:
            bins, _ = axis_positions(low, high, pooled, scale, case.sampling_ratio, case.aligned)
            size = (high - low) * scale
            values += [*chain(*bins), size / pooled]
            values += [] if case.aligned or abs(size - 1) > 0.5 else [size]
    return min(abs(value - round(value)) for value in values)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_finite_differences_agree(ratio, aligned):
    fixed = {"sampling_ratio": ratio, "aligned": aligned, "places": ("inside", "partly outside"), "largest": 5}
    for case in random_cases(3000, **fixed):
        if case.input_shape[1] <= 2 and min(case.input_shape[2:]) >= 3 and distance_to_kinks(case) > 1e-3:
            break
    else:
        raise AssertionError("no such case among 3000")
    features, rois, _ = case.tensors(torch.float64)

    def pool(features, coordinates):
        return OP.roi_align_3d(features, torch.cat([rois[:, :1], coordinates], 1), *case.options)[0]

    features.requires_grad_()
    coordinates = rois[:, 1:].clone().requires_grad_()
    assert gradcheck(pool, (features, coordinates.detach()), atol=1e-7)
    assert gradcheck(pool, (features.detach(), coordinates), atol=1e-6)
    assert gradgradcheck(lambda values: pool(values, coordinates.detach()), (features,), atol=1e-7)


def test_explicit_backward_equals_autograd_through_the_reference():
    for case in random_cases(30, first_seed=4000):
        features, rois, upstream = (tensor.requires_grad_() for tensor in case.tensors(torch.float64))
        output, _ = reference.roi_align_3d(features, rois, *case.options)
        of_features, of_rois = torch.autograd.grad(output, (features, rois), upstream, allow_unused=True)
        explicit = references(features.detach(), rois.detach(), upstream.detach(), case)
        assert_close(explicit[2], of_features, scale=of_features)
        if of_rois is not None and all(z1 < z2 and y1 < y2 and x1 < x2 for _, x1, y1, z1, x2, y2, z2 in case.boxes):
            assert_close(explicit[3][:, 1:], of_rois[:, 1:], scale=of_rois)


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_and_thread_counts_agree_to_the_bit(dtype):
    rng = random.Random(8)
    corners = [[rng.uniform(-4, 20) for _ in range(3)] for _ in range(60)]
    boxes = tuple((float(rng.randrange(2)), *low, *(side + rng.uniform(0, 12) for side in low)) for low in corners)
    case = Case(8, (2, 20, 12, 20, 24), boxes, (4, 5, 6), (1.0, 1.0, 1.0), 2, True)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(kernels(*case.tensors(dtype), case))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_strides_change_nothing():
    for case in random_cases(20, first_seed=50):
        features, rois, upstream = case.tensors(torch.float64)
        expected = kernels(features, rois, upstream, case)
        for odd in (features.transpose(2, 4).contiguous().transpose(2, 4), torch.stack([features] * 2, -1)[..., 1]):
            again = kernels(odd, rois, torch.stack([upstream] * 2, 2)[:, :, 1], case)
            for result, wanted in zip(again, expected, strict=True):
                assert_close(result, wanted, scale=wanted)
    flat = torch.rand(1, 3, 1, 6, 7)
    rois = torch.tensor([[0.0, 1, 1, 0, 5, 5, 8]])
    assert_close(
        OP.roi_align_3d(flat.expand(-1, -1, 9, -1, -1), rois, 2, 2, 2, 1.0, 1.0, 1.0, 2, True)[0],
        OP.roi_align_3d(flat.repeat(1, 1, 9, 1, 1), rois, 2, 2, 2, 1.0, 1.0, 1.0, 2, True)[0],
        scale=flat,
    )


def test_a_box_of_millions_of_cells_costs_no_more_than_the_volume():
    features = torch.rand(1, 2, 20, 30, 40)
    rois = torch.tensor([[0.0, -1e6, -1e6, -1e6, 1e6, 1e6, 1e6]])
    begin = time.perf_counter()
    output, coverage = OP.roi_align_3d(features, rois, 3, 3, 3, 0.5, 0.5, 0.5, 0, True)
    assert time.perf_counter() - begin < 1
    assert output.isfinite().all()
    assert coverage.max() < 1e-10


def test_no_boxes_the_list_form_and_the_module():
    module = roialign.RoIAlign3d((2, 3, 4), (0.5, 1.0, 2), 2, True)
    as_list = [BOXES[:1, 1:], BOXES[1:, 1:]]
    expected = roialign.roi_align_3d(VOLUME, BOXES, (2, 3, 4), (0.5, 1.0, 2), 2, True)
    assert torch.equal(module(VOLUME, as_list), expected)
    assert "output_size=(2, 3, 4), spatial_scale=(0.5, 1.0, 2), sampling_ratio=2, aligned=True" in repr(module)
    for nothing in ([], [torch.empty(0, 6)], torch.empty(0, 7)):
        assert module(VOLUME, nothing).shape == (0, 3, 2, 3, 4)
    cube, row = roialign.roi_align_3d(VOLUME, BOXES, 2, 0.5), roialign.roi_align_3d(VOLUME, BOXES, (2, 2, 2), [0.5] * 3)
    assert torch.equal(cube, row)


@pytest.mark.parametrize("dtype", HALF)
def test_half_types_are_rounded_once(dtype):
    volume = VOLUME.to(dtype)
    expected = roialign.roi_align_3d(volume.float(), BOXES, 3, 0.5, 2, True).to(dtype)
    assert torch.equal(roialign.roi_align_3d(volume, BOXES, 3, 0.5, 2, True), expected)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(roialign.roi_align_3d(volume, BOXES.double(), 3, 0.5, 2, True), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_in_one_graph(backend):
    torch._dynamo.reset()
    module = roialign.RoIAlign3d((2, 3, 2), 0.5, 2, True)
    features, rois = VOLUME.clone().requires_grad_(), BOXES.clone().requires_grad_()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    wanted = torch.autograd.grad(module(features, rois).square().sum(), (features, rois))
    found = torch.autograd.grad(compiled(features, rois).square().sum(), (features, rois))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_boxes_off_the_volume_are_said_once_for_each_line(axis, monkeypatch):
    monkeypatch.setattr(notice, "_noticed", set())
    off = BOXES.clone()
    off[1, 1 + axis], off[1, 4 + axis] = 90, 99
    with roialign.set_policy("raise"):
        roialign.roi_align_3d(VOLUME, BOXES, 2)
        message = r"^RA209: 1 of 2 RoIs .* boxes\[1\] = .* on 5 x 7 x 8 cells \(z, y, x\)"
        with pytest.raises(errors.CoverageError, match=message):
            roialign.roi_align_3d(VOLUME, off, 2)
    with roialign.set_policy("warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            roialign.roi_align_3d(VOLUME, off, 2)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": None}, errors.FeatureMapError, r"RA306: expected features \[N, C, D, H, W\] with D >= 1 and H"),
        ({"input": VOLUME[0]}, errors.FeatureMapError, r"RA306: .*\[3, 5, 7, 8\]\. .*input\[None\]"),
        ({"input": VOLUME[:, :, :0]}, errors.FeatureMapError, r"RA306: .*\[2, 3, 0, 7, 8\]\. Look at the layer"),
        ({"input": VOLUME.int()}, errors.DtypeError, r"RA505: expected dense floating-point features"),
        (
            {"boxes": BOXES[:, 1:]},
            errors.BoxesShapeError,
            r"RA207: .*\(batch index, x1, y1, z1, x2, y2, z2\).*\[boxes\]",
        ),
        ({"boxes": BOXES[:, :5]}, errors.BoxesShapeError, r"RA210: .*reshape\(-1, 7\)"),
        ({"boxes": [BOXES]}, errors.BoxesShapeError, r"RA210: .*\[L, 6\].*torch\.empty\(0, 6\) for no boxes"),
        ({"boxes": BOXES.long()}, errors.DtypeError, r"RA505: expected floating-point boxes"),
        ({"boxes": [BOXES[:, 1:]] * 3}, errors.BatchIndexError, r"RA208: .*3 lists"),
        ({"output_size": 0}, errors.OutputSizeError, r"RA506: .*three of them \(depth, height, width\); got 0"),
        ({"output_size": (2, 2)}, errors.OutputSizeError, r"RA506: .*got \(2, 2\)"),
        ({"spatial_scale": -1.0}, errors.ScaleError, r"RA105: .*-1\.0"),
        ({"spatial_scale": (1.0, 1.0)}, errors.ScaleError, r"RA105: .*three of them \(z, y, x\); got \(1\.0, 1\.0\)"),
        ({"spatial_scale": (1.0, 0.0, 1.0)}, errors.ScaleError, r"RA105: .*got float 0\.0"),
        ({"sampling_ratio": 1.5}, errors.OutputSizeError, r"RA506: .*sampling_ratio.*1\.5"),
        (
            {"boxes": BOXES * float("nan")},
            errors.BoxesValueError,
            r"RA205: .*2 unusable rows of 2, the first boxes\[0\]",
        ),
        ({"boxes": BOXES + 2}, errors.BatchIndexError, r"RA206: .*boxes\[0\] = \[2, 3, .*then x1, y1, z1, x2, y2, z2"),
        ({"boxes": BOXES * 1e9, "spatial_scale": (1, 1e-9, 1e-9)}, errors.BoxesValueError, r"RA205: .*can count"),
    ],
)
def test_refused(change, error, message):
    good = {"input": VOLUME, "boxes": BOXES, "output_size": 2}
    assert roialign.roi_align_3d(**good).shape == (2, 3, 2, 2, 2)
    with pytest.raises(error, match=f"^{message}"):
        roialign.roi_align_3d(**good | change)
