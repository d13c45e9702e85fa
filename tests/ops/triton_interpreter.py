"""The kernels in Triton's interpreter: `TRITON_INTERPRET=1 python -m tests.ops.triton_interpreter [COUNT FAMILY]`.

COUNT of the cases of each operator of a family are run, all of all families without it; it exits with 0 if they are
right. Those of `roi_align` and pyramids stand here, the others in `triton_taps.py` and `triton_sampled.py`.
`test_triton.py` runs this in a child process, for the interpreter is chosen when the kernels are imported.
"""

import sys

import torch

from roialign.ops.triton import functions, lists, operators
from tests.ops import tolerances, triton_sampled, triton_taps
from tests.ops.served import reference
from tests.ops.triton_taps import ROWS, USABLE

NAN, INF = float("nan"), float("inf")
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
PLANES, CHANNELS = torch.contiguous_format, torch.channels_last
CASES = (  # type, layout, width, sampling_ratio, aligned, whether maps may be copied
    *((F32, PLANES, 19, 2, True, False), (BF16, CHANNELS, 16, 0, False, True), (F32, PLANES, 16, 0, True, True)),
    *((F64, CHANNELS, 19, 2, False, True), (F16, PLANES, 19, 3, True, False), (F64, PLANES, 16, 0, False, False)),
    *((BF16, PLANES, 19, 2, True, True), (F16, CHANNELS, 16, 2, False, True), (F32, CHANNELS, 19, 1, True, True)),
)


def check(dtype: torch.dtype, layout: torch.memory_format, width: int, ratio: int, aligned: bool, copied: bool) -> None:
    """Features, coverage and both gradients against the reference in float64, and what bad boxes give."""
    functions.COPY_PAYS = 10**6 if copied else 0
    generator = torch.Generator().manual_seed(width)
    exact_features = torch.randn(2, 5, 13, width, generator=generator, dtype=F64).to(dtype)
    features = exact_features.contiguous(memory_format=layout)
    rois = torch.tensor(ROWS, dtype=F64 if dtype == F64 else F32)
    grad = torch.randn(len(ROWS), 5, 2, 3, generator=generator, dtype=F64).to(dtype)
    size, options = (2, 13, width), (0.25, ratio, aligned)
    output, coverage = operators.roi_align(features, rois, 2, 3, *options)
    grad_input = operators.roi_align_backward(grad, rois, *size, *options)
    grad_rois = operators.roi_align_backward_boxes(grad, features, rois, *options)
    exact, exact_rois, exact_grad = exact_features.double(), rois.double()[USABLE], grad.double()[USABLE]
    expected, expected_coverage = reference.roi_align(exact, exact_rois, 2, 3, *options)
    # the interpreter cuts bfloat16 off where a GPU rounds
    cut = 2 if dtype == BF16 else 1
    tolerances.assert_close(output[USABLE], expected, cut * expected)
    tolerances.assert_close(coverage[USABLE], expected_coverage, torch.ones(1))
    of_input = reference.roi_align_backward(exact_grad, exact_rois, *size, *options)
    tolerances.assert_close(grad_input, of_input, cut * of_input)
    of_rois = reference.roi_align_backward_boxes(exact_grad, exact, exact_rois, *options)
    tolerances.assert_close(grad_rois[USABLE], of_rois, of_rois)
    bad = slice(USABLE.stop, None)
    assert bool(output[bad].isnan().all()), "a bad box gives numbers"
    assert bool(coverage[bad].isnan().all()), "a bad box has a coverage"
    assert not bool(grad_rois[bad].any()), "a bad box has a gradient"


def check_levels() -> None:
    """Two maps in one call, with scales and offsets of their own along each axis."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 5, *size, generator=generator) for size in ((13, 19), (8, 8))]
    rois, levels = torch.tensor(ROWS[USABLE], dtype=F32), torch.tensor([0, 1, 0, 1, 1, 0])
    cells, options = [0.25, 0.25, 0.3, 0.75, 0.125, 0.5, 0.125, 0.5], (2, True)
    grad = torch.randn(6, 5, 2, 2, generator=generator)
    of_maps = (2, [13, 8], [19, 8], cells, *options)
    for found, expected in (
        (
            operators.multi_scale_roi_align(maps, rois, levels, cells, 2, 2, *options),
            reference.multi_scale_roi_align(maps, rois, levels, cells, 2, 2, *options),
        ),
        (
            operators.multi_scale_roi_align_backward(grad, rois, levels, *of_maps),
            reference.multi_scale_roi_align_backward(grad, rois, levels, *of_maps),
        ),
        (
            [operators.multi_scale_roi_align_backward_boxes(grad, maps, rois, levels, cells, *options)],
            [reference.multi_scale_roi_align_backward_boxes(grad, maps, rois, levels, cells, *options)],
        ),
    ):
        for one, other in zip(found, expected, strict=True):
            tolerances.assert_close(one, other, other)


def check_special() -> None:
    """Infinities stay where they are read; tiles without room for their boxes give the same bits; so do splits."""
    rois, grad = torch.tensor(ROWS[USABLE], dtype=F32)[:2], torch.ones(2, 1, 2, 2)
    grad[0, 0, 0, 0], grad[0, 0, 1, 1] = INF, NAN
    arguments = (rois, 2, 13, 19, 0.25, 2, True)
    found, expected = operators.roi_align_backward(grad, *arguments), reference.roi_align_backward(grad, *arguments)
    tolerances.assert_same_kinds(found, expected)
    grad = torch.randn(2, 1, 2, 2)
    roomy = operators.roi_align_backward(grad, *arguments)
    lists.LISTED_BOXES = 1
    assert torch.equal(operators.roi_align_backward(grad, *arguments), roomy), "other bits without room"
    lists.LISTED_BOXES = 1 << 23
    many = torch.cat([rois, rois + 0.5] * 20)
    grad, split = torch.randn(len(many), 1, 1, 1), (many[many[:, 0] == 0], 1, 8, 8, 0.25, 1, True)
    grad = grad[many[:, 0] == 0]
    expected = reference.roi_align_backward(grad, *split)
    tolerances.assert_close(operators.roi_align_backward(grad, *split), expected, expected)


def check_boxes(count: int | None) -> None:
    for case in CASES[:count]:
        check(*case)
    check_levels()
    check_special()


FAMILIES = {"boxes": check_boxes, "taps": triton_taps.main, "sampled": triton_sampled.main}


def main(count: str | None = None, family: str | None = None) -> None:
    for name, check_family in FAMILIES.items():
        if family in (None, name):
            check_family(None if count is None else int(count))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
