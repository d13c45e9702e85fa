"""RA6xx: export to other formats."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA601",
        "nothing in ONNX that computes it",
        "error",
        "ONNX pools regions with RoiAlign and MaxRoiPool: upright boxes on maps of two axes, the mean of samples or "
        "the largest value. Rotated boxes, masks, exact integrals, position-sensitive channels and volumes are none "
        "of it, nor is the largest of samples whose number depends on the box, nor, before set 16, aligned=True.",
        "Pool with an operator that ONNX has, in training too; or export what comes before and after the pooling, and "
        "pool between them in Python.",
        f"import io\n{STRIDE_16}\nrois = torch.tensor([[0.0, 300.0, 300.0, 400.0, 400.0]])",
        "torch.onnx.export(PrRoIPool(7, 1 / 16), (features, rois), io.BytesIO(), dynamo=False)",
        "torch.onnx.export(RoIAlign(7, 1 / 16, 4, aligned=True), (features, rois), io.BytesIO(), dynamo=False)",
        raised=True,
    ),
    Entry(
        "RA602",
        "a module that TorchScript is not given",
        "error",
        "torch.jit.script is deprecated. Modules of torchvision's names are scripted as long as torch has it; those "
        "that torchvision does not have are not. Traced, compiled and exported programs take them all.",
        "Use torch.jit.trace, torch.compile or torch.export.",
        "pool = PrRoIPool(7, 1 / 16)",
        "torch.jit.script(pool)",
        "torch.compile(pool)",
        raised=True,
    ),
)
