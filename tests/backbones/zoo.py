"""The networks that grids are checked on: real families, as narrow and as shallow as their constructors allow.

`maps` turns what a network returns into maps [N, C, H, W] with the names that `trace` gives them. `unmixed` gives the
network without what mixes positions over the whole image or from a coarser level (gates, attention, top-down paths):
what a cell sees is then its own path, whose stride and centre the grid has. Sizes are oblong and mostly not divisible
by the strides; the long side is longer than the receptive field's half and three strides, so that some cells see no
border at each end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.backbones import networks as nets
from tests.backbones.oracle import Maps, Seen, seen


def plain(outputs: Any) -> dict[str, Tensor]:
    """A tensor, a list or a dict of NCHW maps."""
    if isinstance(outputs, Tensor):
        return {"0": outputs}
    return dict(outputs) if isinstance(outputs, Mapping) else {str(i): value for i, value in enumerate(outputs)}


def channels_last(outputs: Any) -> dict[str, Tensor]:
    return {name: value.permute(0, 3, 1, 2) for name, value in plain(outputs).items()}


def feature_maps(outputs: Any) -> dict[str, Tensor]:
    """transformers' BackboneOutput."""
    return {f"feature_maps.{i}": value for i, value in enumerate(outputs.feature_maps)}


def tokens(prefix: int, rows: int, columns: int) -> Maps:
    def maps(outputs: Tensor) -> dict[str, Tensor]:
        return {"0": outputs[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))}

    return maps


@dataclass(frozen=True)
class Net:
    name: str
    make: Callable[[], nn.Module]
    sizes: tuple[tuple[int, int], ...]
    maps: Maps = plain
    unmixed: Callable[[nn.Module], nn.Module] | None = None
    whole: tuple[str, ...] = ()
    """The outputs each of whose cells sees the whole image while everything mixes."""
    needs: str = "torchvision"
    by: Literal["lines", "pixels"] = "lines"
    probe: Literal["nan", "difference"] = "nan"


class _OwnToken(nn.Module):
    """Attention that mixes nothing: each token keeps its own value."""

    def __init__(self, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden, None) if self.pair else hidden


_GATES = ("SqueezeExcitation", "SEModule", "SqueezeExcite")
_ATTENTION = {
    "MultiheadAttention": True,
    "ShiftedWindowAttention": False,
    "Attention": False,
    "WindowAttention": False,
    "Dinov2Attention": True,
    "SwinAttention": True,
}


def without_gates_and_attention(module: nn.Module) -> nn.Module:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if kind in _GATES:
                setattr(parent, name, nn.Identity())
            elif kind in _ATTENTION:
                setattr(parent, name, _OwnToken(_ATTENTION[kind]))
    return module


class WithoutUpsampling(nn.Module):
    """A pyramid whose top-down paths add zeros."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Any:
        def zeros(x: Tensor, size: Any = None, **options: Any) -> Tensor:
            return x.new_zeros(*x.shape[:2], *size)

        with mock.patch.object(F, "interpolate", zeros):
            return self.module(image)


def _skips_only(module: nn.Module) -> nn.Module:
    assert isinstance(module, nets.UNet)
    module.skips_only = True
    return module


_FOUR_STAGES = ["stage1", "stage2", "stage3", "stage4"]

ZOO = (
    Net("vgg11", lambda: nets.vgg("A"), ((233, 45), (50, 219))),
    Net("vgg16", nets.vgg, ((250, 37), (40, 261))),
    Net("alexnet", nets.alexnet, ((263, 71), (75, 250))),
    Net("resnet18", lambda: nets.resnet(basic=True, depths=(2, 2, 2, 2)), ((300, 21),)),
    Net("resnet50", lambda: nets.resnet(width_per_group=8), ((333, 25), (30, 351))),
    Net("resnet50_v1", nets.resnet_v1, ((366, 25),)),
    Net("resnext50", lambda: nets.resnet(width_per_group=1, groups=8), ((320, 27), (21, 339))),
    Net(
        "resnet50_dilated",
        lambda: nets.resnet(width_per_group=8, replace_stride_with_dilation=[False, True, True]),
        ((277, 21), (23, 290)),
    ),
    Net("googlenet", nets.googlenet, ((245, 30),)),
    Net("densenet", nets.densenet, ((270, 44), (45, 289))),
    Net("convnext", nets.convnext, ((333, 50), (37, 310))),
    Net("regnet_x", lambda: nets.regnet(None), ((200, 45), (50, 213))),
    Net("regnet_y", lambda: nets.regnet(0.25), ((217, 41),), unmixed=without_gates_and_attention, whole=("block4",)),
    Net(
        "mobilenet_v3",
        nets.mobilenet_v3,
        ((440, 37), (50, 451)),
        unmixed=without_gates_and_attention,
        whole=("1", "12"),
    ),
    Net("efficientnet_b0", nets.efficientnet, ((533, 21),), unmixed=without_gates_and_attention, whole=("1", "8")),
    Net(
        "swin",
        nets.swin,
        ((90, 52), (61, 107)),
        maps=channels_last,
        unmixed=without_gates_and_attention,
    ),
    Net(
        "vit_b_16",
        nets.VisionTokens,
        ((64, 64),),
        maps=tokens(1, 4, 4),
        unmixed=without_gates_and_attention,
        whole=("0",),
    ),
    Net("resnet50_fpn", nets.fpn, ((351, 25), (22, 365)), unmixed=WithoutUpsampling),
    Net("unet_transposed", lambda: nets.UNet("transposed"), ((40, 56),), unmixed=_skips_only, by="pixels"),
    Net("unet_nearest", lambda: nets.UNet("nearest"), ((56, 40), (45, 58)), unmixed=_skips_only, by="pixels"),
    Net("unet_bilinear", lambda: nets.UNet("bilinear"), ((41, 30),), unmixed=_skips_only, probe="difference"),
    Net("mobilenet_v1", nets.MobileNetV1, ((263, 45),)),
    Net(
        "timm_resnet50",
        lambda: nets.from_timm("resnet50", channels=(8, 16, 24, 32), base_width=16),
        ((333, 25), (30, 351)),
        needs="timm",
    ),
    Net(
        "timm_tf_efficientnet_lite0",
        lambda: nets.from_timm("tf_efficientnet_lite0", out_indices=(0, 1, 2, 3)),
        ((252, 30), (253, 35), (29, 266)),
        needs="timm",
    ),
    Net(
        "timm_convnext_atto",
        lambda: nets.from_timm("convnext_atto", dims=(8, 12, 16, 20), depths=(1, 1, 1, 1)),
        ((320, 45), (50, 333)),
        needs="timm",
    ),
    Net(
        "timm_regnetx_002", lambda: nets.from_timm("regnetx_002", out_indices=(0, 1, 2, 3)), ((290, 40),), needs="timm"
    ),
    Net(
        "timm_regnety_002",
        lambda: nets.from_timm("regnety_002", out_indices=(0, 1, 2)),
        ((157, 90),),
        unmixed=without_gates_and_attention,
        whole=("1", "2"),
        needs="timm",
    ),
    Net(
        "timm_swin",
        lambda: nets.from_timm(
            "swin_tiny_patch4_window7_224",
            embed_dim=8,
            depths=(2, 2, 2),
            num_heads=(1, 2, 2),
            window_size=4,
            img_size=(88, 120),
            out_indices=(0, 1, 2),
        ),
        ((88, 120),),
        maps=channels_last,
        unmixed=without_gates_and_attention,
        needs="timm",
    ),
    Net(
        "timm_vit_patch14_reg4",
        nets.dinov2_tokens,
        ((56, 84),),
        maps=tokens(5, 4, 6),
        unmixed=without_gates_and_attention,
        whole=("0",),
        needs="timm",
        by="pixels",
    ),
    Net(
        "timm_vit_patch14_features",
        lambda: nets.from_timm(
            "vit_small_patch14_reg4_dinov2", depth=2, embed_dim=16, num_heads=2, img_size=(56, 84), out_indices=(0, 1)
        ),
        ((56, 84),),
        unmixed=without_gates_and_attention,
        whole=("0", "1"),
        needs="timm",
    ),
    Net(
        "hf_resnet",
        lambda: nets.from_transformers(
            "ResNet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[2, 2, 2, 2], out_features=_FOUR_STAGES
        ),
        ((270, 45), (50, 257)),
        maps=feature_maps,
        needs="transformers",
    ),
    Net(
        "hf_convnext",
        lambda: nets.from_transformers(
            "ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], out_features=_FOUR_STAGES
        ),
        ((320, 45), (50, 333)),
        maps=feature_maps,
        needs="transformers",
    ),
    Net(
        "hf_swin",
        lambda: nets.from_transformers(
            "Swin",
            image_size=96,
            embed_dim=8,
            depths=[2, 2, 2],
            num_heads=[1, 2, 2],
            window_size=4,
            out_features=["stage1", "stage2", "stage3"],
        ),
        ((97, 70), (60, 111)),
        maps=feature_maps,
        unmixed=without_gates_and_attention,
        needs="transformers",
    ),
    Net(
        "hf_dinov2",
        lambda: nets.from_transformers(
            "Dinov2",
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=42,
            patch_size=14,
            out_features=["stage1", "stage2"],
        ),
        ((43, 71), (84, 56)),
        maps=feature_maps,
        unmixed=without_gates_and_attention,
        whole=("feature_maps.0", "feature_maps.1"),
        needs="transformers",
    ),
)


@functools.cache
def observed(net: Net, image_hw: tuple[int, int], unmixed: bool = False) -> dict[str, Seen]:
    """The oracle's answer for a network at a size, computed once."""
    return seen(built(net, unmixed), image_hw, net.maps, by=net.by, probe=net.probe)


def built(net: Net, unmixed: bool = False) -> nn.Module:
    """The network with seeded weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = net.make().eval()
    return net.unmixed(module) if unmixed and net.unmixed else module


PAIRS = [(net, size) for net in ZOO for size in net.sizes]
