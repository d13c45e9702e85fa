"""`roi_align_1d`: against the definition as loops, and against `roi_align` on maps of constant columns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import roialign
from roialign import errors
from roialign.ops import calls

from .cases import Case, axis_positions, distance_to_kinks, random_case, random_cases
from .tolerances import assert_close

HALF = (torch.float16, torch.bfloat16)
SIGNAL = torch.rand(2, 3, 9)
SEGMENTS = torch.tensor([[0.0, 1, 5], [1, 2, 8]])


def signal_of(case: Case, dtype: torch.dtype) -> Tensor:
    return case.features(dtype)[:, :, 0]


def segments_of(case: Case, dtype: torch.dtype) -> Tensor:
    return case.rois(dtype)[:, [0, 1, 3]]


def pool(case: Case, signal: Tensor, segments: Tensor) -> Tensor:
    return roialign.roi_align_1d(signal, segments, case.output_size_hw[1], *case.sampling)


def linear(values: list[float], x: float) -> float:
    if not -1 <= x <= len(values):
        return 0.0
    x = min(max(x, 0.0), len(values) - 1)
    left = int(x)
    return values[left] * (left + 1 - x) + values[min(left + 1, len(values) - 1)] * (x - left)


def brute_force(signal: Tensor, segments: Tensor, bins: int, *sampling) -> Tensor:
    signals, output = signal.double().tolist(), torch.zeros(len(segments), signal.shape[1], bins, dtype=torch.float64)
    for k, (index, start, end) in enumerate(segments.double().tolist()):
        positions, grid = axis_positions(start, end, bins, *sampling)
        for c, values in enumerate(signals[int(index)]):
            for p, xs in enumerate(positions):
                output[k, c, p] = sum(linear(values, x) for x in xs) / max(grid, 1)
    return output


def test_equals_the_definition():
    for case in random_cases(250):
        signal, segments = signal_of(case, torch.float64), segments_of(case, torch.float64)
        expected = brute_force(signal, segments, case.output_size_hw[1], *case.sampling)
        assert_close(pool(case, signal, segments), expected, scale=signal)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_equals_roi_align_on_a_map_of_constant_columns(dtype):
    for case in random_cases(60, first_seed=300):
        signal = signal_of(case, dtype)
        segments = segments_of(case, torch.promote_types(dtype, torch.float32))
        index, start, end = segments.unbind(1)
        scale = case.spatial_scale
        rois = torch.stack([index, start, torch.full_like(start, 2 / scale), end, torch.full_like(start, 6 / scale)], 1)
        high = signal[:, :, None].expand(-1, -1, 9, -1)
        expected = roialign.roi_align(high.contiguous(), rois, (1, case.output_size_hw[1]), *case.sampling)
        found = pool(case, signal, segments)
        assert found.dtype == dtype
        assert_close(found, expected[:, :, 0], scale=signal)


def test_the_output_is_contiguous_whatever_the_strides():
    case = replace(random_case(4), input_shape=(2, 20, 1, 30)).with_boxes(("inside", "partly outside"), 4)
    signal, segments = signal_of(case, torch.float32), segments_of(case, torch.float32)
    expected = pool(case, signal, segments)
    assert expected.is_contiguous()
    for strided in (signal.transpose(1, 2).contiguous().transpose(1, 2), torch.stack([signal] * 2, -1)[..., 1]):
        assert_close(pool(case, strided, segments), expected, scale=signal)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_finite_differences_agree(ratio, aligned):
    for case in random_cases(500, first_seed=70, sampling_ratio=ratio, aligned=aligned, largest=8):
        case = case.with_boxes(("inside", "partly outside"), 3)
        segments = segments_of(case, torch.float64)
        boxes = torch.stack([*segments[:, :2].T, segments[:, 1], segments[:, 2], segments[:, 2]], 1)
        bins = case.output_size_hw[1]
        if case.input_shape[3] >= 4 and distance_to_kinks(boxes, bins, bins, *case.sampling) > 1e-3:
            break
    else:
        raise AssertionError("no such case among 500")
    signal, sides = signal_of(case, torch.float64).requires_grad_(), segments[:, 1:].clone().requires_grad_()

    def pooled(signal, sides):
        return pool(case, signal, torch.cat([segments[:, :1], sides], 1))

    assert gradcheck(pooled, (signal, sides), atol=1e-6)
    assert gradgradcheck(lambda values: pooled(values, sides.detach()), (signal,), atol=1e-7)


def test_the_list_form_and_the_module():
    as_list = [SEGMENTS[:1, 1:], SEGMENTS[1:, 1:]]
    module = roialign.RoIAlign1d(4, 0.5, 2, True)
    assert torch.equal(module(SIGNAL, as_list), roialign.roi_align_1d(SIGNAL, SEGMENTS, 4, 0.5, 2, True))
    assert repr(module) == "RoIAlign1d(output_size=4, spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    for nothing in ([], [torch.empty(0, 2)], torch.empty(0, 3)):
        assert roialign.roi_align_1d(SIGNAL, nothing, 4).shape == (0, 3, 4)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30])
def test_any_scale_serves(scale):
    segments = torch.tensor([[0.0, 0.0, 1.0]])
    output = roialign.roi_align_1d(torch.ones(1, 1, 5), segments, 1, scale, 1, True)
    assert output.item() == (1.0 if scale < 1 else 0.0)


def test_compiles_in_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(roialign.roi_align_1d, fullgraph=True, backend="aot_eager")
    for scale in (0.5, 0.25):
        expected = roialign.roi_align_1d(SIGNAL, SEGMENTS, 4, scale, 2)
        assert torch.equal(compiled(SIGNAL, SEGMENTS, 4, scale, 2), expected)


def test_observers_see_a_map_of_one_row(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    output = roialign.roi_align_1d(SIGNAL, SEGMENTS, 4, 0.5, 2, True)
    (call,) = seen
    assert (call.operator, call.map_size_hw, call.output_size_hw) == ("roi_align_1d", (1, 9), (1, 4))
    assert torch.equal(call.run()[0][:, :, 0], output)
    assert call.coverage().tolist() == [1.0, 1.0]


def test_segments_off_the_signal_are_said():
    with roialign.set_policy("raise"):
        roialign.roi_align_1d(SIGNAL, SEGMENTS, 4, aligned=True)
        with pytest.raises(errors.CoverageError, match=r"^RA"):
            roialign.roi_align_1d(SIGNAL, torch.tensor([[0.0, 90, 99]]), 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"input": [1.0]},
            errors.FeatureMapError,
            r"RA306: expected features \[N, C, L\] with L >= 1; got a list of 1",
        ),
        ({"input": SIGNAL[0]}, errors.FeatureMapError, r"RA306: .*\[3, 9\]\. .*input\[None\]"),
        ({"input": SIGNAL[:, :, :0]}, errors.FeatureMapError, r"RA306: .*\[2, 3, 0\]\. Look at the layer"),
        ({"input": SIGNAL[None]}, errors.FeatureMapError, r"RA306: .*\[1, 2, 3, 9\]"),
        ({"input": SIGNAL.int()}, errors.DtypeError, r"RA505: expected dense floating-point features"),
        ({"segments": SEGMENTS[:, 1:]}, errors.BoxesShapeError, r"RA207: .*\(batch index, start, end\).*\[segments\]"),
        ({"segments": [SEGMENTS]}, errors.BoxesShapeError, r"RA210: .*torch\.empty\(0, 2\) for no segments"),
        ({"segments": None}, errors.BoxesShapeError, r"RA210: .*Use torch\.tensor\(segments\)"),
        ({"segments": SEGMENTS.double()}, errors.DtypeError, r"RA505: expected float32 segments .*segments\.to\("),
        ({"segments": [SEGMENTS[:, 1:]] * 3}, errors.BatchIndexError, r"RA208: .*3 lists"),
        ({"output_size": 0}, errors.OutputSizeError, r"RA506: expected output_size, one integer of at least 1; got 0"),
        ({"output_size": (2, 2)}, errors.OutputSizeError, r"RA506: .*got \(2, 2\)"),
        ({"spatial_scale": -1.0}, errors.ScaleError, r"RA105: .*-1\.0"),
        ({"sampling_ratio": 1.5}, errors.OutputSizeError, r"RA506: .*sampling_ratio.*1\.5"),
        (
            {"segments": torch.tensor([[0.0, 1, 5], [1, 2, float("nan")]])},
            errors.BoxesValueError,
            r"RA205: .*segments\[1\] = \[1, 2, nan\]",
        ),
        (
            {"segments": torch.tensor([[2.0, 1, 5]])},
            errors.BatchIndexError,
            r"RA206: .*segments\[0\] = \[2, 1, 5\].*then start, end",
        ),
    ],
)
def test_refused(change, error, message):
    good = {"input": SIGNAL, "segments": SEGMENTS, "output_size": 4}
    assert roialign.roi_align_1d(**good).shape == (2, 3, 4)
    with pytest.raises(error, match=f"^{message}"):
        roialign.roi_align_1d(**good | change)
