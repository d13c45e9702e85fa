"""Real networks, as narrow and as shallow as their constructors allow, and two written by hand."""

from __future__ import annotations

import importlib
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def stages(children: Mapping[str, nn.Module], *names: str) -> nn.Module:
    from torchvision.models._utils import IntermediateLayerGetter

    return IntermediateLayerGetter(nn.Sequential(OrderedDict(children)), {name: name for name in names})


def _tv(name: str) -> Any:
    return importlib.import_module(f"torchvision.models.{name}")


def vgg(widths: str = "D") -> nn.Module:
    vgg = _tv("vgg")
    layers = [width if width == "M" else width // 16 for width in vgg.cfgs[widths]]
    features = vgg.make_layers(layers)
    return stages(
        dict(features.named_children()), *(n for n, m in features.named_children() if type(m) is nn.MaxPool2d)
    )


def alexnet() -> nn.Module:
    return stages(dict(_tv("alexnet").AlexNet().features.named_children()), "2", "5", "12")


def resnet(*, basic: bool = False, depths: tuple[int, ...] = (3, 4, 6, 3), **options: Any) -> nn.Module:
    body = _resnet_body(basic, depths, **options)
    return stages(dict(body.named_children()), "layer1", "layer2", "layer3", "layer4")


def _resnet_body(basic: bool, depths: tuple[int, ...], **options: Any) -> nn.Module:
    tv = _tv("resnet")
    narrow = type("Narrow", (tv.Bottleneck,), {"expansion": 1})
    body: nn.Module = tv.ResNet(tv.BasicBlock if basic else narrow, list(depths), **options)
    return body


def resnet_v1() -> nn.Module:
    """ResNet-50 with the stride in each stage's first 1x1 convolution, as published."""
    body: Any = resnet(width_per_group=8)
    for stage in ("layer2", "layer3", "layer4"):
        block = body[stage][0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    return body


def mobilenet_v3() -> nn.Module:
    body = _tv("mobilenetv3").mobilenet_v3_small(width_mult=0.25).features
    return stages(dict(body.named_children()), "0", "1", "3", "8", "12")


def efficientnet() -> nn.Module:
    tv = _tv("efficientnet")
    setting, last = tv._efficientnet_conf("efficientnet_b0", width_mult=0.25, depth_mult=1.0)
    body = tv.EfficientNet(setting, dropout=0.2, last_channel=last).features
    return stages(dict(body.named_children()), "1", "2", "3", "5", "8")


def regnet(se_ratio: float | None) -> nn.Module:
    tv = _tv("regnet")
    widths = [8, 16, 24, 32]
    params = tv.BlockParams([1, 2, 2, 1], widths, [8] * 4, [1.0] * 4, [2] * 4, se_ratio)
    body = tv.RegNet(params)
    return stages(
        {"stem": body.stem, **dict(body.trunk_output.named_children())}, "block1", "block2", "block3", "block4"
    )


def densenet() -> nn.Module:
    body = _tv("densenet").DenseNet(growth_rate=4, block_config=(2, 3, 2, 2), num_init_features=8).features
    return stages(dict(body.named_children()), "denseblock1", "denseblock2", "denseblock3", "norm5")


def convnext() -> nn.Module:
    tv = _tv("convnext")
    widths = [8, 12, 16, 20, None]
    body = tv.ConvNeXt([tv.CNBlockConfig(*pair, 1) for pair in itertools.pairwise(widths)]).features
    return stages(dict(body.named_children()), "1", "3", "5", "7")


def swin() -> nn.Module:
    body = _tv("swin_transformer").SwinTransformer([4, 4], 8, [2, 2, 2], [1, 2, 2], [3, 4], num_classes=2).features
    return stages(dict(body.named_children()), "1", "3", "5")


class VisionTokens(nn.Module):
    """torchvision's ViT up to its encoder: class token and patches [N, 1 + L, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = _tv("vision_transformer").VisionTransformer(64, 16, 2, 2, 16, 32)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.vit._process_input(image)
        hidden: Tensor = self.vit.encoder(torch.cat([self.vit.class_token.expand(len(patches), -1, -1), patches], 1))
        return hidden


def fpn() -> nn.Module:
    detection = importlib.import_module("torchvision.models.detection.backbone_utils")
    pool = importlib.import_module("torchvision.ops.feature_pyramid_network").LastLevelMaxPool()
    body = _resnet_body(False, (3, 4, 6, 3), width_per_group=8)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    return detection.BackboneWithFPN(body, layers, [64, 128, 256, 512], 8, pool)


def googlenet() -> nn.Module:
    body = _tv("googlenet").GoogLeNet(aux_logits=False, init_weights=False)
    return stages(dict(body.named_children()), "maxpool2", "inception3b", "maxpool3", "maxpool4")


class UNet(nn.Module):
    """A U-Net of three levels; `up` is "transposed" or a mode of interpolate; `skips_only` cuts the coarser levels."""

    def __init__(self, up: str, skips_only: bool = False) -> None:
        super().__init__()
        self.up, self.skips_only = up, skips_only
        widths = (3, 4, 6, 8)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.raise_ = nn.ModuleList(nn.ConvTranspose2d(b, b, 2, 2) for b in widths[2:])
        self.merge = nn.ModuleList(nn.Conv2d(a + b, a, 3, padding=1) for a, b in itertools.pairwise(widths[1:]))

    def forward(self, image: Tensor) -> list[Tensor]:
        skips = []
        for level, convolution in enumerate(self.down):
            image = F.leaky_relu(convolution(image if level == 0 else F.max_pool2d(image, 2)))
            skips.append(image)
        maps = [skips.pop()]
        for raised, merge in zip(reversed(self.raise_), reversed(self.merge), strict=True):
            skip = skips.pop()
            maps.append(F.leaky_relu(merge(torch.cat([skip, self._upsampled(maps[-1], raised, skip)], 1))))
        return maps

    def _upsampled(self, x: Tensor, transposed: nn.Module, like: Tensor) -> Tensor:
        if self.skips_only:
            return x.new_zeros(*x.shape[:2], *like.shape[2:])
        if self.up == "transposed":
            raised: Tensor = transposed(x)
            return raised
        return F.interpolate(x, like.shape[2:], mode=self.up)


class MobileNetV1(nn.Module):
    """Howard et al., 2017: 3x3 stride 2, then 13 depthwise-separable blocks."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, 2, 1)]
        for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
            layers += [nn.Conv2d(4, 4, 3, stride, 1, groups=4), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.ReLU6()]
        self.body = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.body(image)
        return features


def from_timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, features_only=True, **options)


def dinov2_tokens() -> nn.Module:
    """timm's ViT with class and register tokens, as `forward_features` returns them."""
    import timm

    options = {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": (56, 84)}
    return timm.create_model(
        "vit_small_patch14_reg4_dinov2", pretrained=False, num_classes=0, global_pool="", **options
    )


def from_transformers(kind: str, **options: Any) -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{kind}Config")(**options)
    return getattr(transformers, f"{kind}Backbone")(config)
