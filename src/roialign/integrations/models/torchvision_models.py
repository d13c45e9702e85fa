"""torchvision's models as backbones: classifiers, detectors, segmentation, video, optical flow."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from roialign.backbones.sandbox import Sandbox, first_line
from roialign.integrations.models.common import Clip, Middle, ModelError, Stages, near

_FRAMES, _ALL_FRAMES = 4, 16  # the fewer the faster, and the place of a cell is the same; some models take 16 only


def build(name: str, image_hw: tuple[int, int]) -> nn.Module:
    """What `load_backbone` returns for torchvision/NAME."""
    models: Any = importlib.import_module("torchvision.models")
    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model {name!r}{near(name, known)}")
    options: dict[str, Any] = {"weights": None}
    if any(name in models.list_models(module=part) for part in (models.detection, models.segmentation)):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # so slow that torchvision warns of it
    if name.startswith("vit") and image_hw[0] == image_hw[1]:
        options["image_size"] = image_hw[0]
    if name == "maxvit_t":
        options["input_size"] = image_hw
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = models.get_model(name, **options)
    except ImportError:
        raise
    except Exception as error:  # torchvision's own, of sizes that the model cannot be built for
        height, width = image_hw
        raise ModelError(f"torchvision/{name} cannot be built for {height} x {width}: {first_line(error)}") from error
    return _backbone_of(models, name, model, image_hw)


def _backbone_of(models: Any, name: str, model: nn.Module, image_hw: tuple[int, int]) -> nn.Module:
    inner = getattr(
        model, "feature_encoder" if name in models.list_models(module=models.optical_flow) else "backbone", None
    )
    if isinstance(inner, nn.Module):
        return inner
    if name in models.list_models(module=models.video):
        clip = Clip(model, _ALL_FRAMES if name.startswith(("mvit", "s3d")) else _FRAMES)
        in_last = isinstance(model, models.video.SwinTransformer3d)
        return Middle(Stages(clip, stage_names(clip, name, image_hw, in_last)), 1 if in_last or "mvit" in name else 2)
    if isinstance(model, models.VisionTransformer):
        return Stages(model, ["encoder"])
    return Stages(model, stage_names(model, name, image_hw, isinstance(model, models.SwinTransformer)))


def stage_names(model: nn.Module, name: str, image_hw: tuple[int, int], channels_last: bool) -> list[str]:
    """The last module, of the upper levels, that makes a map of each size, up to the pooling."""
    last: dict[tuple[int, ...], str] = {}
    pooled: list[str] = []
    depth = 3 if isinstance(model, Clip) else 2

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)) or (
                channels_last and name.endswith("permute")
            ):
                pooled.append(name)
            if not pooled and (size := _size_of(output, channels_last)):
                last[size] = name

        return see

    upper = [(inner, module) for inner, module in model.named_modules() if inner and inner.count(".") < depth]
    hooks = [module.register_forward_hook(look(inner)) for inner, module in upper]
    try:
        with Sandbox(model) as sandbox:
            sandbox.run(image_hw, 3)
    except Exception as error:  # the model's own, at a size that it does not take
        height, width = image_hw
        raise ModelError(
            f"torchvision/{name} does not run on an image of {height} x {width}: {first_line(error)}. "
            "Try another --size"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ModelError(f"{type(model).__name__} makes no maps [N, C, H, W]; write a path.py:callable that does")
    return list(last.values())


def _size_of(output: Any, channels_last: bool) -> tuple[int, ...]:
    """Rows and columns of a map, of an image or at one time of a clip; () of anything else."""
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], tuple) and len(output[1]) == 3:
        return tuple(output[1][1:])  # tokens and the T x H x W of their cells
    if not isinstance(output, Tensor) or output.ndim not in (4, 5):
        return ()
    return tuple(output.shape[-3:-1] if channels_last else output.shape[-2:])
