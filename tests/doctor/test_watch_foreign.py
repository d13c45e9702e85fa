"""`watch`: calls of libraries that are not installed here, of transformers, and of torchvision imported late."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import roialign

PIXELS = torch.tensor([[0.0, 100.0, 100.0, 200.0, 200.0], [0.0, 300.0, 300.0, 900.0, 700.0]])
FEATURES = torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(0))


def codes(report: roialign.Report) -> list[list[str]]:
    return [[finding.code for finding in diagnosis.findings] for diagnosis in report.calls]


def operators(report: roialign.Report) -> list[str]:
    return [diagnosis.call.operator for diagnosis in report.calls if diagnosis.call is not None]


DETECTRON2_ROI_ALIGN = """
from torch import nn
from torchvision.ops import roi_align

class ROIAlign(nn.Module):
    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=True):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input, rois):
        if input.is_quantized:
            input = input.dequantize()
        return roi_align(input, rois.to(dtype=input.dtype), self.output_size, self.spatial_scale,
                         self.sampling_ratio, self.aligned)
"""
DETECTRON2_POOLERS = """
import torch
from torch import nn
from detectron2.layers.roi_align import ROIAlign

class ROIPooler(nn.Module):
    def __init__(self, output_size, scales, sampling_ratio):
        super().__init__()
        self.level_poolers = nn.ModuleList(ROIAlign(output_size, scale, sampling_ratio) for scale in scales)

    def forward(self, x, boxes, levels):
        output = x[0].new_zeros(len(boxes), x[0].shape[1], 7, 7)
        for level, pooler in enumerate(self.level_poolers):
            inds = (levels == level).nonzero()[:, 0]
            output.index_put_((inds,), pooler(x[level], boxes[inds]))
        return output
"""
MMCV_EXTENSION = """
import torchvision

def roi_align_forward(input, rois, output, argmax_y, argmax_x, *, aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))

def roi_pool_forward(input, rois, output, argmax, *, pooled_height, pooled_width, spatial_scale):
    output.copy_(torchvision.ops.roi_pool(input, rois, (pooled_height, pooled_width), spatial_scale))
"""
MMCV_ROI_ALIGN = """
import importlib
import torch
from torch.autograd import Function

ext_module = importlib.import_module("mmcv._ext")

class RoIAlignFunction(Function):
    @staticmethod
    def forward(ctx, input, rois, output_size, spatial_scale=1.0, sampling_ratio=0, pool_mode="avg", aligned=True):
        output = input.new_zeros((rois.size(0), input.size(1), output_size, output_size))
        argmax_y = argmax_x = input.new_zeros(0)
        ext_module.roi_align_forward(
            input, rois, output, argmax_y, argmax_x, aligned_height=output_size, aligned_width=output_size,
            spatial_scale=spatial_scale, sampling_ratio=sampling_ratio, pool_mode=1, aligned=aligned)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        raise NotImplementedError

roi_align = RoIAlignFunction.apply

def roi_pool(input, rois, output_size, spatial_scale=1.0):
    output = input.new_zeros((rois.size(0), input.size(1), output_size, output_size))
    ext_module.roi_pool_forward(
        input, rois, output, output, pooled_height=output_size, pooled_width=output_size, spatial_scale=spatial_scale)
    return output
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages of the shape of detectron2 and mmcv, which are large and not installed here."""
    files = {
        "detectron2/__init__.py": "",
        "detectron2/layers/__init__.py": "",
        "detectron2/layers/roi_align.py": DETECTRON2_ROI_ALIGN,
        "detectron2/poolers.py": DETECTRON2_POOLERS,
        "mmcv/__init__.py": "",
        "mmcv/_ext.py": MMCV_EXTENSION,
        "mmcv/ops/__init__.py": "",
        "mmcv/ops/roi_align.py": MMCV_ROI_ALIGN,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("detectron2", "mmcv")]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("detectron2", "mmcv")]:
        del sys.modules[name]


@pytest.mark.usefixtures("stand_ins")
def test_detectron2s_pooler_is_seen_level_by_level() -> None:
    pooler = importlib.import_module("detectron2.poolers").ROIPooler
    maps = [torch.rand(1, 8, size, size) for size in (128, 64)]
    with roialign.watch() as report:
        pooler(7, (1 / 8, 1 / 16), 0)(maps, PIXELS, torch.tensor([0, 1]))
        pooler(7, (1.0, 1 / 16), 0)(maps, PIXELS, torch.tensor([1, 0]))
    assert codes(report) == [[], [], ["RA101"], []]
    assert all((diagnosis.call_site or "").startswith("tests/") for diagnosis in report.calls)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("imported", ["before", "within"])
def test_mmcvs_extension_is_seen_whenever_it_is_imported(imported: str) -> None:
    if imported == "before":
        importlib.import_module("mmcv.ops.roi_align")
    with roialign.watch() as report, roialign.watch() as other:
        module = importlib.import_module("mmcv.ops.roi_align")
        module.roi_align(FEATURES, PIXELS, 7, 1.0, 2)
        module.roi_align(FEATURES, PIXELS, 7, 1 / 16, 2, "avg", False)
        module.roi_pool(FEATURES, PIXELS, 7)
    module.roi_align(FEATURES, PIXELS, 7, 1.0, 2)
    seen = [one for one in zip(operators(report), codes(report), strict=True) if one[0].startswith("mmcv")]
    expected = [("mmcv.ops.RoIAlign", ["RA101"]), ("mmcv.ops.RoIAlign", []), ("mmcv.ops.RoIPool", ["RA101"])]
    assert seen == expected
    assert len(other.calls) == len(report.calls)
    fixes = [finding.fix.code for finding in report.findings if finding.fix and finding.fix.code.startswith("mmcv")]
    assert fixes == [
        "mmcv.ops.RoIAlign(output_size=7, spatial_scale=0.0625, sampling_ratio=2, aligned=True)(features, boxes)",
        "mmcv.ops.RoIPool(output_size=7, spatial_scale=0.0625)(features, boxes)",
    ]
    assert module.ext_module.roi_align_forward.__module__ == "mmcv._ext"
    assert not hasattr(module.ext_module.roi_align_forward, "__wrapped__")


def test_a_model_of_transformers_that_pools_regions_is_seen() -> None:
    sam3 = pytest.importorskip("transformers.models.sam3.modeling_sam3", reason="needs transformers with SAM 3")
    configuration = pytest.importorskip("transformers.models.sam3.configuration_sam3")
    torch.manual_seed(0)
    config = configuration.Sam3GeometryEncoderConfig(
        hidden_size=32, num_layers=1, num_attention_heads=2, intermediate_size=64, roi_size=3
    )
    encoder = sam3.Sam3GeometryEncoder(config).eval()
    vision = torch.rand(1, 32, 18, 18)
    boxes = torch.rand(1, 4, 4) * 0.3 + 0.2  # centre and size, in fractions of the image
    labels, mask = torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad(), roialign.watch() as report:
        encoder(boxes, mask, labels, (vision,))
    assert operators(report) == ["roi_align"]
    assert report.ok


def test_torchvision_is_not_needed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, roialign\n"
        "with roialign.watch() as report:\n"
        "    assert 'torchvision' not in sys.modules\n"
        "    import torchvision\n"
        "    torchvision.ops.roi_pool(torch.rand(1, 8, 64, 64), torch.tensor([[0., 9, 9, 50, 50]]), 7)\n"
        "    torch.jit.script(torchvision.ops.roi_pool)(\n"
        "        torch.rand(1, 8, 64, 64), torch.tensor([[0., 9, 9, 50, 50]]), [7, 7])\n"
        "assert len(report.calls) == 2, report.calls\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", str(script)], check=True)
