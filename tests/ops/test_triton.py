"""The Triton kernels, as far as they can be tested without a GPU; `make check-triton` tests more."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
ROOT = Path(__file__).parent.parent.parent


def test_the_interpreter_gives_the_references_results() -> None:
    command = [sys.executable, "-m", "tests.ops.triton_interpreter", "1"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True, timeout=300)


def test_launches_of_one_form_compile_to_one_kernel() -> None:
    """What was compiled is found again by the form: it has to say all that Triton compiles for."""
    from tests.ops.triton_launches import record

    kernels: dict[tuple[object, ...], object] = {}
    sizes = ([(1, 1)], [(33, 50)], [(400, 400)], [(16, 1)], [(64, 96), (32, 48)], [(33, 50), (17, 25)])
    for size, images, scale, boxes in product(sizes, (1, 16), (0.25, 1 / 14), (1, 16, 1000)):
        for layout in (torch.contiguous_format, torch.channels_last):
            for channels in (1, 16, 70):
                launches = record(size, layout=layout, images=images, channels=channels, boxes=boxes, scale=scale)
                for launch in launches:
                    found = launch.specialization()
                    assert kernels.setdefault((launch.name, launch.form), found) == found, launch.name


@pytest.mark.parametrize("name", ["roi_align_rotated", "roi_align_max", "masked_roi_align"])
def test_the_same_of_the_other_operators(name: str) -> None:
    from tests.ops.triton_launches import OPTIONS, record_operator

    kernels: dict[tuple[object, ...], object] = {}
    flags = list(product((False, True), repeat=len(OPTIONS[name])))
    for size, images, scale, boxes in product(((1, 1), (33, 50), (16, 1)), (1, 16), (0.25, 1 / 14), (1, 16, 1000)):
        for layout, channels, ratio in product((torch.contiguous_format, torch.channels_last), (1, 16, 70), (0, 2)):
            shape = {"images": images, "channels": channels, "boxes": boxes}
            for options, mask_dtype in zip(flags, (torch.bool, torch.float32) * 2, strict=False):
                mask_hw = (boxes, 28) if options[-1] else (7, 1)
                given = {"scale": scale, "ratio": ratio, "options": options, "mask_hw": mask_hw}
                for launch in record_operator(name, size, layout=layout, mask_dtype=mask_dtype, **given, **shape):
                    found = launch.specialization()
                    assert kernels.setdefault((launch.name, launch.form), found) == found, launch.name


def test_sizes_and_scales_do_not_multiply_kernels() -> None:
    from tests.ops.triton_launches import record

    forms = {
        (launch.name, launch.form)
        for size in ((33, 50), (64, 96), (1, 7), (200, 336))
        for images, boxes in ((1, 900), (3, 1000), (16, 1024))
        for launch in record([size], torch.float32, torch.channels_last, images=images, boxes=boxes)
    }
    assert len(forms) == len({name for name, _ in forms}) + 1  # the scatter kernel once with splits, once without


@pytest.mark.parametrize("name", ["roi_align_rotated", "roi_align_max", "masked_roi_align"])
def test_nor_of_the_other_operators(name: str) -> None:
    from tests.ops.triton_launches import record_operator

    forms = {
        (launch.name, launch.form)
        for size, mask_hw in (((33, 50), (28, 28)), ((64, 96), (33, 50)), ((200, 336), (100, 7)))
        for images, boxes in ((1, 900), (3, 1000))
        for launch in record_operator(
            name, size, layout=torch.channels_last, images=images, boxes=boxes, mask_hw=mask_hw
        )
    }
    # the scatter kernel once with splits, once without; that of the angles with and without bounds, that of the weights
    # with and without changes, and that of maxima for values and for places
    assert len(forms) <= len({name for name, _ in forms}) + 3
