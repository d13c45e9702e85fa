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


def test_there_is_a_function_for_every_operator_that_is_registered() -> None:
    from roialign.ops import registered, triton
    from roialign.ops.triton import operators, pooling

    for name in triton.OPERATORS:
        assert name in registered.SCHEMAS
        assert (name in pooling.IMPLEMENTATIONS) != hasattr(operators, name), name
    assert set(pooling.IMPLEMENTATIONS) <= set(triton.OPERATORS)


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


def test_launches_of_one_form_of_other_operators_compile_to_one_kernel() -> None:
    from tests.ops.triton_launches import POOLING, record_pooling

    kernels: dict[tuple[object, ...], object] = {}
    for call, last, channels in product(POOLING.values(), (True, False), (1, 16, 70)):
        for cells, images, boxes in (
            (call.cells, 1, 1),
            (call.cells, 16, 1000),
            ((1, 1, 1), 1, 16),
            ((5, 33, 16), 3, 8),
        ):
            resized = call._replace(cells=cells[-len(call.bins) :])
            for launch in record_pooling(resized, channels_last=last, images=images, channels=channels, boxes=boxes):
                found = launch.specialization()
                assert kernels.setdefault((launch.name, launch.form), found) == found, launch.name


def test_sizes_do_not_multiply_kernels_of_other_operators() -> None:
    from tests.ops.triton_launches import POOLING, record_pooling

    sizes = ((50, 84), (33, 50), (7, 200)), ((16, 32, 32), (5, 33, 50), (1, 7, 16))
    for call in POOLING.values():
        forms = {
            (launch.name, launch.form)
            for cells in sizes[len(call.bins) - 2]
            for images, boxes in ((1, 900), (3, 1000), (16, 1024))
            for launch in record_pooling(call._replace(cells=cells), channels_last=True, images=images, boxes=boxes)
        }
        assert len(forms) == len({name for name, _ in forms}), call.name


def test_sizes_and_scales_do_not_multiply_kernels() -> None:
    from tests.ops.triton_launches import record

    forms = {
        (launch.name, launch.form)
        for size in ((33, 50), (64, 96), (1, 7), (200, 336))
        for images, boxes in ((1, 900), (3, 1000), (16, 1024))
        for launch in record([size], torch.float32, torch.channels_last, images=images, boxes=boxes)
    }
    assert len(forms) == len({name for name, _ in forms}) + 1  # the scatter kernel once with splits, once without
