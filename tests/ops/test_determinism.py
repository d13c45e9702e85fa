"""The same bits in every run, for any number of threads and in any layout; and every element is written."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from .cases import Case, random_case, random_cases
from .instruction_sets import HALF, channels_last, kernels

THREADS = (1, 2, 3, 5, 2)
FLOAT = (torch.float32, torch.float64)
BOXES = ("inside", "partly outside")


@pytest.fixture(autouse=True)
def deterministic_mode() -> Iterator[None]:
    """Also fills fresh memory with NaN, so that an element that no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(64).isnan().all()


def sized(seed: int, shape: tuple[int, ...], size_hw: tuple[int, int], ratio: int, count: int) -> Case:
    case = replace(random_case(seed), input_shape=shape, output_size_hw=size_hw, sampling_ratio=ratio, aligned=True)
    return replace(case, spatial_scale=1 / 4).with_boxes(BOXES, count)


def rois_of(case: Case, dtype: torch.dtype) -> Tensor:
    return case.rois(torch.promote_types(dtype, torch.float32))


SHARED_OUT = [
    ("one channel, many boxes: stripes of rows", sized(1, (1, 1, 200, 150), (7, 7), 2, 1500), FLOAT),
    ("two channels, large boxes: sparse rows, cut by stripes", sized(2, (1, 2, 300, 40), (3, 5), 1, 60), FLOAT),
    ("many channels, one box", sized(3, (1, 300, 40, 40), (7, 7), 2, 1), FLOAT),
    ("several images", sized(4, (5, 6, 60, 70), (5, 20), 0, 400), FLOAT),
    ("many channels, many boxes", sized(5, (2, 64, 50, 60), (7, 7), 2, 64), FLOAT),
    ("one sample in one bin, one channel", sized(8, (2, 1, 60, 70), (1, 1), 1, 4000), (*FLOAT, *HALF)),
    ("one bin of some samples, many channels", sized(9, (2, 40, 60, 70), (1, 1), 2, 500), (*FLOAT, *HALF)),
    ("several slabs of channels", sized(6, (2, 30, 160, 250), (7, 7), 2, 200), HALF),
    ("several slabs of rows", sized(7, (1, 2, 1500, 1500), (7, 7), 0, 50), HALF),
    ("more rows than boxes read", sized(8, (1, 1, 900, 3), (2, 2), 2, 3), (*FLOAT, *HALF)),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for _, case, dtypes in SHARED_OUT for dtype in dtypes],
    ids=[f"{name}-{dtype}" for name, _, dtypes in SHARED_OUT for dtype in dtypes],
)
def test_runs_and_thread_counts_agree_to_the_bit(case, dtype):
    tensors = case.features(dtype), rois_of(case, dtype), case.grad(dtype)
    runs = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        runs.append(kernels(*tensors, case))
    runs.append(kernels(channels_last(tensors[0]), tensors[1], channels_last(tensors[2]), case))
    if dtype in HALF:  # float32 sums are not cut into slabs
        output, coverage, grad_features, grad_rois = kernels(tensors[0].float(), tensors[1], tensors[2].float(), case)
        runs.append((output.to(dtype), coverage, grad_features.to(dtype), grad_rois))
    for run in runs[1:]:
        assert all(torch.equal(actual, wanted) for actual, wanted in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("dtype", [*FLOAT, *HALF])
def test_every_element_is_written(dtype):
    for case in random_cases(50):
        results = kernels(case.features(dtype), rois_of(case, dtype), case.grad(dtype), case)
        assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("dtype", [*FLOAT, *HALF])
def test_every_element_is_written_where_no_box_reads(dtype):
    for case in random_cases(20, first_seed=50):
        case = case.with_boxes(("outside",), 3)
        results = kernels(case.features(dtype), rois_of(case, dtype), case.grad(dtype), case)
        assert not any(result.any() for result in results)  # zeros, NaN is true
        case = replace(case, boxes=())
        results = kernels(case.features(dtype), rois_of(case, dtype), case.grad(dtype), case)
        assert [len(result) for result in results] == [0, 0, case.input_shape[0], 0]
        assert not results[2].any()
