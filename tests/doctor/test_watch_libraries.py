"""`watch`: every library's calls are seen, once each, as what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torchvision import ops

import roialign
from roialign import FeatureGrid

PIXELS = torch.tensor([[0.0, 100.0, 100.0, 200.0, 200.0], [0.0, 300.0, 300.0, 900.0, 700.0]])
FEATURES = torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(0))
DEEP = torch.rand(1, 98, 64, 64, generator=torch.Generator().manual_seed(0))

Pool = Callable[[Tensor, float], Tensor]


def codes(report: roialign.Report) -> list[list[str]]:
    return [[finding.code for finding in diagnosis.findings] for diagnosis in report.calls]


def operators(report: roialign.Report) -> list[str]:
    return [diagnosis.call.operator for diagnosis in report.calls if diagnosis.call is not None]


TORCHVISION: dict[str, tuple[Pool, str]] = {
    "roi_align": (
        lambda boxes, scale: ops.roi_align(FEATURES, boxes, 7, scale),
        "roi_align(features, boxes, output_size=7, spatial_scale=0.0625)",
    ),
    "RoIAlign": (
        lambda boxes, scale: ops.RoIAlign(7, scale, 2, True)(FEATURES, boxes),
        "roi_align(features, boxes, output_size=7, spatial_scale=0.0625, sampling_ratio=2, aligned=True)",
    ),
    "roi_pool": (
        lambda boxes, scale: ops.roi_pool(FEATURES, boxes, (7, 5), scale),
        "roi_pool(features, boxes, output_size=(7, 5), spatial_scale=0.0625)",
    ),
    "RoIPool": (
        lambda boxes, scale: ops.RoIPool(7, scale)(FEATURES, boxes),
        "roi_pool(features, boxes, output_size=7, spatial_scale=0.0625)",
    ),
    "ps_roi_align": (
        lambda boxes, scale: ops.ps_roi_align(DEEP, boxes, 7, scale, 2),
        "ps_roi_align(features, boxes, output_size=7, spatial_scale=0.0625, sampling_ratio=2)",
    ),
    "PSRoIAlign": (
        lambda boxes, scale: ops.PSRoIAlign(7, scale, -1)(DEEP, boxes),
        "ps_roi_align(features, boxes, output_size=7, spatial_scale=0.0625)",
    ),
    "ps_roi_pool": (
        lambda boxes, scale: ops.ps_roi_pool(DEEP, boxes, 7, scale),
        "ps_roi_pool(features, boxes, output_size=7, spatial_scale=0.0625)",
    ),
    "PSRoIPool": (
        lambda boxes, scale: ops.PSRoIPool(7, scale)(DEEP, boxes),
        "ps_roi_pool(features, boxes, output_size=7, spatial_scale=0.0625)",
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_operators_are_seen_and_named_in_the_fix(name: str) -> None:
    pool, fix = TORCHVISION[name]
    expected = pool(PIXELS, 1.0), pool(PIXELS, 1 / 16)
    with roialign.watch() as report:
        outputs = pool(PIXELS, 1.0), pool(PIXELS, 1 / 16)
    assert codes(report) == [["RA101"], []]
    assert all(map(torch.equal, outputs, expected))
    (finding,) = report.findings
    assert finding.fix is not None
    assert finding.fix.code == fix
    assert operators(report) == [fix.partition("(")[0]] * 2


def test_what_an_operator_has_no_argument_for_is_not_found() -> None:
    large = torch.tensor([[0.0, 0.0, 0.0, 1000.0, 1000.0]])
    with roialign.watch() as report:
        ops.roi_align(FEATURES, large, 1, 1 / 16, 1)
        ops.ps_roi_align(DEEP, large, 1, 1 / 16, 1)
        ops.roi_pool(FEATURES, large, 1, 1 / 16)
        ops.ps_roi_pool(DEEP, large, 1, 1 / 16)
    assert codes(report) == [["RA501"], ["RA501"], [], []]


def test_boxes_without_a_gradient_are_named_for_every_operator_of_torchvision() -> None:
    boxes = torch.tensor([[0.0, 100.0, 100.0, 900.0, 900.0]], requires_grad=True)
    with roialign.watch() as report:
        for pool, _ in TORCHVISION.values():
            pool(boxes, 1 / 16)
            with torch.no_grad():
                pool(boxes, 1 / 16)
    assert codes(report) == [["RA503"], []] * len(TORCHVISION)
    fixes = [finding.fix.code.partition("(")[0] if finding.fix else None for finding in report.findings]
    assert fixes == ["roialign.roi_align"] * 2 + [None] * 6


EVEN = FeatureGrid((64, 64), (16.0, 16.0))
STRUCTURAL = FeatureGrid((64, 64), (16.0, 16.0), (0.5, 0.5))
UNEVEN = FeatureGrid((64, 64), (16.0, 12.5))


@pytest.mark.parametrize("grid", [EVEN, STRUCTURAL, UNEVEN], ids=["even", "structural", "uneven"])
def test_pool_regions_is_seen_as_it_reads_the_map(grid: FeatureGrid) -> None:
    boxes = torch.tensor([[0.0, -90.0, 30.0, 70.0, 210.0], [0.0, 400.0, 500.0, 780.0, 1100.0]])
    with roialign.watch() as report:
        pooled = roialign.pool_regions(FEATURES, boxes, 3, grid, sampling_ratio=2)
    assert codes(report) == [[]]
    (call,) = [diagnosis.call for diagnosis in report.calls]
    assert call is not None
    assert call.operator == "pool_regions"
    again, coverage = call.with_(input=FEATURES).run()
    assert torch.allclose(again, pooled, atol=1e-6)
    assert 0 < float(coverage.min()) < 1


def test_pool_regions_is_seen_level_by_level() -> None:
    grids = [FeatureGrid((size, size), (1024 / size, 1024 / size)) for size in (256, 128, 64)]
    maps = [torch.rand(1, 8, size, size) for size in (256, 128, 64)]
    boxes = torch.tensor([[0.0, 0, 0, 40, 40], [0, 9, 9, 700, 700], [0, 5, 5, 50, 60]])
    with roialign.watch() as report:
        roialign.pool_regions(maps, boxes, 7, grids)
    shapes = [(call.call.map_size_hw, call.call.rois[:, 1].tolist()) for call in report.calls if call.call]
    assert shapes == [((256, 256), [0.0, 5.0]), ((64, 64), [9.0])]
    assert report.ok


REGION_FAULTS = {
    "RA103": torch.tensor([[0.1, 0.1, 0.5, 0.4], [0.2, 0.3, 0.9, 0.8]]),
    "RA201": torch.tensor([[5.0, 600.0, 300.0, 300.0], [600.0, 5.0, 300.0, 400.0]]),
    "RA107": torch.tensor(
        [[900.0, 800, 1400, 1300], [1200, 300, 1500, 700], [600, 1100, 900, 1600], [700, 90, 1100, 900]]
    ),
    "RA502": torch.tensor([[10.0, 10.0, 12.0, 12.0], [500.0, 400.0, 502.5, 403.0]]),
}


def test_small_boxes_in_a_corner_are_no_wrong_scale_where_none_was_passed() -> None:
    corners = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) * 30 + 1
    boxes = [torch.cat([corners, corners + 25], 1)]
    with roialign.watch() as report:
        roialign.roi_align(FEATURES, boxes, 7, 1 / 16, aligned=True)
        roialign.pool_regions(FEATURES, boxes, 7, EVEN)
    first, second = codes(report)
    assert first == ["RA102"]
    assert "RA102" not in second


@pytest.mark.parametrize("code", REGION_FAULTS)
def test_faults_of_boxes_given_to_pool_regions(code: str) -> None:
    with roialign.watch() as report, roialign.set_policy("ignore"):
        roialign.pool_regions(FEATURES, [REGION_FAULTS[code]], 7, STRUCTURAL)
    assert codes(report) == [[code]]
    told = " ".join(f"{f.evidence} {f.decide} {f.fix.code if f.fix else ''}" for f in report.findings)
    assert "roi_align" not in told
    assert "spatial_scale" not in told


def test_pool_regions_with_the_features_at_fault() -> None:
    dead, broken = FEATURES.clone(), FEATURES.clone()
    dead[:, :, :20, :20] = 0
    broken[0, 3, 10, 12] = float("nan")
    with roialign.watch() as report:
        for features in (dead, broken):
            roialign.pool_regions(features, [PIXELS[:, 1:]], 7, EVEN)
    assert codes(report) == [["RA301"], ["RA302"]]


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.(script|trace).*", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_scripted_and_traced_code_is_seen() -> None:
    expected = ops.roi_align(FEATURES, PIXELS, 7, 1 / 16)
    scripted = torch.jit.script(ops.roi_align)
    own = torch.jit.script(roialign.roi_align)
    with roialign.watch() as report:
        traced = torch.jit.trace(lambda features: ops.roi_align(features, PIXELS, 7, 1 / 16), (FEATURES,))
    assert [node.kind() for node in traced.graph.nodes()][-1] == "torchvision::roi_align"
    with roialign.watch() as report:
        outputs = [f(FEATURES, PIXELS, [7, 7], 1 / 16) for f in (scripted, own)] + [traced(FEATURES)]
    assert codes(report) == [[], [], []]
    assert all(torch.allclose(output, expected, atol=1e-6) for output in outputs)


def _regions(features: Tensor, boxes: Tensor) -> Tensor:
    return roialign.pool_regions(features, boxes, 7, STRUCTURAL)


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("function", [ops.roi_align, roialign.roi_align, ops.roi_pool])
def test_compiled_code_is_seen(function: Callable[..., Tensor], fullgraph: bool, needs_grad: bool) -> None:
    torch._dynamo.reset()
    features = FEATURES.clone().requires_grad_(needs_grad)
    expected = function(features, PIXELS, 7, 1 / 16)
    before = torch.compile(function, backend="aot_eager", fullgraph=fullgraph)
    before(features, PIXELS, 7, 1 / 16)
    with roialign.watch() as report:
        outputs = [before(features, PIXELS, 7, 1 / 16)]
        outputs += [torch.compile(function, backend="aot_eager", fullgraph=fullgraph)(features, PIXELS, 7, 1 / 16)]
    outputs += [before(features, PIXELS, 7, 1 / 16)]
    assert codes(report) == [[], []]
    assert all(torch.equal(output, expected) for output in outputs)
    assert all("test_watch_libraries.py" in (diagnosis.call_site or "") for diagnosis in report.calls)


@pytest.mark.filterwarnings("error:.*recompile_limit.*")
def test_many_watches_do_not_have_code_compiled_for_each() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(ops.roi_align, backend=counter, fullgraph=True)
    compiled(FEATURES, PIXELS, 7, 1 / 16)
    for _ in range(4):
        with roialign.watch() as report:
            compiled(FEATURES, PIXELS, 7, 1 / 16)
        assert len(report.calls) == 1
    assert counter.frame_count <= 2, "one without and one with a watch"


def test_compiled_pool_regions_is_seen() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(_regions, backend="aot_eager", fullgraph=True)
    with roialign.watch() as report:
        assert torch.equal(compiled(FEATURES, PIXELS), _regions(FEATURES, PIXELS))
    assert operators(report) == ["pool_regions"] * 2
    assert report.ok


def test_second_derivatives_are_no_calls() -> None:
    features = FEATURES.double().requires_grad_()
    with roialign.watch() as report:
        pooled = roialign.roi_align(features, PIXELS.double(), 7, 1 / 16)
        (gradient,) = torch.autograd.grad(pooled.square().sum(), features, create_graph=True)
        gradient.square().sum().backward()
    assert len(report.calls) == 1


def test_what_the_doctor_runs_itself_is_no_call() -> None:
    with roialign.watch() as report:
        with pytest.warns(roialign.RoIWarning):  # whose words run the operator
            roialign.roi_align(FEATURES, PIXELS, 7)
        str(report)
        roialign.diagnose(FEATURES, PIXELS, 7)
    assert len(report.calls) == 1


def test_the_kernels_are_put_back() -> None:
    def kernels() -> list[str]:
        names = ["torchvision::roi_align", "torchvision::ps_roi_pool", "roialign::roi_align"]
        return [repr(torch.library.get_kernel(name, "CPU")) for name in names]

    before = kernels()
    with roialign.watch():
        assert kernels() != before
    assert kernels() == before
