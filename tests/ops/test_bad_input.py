"""What is refused, with which words, next to the nearest call that is not; and that nothing crashes."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roialign
from roialign import errors
from roialign.ops import registered
from roialign.ops.operators import ROI_ALIGN
from roialign.ops.perform import refuse

from .refusals import ASTRONOMICAL, BAD_DIRECT, BAD_VALUES, MAP, REFUSED, ROIS

NAN = float("nan")
OPS = [
    name
    for name in registered.SCHEMAS
    for kind in ("roi_align", "roi_align_3d", "roi_align_max", "prroi_pool", "multi_scale_roi_align")
    if name in (kind, f"{kind}_backward", f"{kind}_backward_boxes")  # the others have tests of their own
]


def call(**changes):
    return roialign.roi_align(**{"input": MAP, "boxes": ROIS, "output_size": 2, "sampling_ratio": -1} | changes)


@pytest.mark.parametrize(
    ("bad", "good", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_with_its_code_and_the_way_out(bad, good, error, message):
    with pytest.raises(error, match=f"^({message})") as raised:
        call(**bad)
    assert raised.value.code == str(raised.value)[:5]
    assert call(**good).isfinite().all()


def test_no_images_have_no_index():
    with pytest.raises(errors.BatchIndexError, match=r"^RA206: ") as raised:
        call(input=MAP[:0])
    assert "from 0 to -1" not in str(raised.value)
    assert call(input=MAP[:0], boxes=ROIS[:0]).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("bad", "good", "error", "message"), [row[1:] for row in BAD_VALUES], ids=[row[0] for row in BAD_VALUES]
)
def test_bad_values_are_named_with_their_row(bad, good, error, message, dtype):
    with pytest.raises(error, match=f"^{message}"):
        call(input=MAP.to(dtype), boxes=bad.to(dtype))
    assert call(input=MAP.to(dtype), boxes=good.to(dtype)).isfinite().all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("bad", "good", "error"), [row[1:4] for row in BAD_VALUES], ids=[row[0] for row in BAD_VALUES])
def test_bad_values_raise_from_the_registered_operators_too(op, bad, good, error):
    if bad.abs().max() == ASTRONOMICAL and op.startswith("prroi_pool"):
        pytest.skip("without samples there are none to count")
    code = {errors.BoxesValueError: "RA205", errors.BatchIndexError: "RA206"}[error]
    with pytest.raises((RuntimeError, errors.RoIError), match=f"^{code}: "):
        call_operator(op, rois=bad)
    call_operator(op, rois=good)


def call_operator(op, input=MAP, rois=ROIS, size=(2, 2), scale=1.0, ratio=-1, images=None, grad=None):
    grad = torch.ones(len(rois), 3, *size) if grad is None else grad
    shape = (input.shape[0] if images is None else images, *input.shape[2:])
    run = getattr(torch.ops.roialign, op)
    if "3d" in op:
        return call_3d(run, op, input, rois, size, scale, ratio, shape, grad)
    if op.startswith("roi_align_max"):
        options = scale, ratio, True, False
        return run(grad, input, rois, *options) if "backward" in op else run(input, rois, *size, *options)
    if op.startswith("prroi_pool"):
        return call_prroi_pool(run, op, input, rois, size, scale, shape, grad)
    if op.startswith("multi_scale"):
        return call_multi_scale(run, op, input, rois, size, [scale, 0.5] * 2, ratio, shape, grad)
    if op == "roi_align":
        return run(input, rois, *size, scale, ratio, True)
    return (
        run(grad, rois, *shape, scale, ratio, True)
        if op.endswith("backward")
        else run(grad, input, rois, scale, ratio, True)
    )


def call_3d(run, op, input, rois, size, scale, ratio, shape, grad):
    """With maps as volumes of one plane, and boxes one cell deep."""
    depth = torch.tensor([0.0, 1.0], dtype=rois.dtype).expand(len(rois), 2) / (scale or 1)
    if rois.shape[1] == 5:
        rois = torch.cat([rois[:, :3], depth[:, :1], rois[:, 3:], depth[:, 1:]], 1)
    options = scale, scale, scale, ratio, True
    if op == "roi_align_3d":
        return run(input[:, :, None], rois, 1, *size, *options)
    if op.endswith("backward"):
        return run(grad[:, :, None], rois, shape[0], 1, *shape[1:], *options)
    return run(grad[:, :, None], input[:, :, None], rois, *options)


def call_prroi_pool(run, op, input, rois, size, scale, shape, grad):
    if op == "prroi_pool":
        return run(input, rois, *size, scale)
    return run(grad, rois, *shape, scale) if op.endswith("backward") else run(grad, input, rois, scale)


def call_multi_scale(run, op, input, rois, size, cells, ratio, shape, grad):
    levels = torch.zeros(len(rois), dtype=torch.int64)
    if op == "multi_scale_roi_align":
        return run([input], rois, levels, cells, *size, ratio, False)
    if op.endswith("backward"):
        return run(grad, rois, levels, shape[0], [shape[1]], [shape[2]], cells, ratio, False)
    return run(grad, [input], rois, levels, cells, ratio, False)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("bad", "code"), [row[1:] for row in BAD_DIRECT], ids=[row[0] for row in BAD_DIRECT])
def test_bad_options_raise_from_the_registered_operators_too(op, bad, code):
    if "ratio" in bad and op.startswith("prroi_pool"):
        pytest.skip("it has no sampling_ratio")
    with pytest.raises((RuntimeError, errors.RoIError), match=f"^{code}"):
        call_operator(op, **bad)


@pytest.mark.parametrize("op", [name for name in OPS if "backward" in name])
def test_a_gradient_for_other_boxes_is_refused(op):
    with pytest.raises((RuntimeError, errors.RoIError), match=r"^RA\d{3}: "):
        call_operator(op, grad=torch.ones(5, 3, 2, 2))


@pytest.mark.kernels
@pytest.mark.parametrize("row", [3, 9_999, 19_999])
def test_the_row_is_named_wherever_it_is(row):
    """The kernels take 20000 boxes in several passes, and in another order."""
    rois = ROIS[:1].repeat(20_000, 1)
    rois[row, 4] = NAN
    with pytest.raises(
        errors.BoxesValueError, match=rf"^RA205: .*1 unusable rows of 20000, the first boxes\[{row}\] = "
    ):
        call(boxes=rois)
    with pytest.raises(RuntimeError, match=rf"^RA205: box {row} has"):
        torch.ops.roialign.roi_align(MAP, rois, 2, 2, 1.0, 2, True)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("first", [0.0, 0.5, 1.0, 3.0])
def test_kernels_and_words_draw_the_line_at_the_same_size(first, aligned):
    """Boxes around the largest adaptive grid are pooled, or refused in words: never in the kernel's."""
    for beyond in range(-6, 8):
        rois = torch.tensor([[0.0, first, 0.0, 2.0**24 + beyond, 2.0]])
        with contextlib.suppress(errors.BoxesValueError):
            assert call(boxes=rois, output_size=1, aligned=aligned).isfinite().all()


def test_coordinates_whose_difference_overflows_are_usable_once_the_scale_has_shrunk_them():
    extreme = torch.tensor([[0.0, -3e38, -3e38, 3e38, 3e38]])
    assert call(boxes=extreme, spatial_scale=1e-10, sampling_ratio=2).isfinite().all()
    refuse(ROI_ALIGN, 2, extreme, (2, 2), (1e-10, 2, True))  # what the reference is guarded with


def test_thousands_of_hostile_calls_never_crash():
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hostile.py")), "4000"], capture_output=True, text=True
    )
    assert child.returncode == 0, f"exit code {child.returncode}\n{child.stdout}\n{child.stderr[-2000:]}"


def test_quantized_tensors_are_told_how_to_become_others():
    quantized = torch.quantize_per_tensor(torch.rand(1, 2, 8, 8), 0.1, 0, torch.quint8)
    boxes, masks = torch.tensor([[0.0, 1, 1, 6, 6]]), torch.ones(1, 8, 8)
    for function in (roialign.roi_pool, roialign.prroi_pool, roialign.roi_align_rotated):
        with pytest.raises(errors.DtypeError, match=r"RA505: .*quint8.*Use input\.dequantize\(\)"):
            function(quantized, boxes, 2)
    with pytest.raises(errors.DtypeError, match=r"RA505: .*quint8.*Use input\.dequantize\(\)"):
        roialign.masked_roi_align(quantized, boxes, masks, 2)
    with pytest.raises(errors.MaskError, match=r"RA309: .*quint8.*Use masks\.dequantize\(\)"):
        roialign.masked_roi_align(quantized.dequantize(), boxes, quantized[:, 0], 2)
