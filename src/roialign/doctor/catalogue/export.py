"""RA6xx: export to other formats."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA601",
        "no equivalent in ONNX",
        "error",
        "ONNX pools regions with RoiAlign and MaxRoiPool: upright boxes on maps of two axes, the mean of samples or "
        "the largest value. It has no rotated boxes, masks, exact integrals, position-sensitive channels or volumes, "
        "no maximum of samples whose number depends on the box, and, before set 16, no aligned=True.",
        "Pool with an operator that ONNX has, in training, too. Or export what comes before and after the pooling, "
        "and pool between them in Python.",
        f"import io\n{STRIDE_16}\nrois = torch.tensor([[0.0, 300.0, 300.0, 400.0, 400.0]])",
        "torch.onnx.export(PrRoIPool(7, 1 / 16), (features, rois), io.BytesIO(), dynamo=False)",
        "torch.onnx.export(RoIAlign(7, 1 / 16, 4, aligned=True), (features, rois), io.BytesIO(), dynamo=False)",
        raised=True,
    ),
    Entry(
        "RA602",
        "a module that does not support TorchScript",
        "error",
        "torch.jit.script is deprecated. Modules with torchvision's names can be scripted as long as torch supports "
        "it; those that torchvision does not have cannot. All of them can be traced, compiled and exported.",
        "Use torch.jit.trace, torch.compile or torch.export.",
        "pool = PrRoIPool(7, 1 / 16)",
        "torch.jit.script(pool)",
        "torch.compile(pool)",
        raised=True,
    ),
)
