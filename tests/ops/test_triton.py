"""The Triton kernels, as far as they can be tested without a GPU; `make check-triton` tests more."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from roialign.ops import registered, triton
from roialign.ops.registered import paste_masks
from roialign.ops.triton import operators
from tests.ops.triton_calls import CALLS
from tests.ops.triton_launches import record, record_call

ROOT = Path(__file__).parent.parent.parent
MORE_KERNELS = {
    # the scatter kernel with splits and without; that of angles with spans and without, that of maxima for values and
    # for their places, that of weights with their changes and without
    "roi_align_rotated, ratio 2": 2,
    "roi_align_rotated, adaptive": 2,
    "roi_align_max, ratio 2": 2,
    "roi_align_max, adaptive": 2,
    "masked_roi_align, ratio 2": 1,
    "masked_roi_align, adaptive": 2,
}


@pytest.mark.parametrize(
    "family", ["boxes", pytest.param("taps", marks=pytest.mark.rare), pytest.param("sampled", marks=pytest.mark.rare)]
)
def test_the_interpreter_gives_the_references_results(family: str) -> None:
    command = [sys.executable, "-m", "tests.ops.triton_interpreter", "1", family]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=300)


def test_there_is_a_function_for_every_operator_that_is_registered() -> None:
    assert set(operators.IMPLEMENTATIONS) == set(triton.OPERATORS) == set(registered.SCHEMAS) - set(paste_masks.SCHEMAS)


def test_launches_of_one_form_compile_to_one_kernel() -> None:
    """What was compiled is found again by the form: it has to say all that Triton compiles for."""
    kernels: dict[tuple[object, ...], object] = {}
    sizes = ([(1, 1)], [(33, 50)], [(400, 400)], [(16, 1)], [(64, 96), (32, 48)], [(33, 50), (17, 25)])
    for size, images, scale, boxes in product(sizes, (1, 16), (0.25, 1 / 14), (1, 16, 1000)):
        for layout in (torch.contiguous_format, torch.channels_last):
            for channels in (1, 16, 70):
                launches = record(size, layout=layout, images=images, channels=channels, boxes=boxes, scale=scale)
                for launch in launches:
                    found = launch.specialization()
                    assert kernels.setdefault((launch.name, launch.form), found) == found, launch.name


@pytest.mark.parametrize("sampling", CALLS)
def test_launches_of_one_form_of_other_operators_compile_to_one_kernel(sampling: str) -> None:
    call = CALLS[sampling]
    kernels: dict[tuple[object, ...], object] = {}
    sizes = ((call.cells, 1, 1), (call.cells, 16, 1000), ((1, 1, 1), 1, 16), ((5, 33, 16), 3, 8), ((2, 16, 1), 1, 1000))
    masks = (((28, 28), torch.bool), ((7, 1), torch.float32), ((16, 100), torch.float32))
    for (cells, images, boxes), last, channels, scale in product(sizes, (True, False), (1, 16, 70), (0.25, 1 / 14)):
        for mask_hw, mask_dtype in masks if call.name == "masked_roi_align" else masks[:1]:
            resized = call._replace(cells=cells[-len(call.bins) :], options=(scale, *call.options[1:]))
            masked = resized._replace(mask_hw=mask_hw, mask_dtype=mask_dtype)
            for launch in record_call(masked, channels_last=last, images=images, channels=channels, boxes=boxes):
                found = launch.specialization()
                assert kernels.setdefault((launch.name, launch.form), found) == found, launch.name


@pytest.mark.parametrize("sampling", CALLS)
def test_sizes_do_not_multiply_kernels_of_other_operators(sampling: str) -> None:
    call = CALLS[sampling]
    sizes = ((50, 84), (33, 50), (7, 200)), ((16, 32, 32), (5, 33, 50), (1, 7, 16))
    forms = {
        (launch.name, launch.form)
        for cells, mask_hw in zip(sizes[len(call.bins) - 2], ((28, 28), (33, 50), (100, 7)), strict=True)
        for images, boxes in ((1, 900), (3, 1000), (16, 1024))
        for launch in record_call(
            call._replace(cells=cells, mask_hw=mask_hw), channels_last=True, images=images, boxes=boxes
        )
    }
    assert len(forms) == len({name for name, _ in forms}) + MORE_KERNELS.get(sampling, 0)


def test_sizes_and_scales_do_not_multiply_kernels() -> None:
    forms = {
        (launch.name, launch.form)
        for size in ((33, 50), (64, 96), (1, 7), (200, 336))
        for images, boxes in ((1, 900), (3, 1000), (16, 1024))
        for launch in record([size], torch.float32, torch.channels_last, images=images, boxes=boxes)
    }
    assert len(forms) == len({name for name, _ in forms}) + 1  # the scatter kernel once with splits, once without
