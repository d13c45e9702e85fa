"""torch.onnx.export of what pools regions, by both exporters: onnxruntime gives what torch does, or it is refused."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import roialign
from roialign import FeatureGrid
from roialign.errors import ExportError
from roialign.integrations.onnx import decompositions
from roialign.ops import registered
from roialign.ops.onnx import EXPORTED
from tests.ops.tolerances import assert_close

from .exporting import BOTH, EXPORTERS, PROGRAM, SLOW, TRACED, Calls, Exporter, needs_onnxscript, onnx, run, tensors_of

SCALES = [(1 / 4, 1 / 3), 1 / 8]
OF_MAPS = {  # from two maps of any sizes and rois of their images
    "roi_align": lambda features, rois, coarse: roialign.roi_align(features, rois, (3, 2), 1 / 3, -1),
    "roi_align, sampled twice": lambda features, rois, coarse: roialign.roi_align(features, rois, (3, 2), 1 / 3, 2),
    "roi_align, aligned": lambda features, rois, coarse: roialign.roi_align(features, rois, (3, 2), 1 / 4, -1, True),
    "roi_align, aligned, sampled twice": lambda features, rois, coarse: roialign.roi_align(
        features, rois, 3, 1 / 4, 2, True
    ),
    "roi_align of a list": lambda features, rois, coarse: roialign.roi_align(
        features, [rois[:, 1:], rois[:, 1:] + 3], 2, 1 / 4, 2
    ),
    "the largest sample": lambda features, rois, coarse: roialign.roi_align(
        features, rois, (3, 2), 1 / 4, 3, mode="max"
    ),
    "the largest corner": lambda features, rois, coarse: roialign.roi_align(
        features, rois, (3, 2), 1 / 4, -1, mode="max", compat="onnx"
    ),
    "the largest corner, not aligned": lambda features, rois, coarse: roialign.roi_align(
        features, rois, (3, 2), 1 / 4, 2, mode="max", compat="onnx-10"
    ),
    "roi_pool": lambda features, rois, coarse: roialign.roi_pool(features, rois, (3, 2), 0.3),
    "roi_align_1d": lambda features, rois, coarse: roialign.roi_align_1d(
        features.flatten(2), rois[:, [0, 1, 3]], 5, 1 / 4, -1, aligned=True
    ),
    "crop_and_resize": lambda features, rois, coarse: roialign.crop_and_resize(
        features, rois[:, 1:] / 50 - 0.1, rois[:, 0].long(), (4, 1), -7.0
    ),
    "MultiScaleRoIAlign": lambda features, rois, coarse: roialign.MultiScaleRoIAlign(
        ["fine", "coarse"], 3, 2, canonical_scale=30, canonical_level=2, scales=[1 / 4, 1 / 8]
    )({"fine": features, "coarse": coarse}, rois, [(48, 64)]),
    "MultiScaleRoIAlign, of two strides, aligned": lambda features, rois, coarse: roialign.MultiScaleRoIAlign(
        ["fine", "coarse"], 3, -1, canonical_scale=30, canonical_level=2, scales=SCALES, aligned=True
    )({"fine": features, "coarse": coarse}, rois, [(48, 64)]),
}
GRIDS = [FeatureGrid((12, 16), (4.0, 4.5), (0.5, 1.3)), FeatureGrid((6, 8), (8.0, 8.0))]
LEVELS = roialign.FPNLevels(30, 2)
OF_GRIDS = {  # from two maps of the grids' sizes
    "inferred scales": lambda features, rois, coarse: roialign.MultiScaleRoIAlign(
        ["fine", "coarse"], 3, 2, canonical_scale=30, canonical_level=2
    )({"fine": features, "coarse": coarse}, rois, [(48, 64)]),
    "pool_regions": lambda features, rois, coarse: roialign.pool_regions(
        [features, coarse], rois, (3, 2), GRIDS, levels=LEVELS, return_levels=True
    ),
    "pool_regions from one map": lambda features, rois, coarse: roialign.pool_regions(features, rois, 3, GRIDS[0]),
    "pool_regions from levels as given": lambda features, rois, coarse: roialign.pool_regions(
        [coarse, features], rois, 2, GRIDS[::-1], levels=rois[:, 0].long(), sampling_ratio=2
    ),
}
EDGES = [
    [0, 10, 8, 10, 8],  # of no size
    [1, 10, 8, 10, 30],
    [0, 40, 30, 10, 8],  # from its end to its beginning
    [1, 10, 30, 40, 8],
    [0, -4, -4, 68, 52],  # just over the border
    [1, -8, -8, 0, 0],
    [0, 64, 48, 72, 56],
    [1, 500, 500, 600, 600],  # off the map
    [0, -100, -100, 30, 30],
    [1, -1e3, -1e3, 1e3, 1e3],
    [0, 63.9, 47.9, 64, 48],
    [1, 6, 10, 6.001, 10.001],
]


@pytest.fixture(autouse=True)
def no_notices() -> Iterator[None]:
    with roialign.set_policy("ignore"):
        yield


def maps_and(rois: Tensor, images: int = 2, height: int = 12, width: int = 16) -> dict[str, Tensor]:
    features, coarse = (torch.randn(images, 3, height // part, width // part) for part in (1, 2))
    return {"features": features, "rois": rois, "coarse": coarse}


def boxes(images: int, count: int) -> Tensor:
    low, size = torch.rand(count, 2) * 40, torch.rand(count, 2) ** 2 * 60
    return torch.cat([torch.randint(images, (count, 1)).float(), low, low + size], 1)


AXES = {
    "features": {0: "images", 2: "height", 3: "width"},
    "coarse": {0: "images", 2: "coarse_h", 3: "coarse_w"},
    "rois": {0: "boxes"},
}


@cache
def exported(exporter: Exporter, with_grids: bool) -> tuple[onnx.ModelProto, dict[str, int]]:
    """All calls as one model, and at which of its outputs each begins."""
    torch.manual_seed(1)
    calls, axes = (OF_GRIDS, {"rois": AXES["rois"]}) if with_grids else (OF_MAPS, AXES)
    inputs = maps_and(boxes(2, 5))
    sizes = [len(tensors_of(call(**inputs))) for call in calls.values()]
    firsts = dict(zip(calls, (sum(sizes[:place]) for place in range(len(sizes))), strict=True))
    return exporter(Calls(calls), inputs, axes), firsts


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", OF_MAPS)
def test_onnxruntime_gives_what_torch_does(name, exporter):
    compare(exporter, name, with_grids=False)


@pytest.mark.parametrize("exporter", [*EXPORTERS[:2], pytest.param(PROGRAM, id="program", marks=SLOW)])
@pytest.mark.parametrize("name", OF_GRIDS)
def test_onnxruntime_gives_what_torch_does_on_grids(name, exporter):
    compare(exporter, name, with_grids=True)


def compare(exporter: Exporter, name: str, with_grids: bool) -> None:
    model, firsts = exported(exporter, with_grids)
    assert [one.version for one in model.opset_import if one.domain == ""] == [exporter.opset]
    sizes = [(2, 12, 16)] if with_grids else [(2, 12, 16), (3, 9, 21)]
    for size in sizes:
        for rois in (boxes(2, 40), boxes(2, 1), boxes(2, 0), torch.tensor(EDGES)):
            inputs = maps_and(rois, *size)
            expected = tensors_of((OF_GRIDS if with_grids else OF_MAPS)[name](**inputs))
            first = firsts[name]
            for actual, wanted in zip(run(model, inputs)[first:], expected, strict=False):
                assert actual.dtype == wanted.dtype
                assert_close(actual, wanted, scale=inputs["features"], dtype=torch.float32)


@pytest.mark.parametrize("exporter", [BOTH[0], pytest.param(PROGRAM, id="program", marks=SLOW)])
def test_half_types_are_computed_in_float32_and_float64_in_itself(exporter):
    def call(features: Tensor, rois: Tensor) -> list[Tensor]:
        half = [features.to(dtype) for dtype in (torch.float16, torch.bfloat16)]
        pooled = [roialign.roi_align(one, rois, 3, 0.3, 2) for one in half]
        pooled += [roialign.roi_align(half[0], rois.half(), 3, 0.3), roialign.roi_pool(half[1], rois, 3, 0.3)]
        wide = roialign.roi_align(features.double(), rois.double(), 3, 0.3, 2, aligned=True)
        return [*(one.float() for one in pooled), wide]

    inputs = {"features": torch.randn(2, 3, 12, 16), "rois": boxes(2, 20)}
    actual = run(exporter(Calls({"all": call}), inputs, {"rois": {0: "boxes"}}), inputs)
    for one, expected in zip(actual, call(**inputs), strict=True):
        assert_close(one, expected, scale=inputs["features"])


@pytest.mark.parametrize("exporter", BOTH)
def test_an_extractor_gives_features_coverage_and_levels(exporter):
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 7, stride=4, padding=3), torch.nn.Conv2d(8, 4, 3, stride=2, padding=1)
    )
    extractor = roialign.RegionExtractor(backbone, 3, offset="structural").eval()
    inputs = {"images": torch.rand(2, 3, 64, 96), "boxes": boxes(2, 5) * 1.5}
    with torch.no_grad():
        inputs["boxes"][:, 0] = 1
        extractor(**inputs)  # traces the backbone
        model = exporter(extractor, inputs, {"boxes": {0: "boxes"}})
        inputs["boxes"] = torch.tensor(EDGES)
        expected = extractor(**inputs)
        *pooled, padding_distance = run(model, inputs)
        for actual, wanted in zip(pooled, expected[:3], strict=True):
            assert_close(actual, wanted, scale=expected.features, dtype=torch.float32)
        assert torch.equal(padding_distance, expected.padding_distance)


@needs_onnxscript
def test_a_program_of_torch_export_is_decomposed_first():
    inputs = maps_and(boxes(2, 5))
    model = Calls({name: OF_MAPS[name] for name in ("roi_align, aligned", "roi_pool")})
    program = torch.export.export(
        model,
        (),
        inputs,
        dynamic_shapes={"features": {}, "rois": {0: torch.export.Dim("boxes")}, "coarse": {}},
    )
    written = torch.onnx.export(program.run_decompositions(decompositions()), dynamo=True, verbose=False).model_proto
    inputs["rois"] = boxes(2, 12)
    for actual, expected in zip(run(written, inputs), model(**inputs), strict=True):
        assert_close(actual, expected, scale=inputs["features"])


@needs_onnxscript
def test_operator_set_22_as_the_definition_of_onnx_computes_it():
    """onnxruntime has no RoiAlign of that set."""
    inputs = {"features": torch.randn(2, 3, 8, 9), "rois": boxes(2, 3)}
    call = Calls({"one": lambda features, rois: roialign.roi_align(features, rois, 2, 1 / 4, 2, True)})
    model = Exporter(True, 22)(call, inputs, {})
    onnx.checker.check_model(model, full_check=True)
    from onnx.reference import ReferenceEvaluator

    (actual,) = ReferenceEvaluator(model).run(None, {name: one.numpy() for name, one in inputs.items()})
    assert_close(torch.from_numpy(actual), call(**inputs)[0], scale=inputs["features"])


MASK = torch.ones(2, 48, 64)
REFUSED = {
    "masked_roi_align": lambda features, rois: roialign.masked_roi_align(features, rois, MASK, 2, 1 / 4),
    "paste_masks": lambda features, rois: roialign.paste_masks(features[:, 0], rois[:, 1:], (48, 64)),
    "prroi_pool": lambda features, rois: roialign.prroi_pool(features, rois, 2, 1 / 4),
    "ps_roi_align": lambda features, rois: roialign.ps_roi_align(features, rois, 2, 1 / 4),
    "ps_roi_pool": lambda features, rois: roialign.ps_roi_pool(features, rois, 2, 1 / 4),
    "roi_align_3d": lambda features, rois: roialign.roi_align_3d(
        features[:, :, None], rois[:, [0, 1, 2, 1, 3, 4, 3]], 2
    ),
    "roi_align_rotated": lambda features, rois: roialign.roi_align_rotated(features, rois[:, [0, 1, 2, 3, 4, 4]], 2),
}
FEATURES, ROIS = torch.ones(2, 4, 12, 16), torch.tensor([[0, 4.0, 4, 30, 30], [1, 4, 4, 30, 30]])


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnx_does_not_have_is_refused_with_the_reason(name):
    with pytest.raises(ExportError, match=f"^RA601: expected operators that ONNX has; got {name}: .*\\. .*\\.$"):
        TRACED(Calls({"one": REFUSED[name]}), {"features": FEATURES, "rois": ROIS}, {})


@needs_onnxscript
@pytest.mark.parametrize(
    "name", [one if one == "prroi_pool" else pytest.param(one, marks=pytest.mark.rare) for one in REFUSED]
)
def test_the_exporter_of_programs_shows_the_reason(name):
    with pytest.raises(
        torch.onnx.OnnxExporterError, match=f"RA601: expected operators that ONNX has; got {name}: "
    ) as raised:
        PROGRAM(Calls({"one": REFUSED[name]}), {"features": FEATURES, "rois": ROIS}, {})
    assert isinstance(raised.value.__cause__, ExportError)


def test_the_largest_of_unknown_numbers_of_samples_is_refused():
    call = Calls({"one": lambda features, rois: roialign.roi_align(features, rois, 2, 1 / 4, mode="max")})
    with pytest.raises(
        ExportError, match=r'^RA601: expected mode="max" with .* got sampling_ratio=-1\..* Use sampling_r'
    ):
        TRACED(call, {"features": FEATURES, "rois": ROIS}, {})


def test_operator_sets_without_half_pixels_are_those_of_aligned_false():
    """torchvision's detectors are exported to operator set 11."""
    inputs = {"features": FEATURES, "rois": ROIS}
    call = Calls(
        {
            "align": lambda features, rois: roialign.roi_align(features, rois, 2, 1 / 4, 2),
            "pool": lambda features, rois: roialign.roi_pool(features, rois, 2, 1 / 4),
        }
    )
    model = Exporter(False, 11)(call, inputs, {})
    for actual, wanted in zip(run(model, inputs), tensors_of(call(**inputs)), strict=True):
        assert_close(actual, wanted, wanted)
    centred = Calls({"one": lambda features, rois: roialign.roi_align(features, rois, 2, 1 / 4, aligned=True)})
    for opset, needed in ((15, 16), (10, 16)):
        with pytest.raises(ExportError, match=rf"^RA601: expected opset_version of at least {needed}: .* got {opset}"):
            Exporter(False, opset)(centred, inputs, {})
    with pytest.raises(
        ExportError, match=r"^RA601: expected opset_version of at least 11: .* got 10\. Use torch\.onnx"
    ):
        Exporter(False, 10)(call, inputs, {})


def test_nothing_is_looked_at_while_a_model_is_exported():
    """The example's boxes may be any."""
    far = ROIS + torch.tensor([0, 900.0, 900, 900, 900])
    with roialign.set_policy("raise"):
        TRACED(
            Calls({"one": OF_MAPS["MultiScaleRoIAlign"]}),
            maps_and(far),
            {},
        )


def test_every_operator_is_in_onnx_or_refused():
    forward = {name for name in registered.SCHEMAS if "backward" not in name}
    assert {op.name().removeprefix("roialign::") for op in EXPORTED} == forward
    assert decompositions() == EXPORTED
