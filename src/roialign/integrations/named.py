"""Models of timm, torchvision and transformers as RegionExtractor takes them: by name, and classifiers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from roialign.backbones import library
from roialign.backbones.library import Built
from roialign.integrations.models import load_backbone
from roialign.integrations.models.common import Stages
from roialign.integrations.models.timm_models import ForwardFeatures
from roialign.integrations.models.torchvision_models import stage_names

_IMAGE_HW = (224, 224)  # at which the stages of a classifier are looked for
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # vision transformers
    {"strict_img_size": False},  # those with windows
    {},
)


class _Libraries:
    """The three libraries, each imported when it is asked for."""

    def build(self, model: str, pretrained: bool) -> Built:
        package, _, name = model.partition("/")
        built = None
        if importlib.util.find_spec(package) if package in ("timm", "torchvision", "transformers") else None:
            built = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[package](
                name, pretrained
            )
        built = built or Built(load_backbone(model), None, None)  # of a file; or what is wrong with the name
        built.backbone.eval()
        return built

    def with_maps(self, module: nn.Module) -> nn.Module:
        if callable(getattr(module, "forward_features", None)) and callable(getattr(module, "forward_head", None)):
            return ForwardFeatures(module)  # timm's protocol
        family = ".".join(type(module).__module__.split(".")[:3])
        if not family.startswith("torchvision.models."):
            return module
        inner = getattr(module, "backbone", None)
        if isinstance(inner, nn.Module):  # of detectors and of segmentation
            return inner
        models = importlib.import_module("torchvision.models")
        if family not in {_module_of(models, name) for name in models.list_models(module=models)}:
            return module
        if isinstance(module, models.VisionTransformer):
            return Stages(module, ["encoder"])
        return Stages(
            module, stage_names(module, type(module).__name__, _IMAGE_HW, isinstance(module, models.SwinTransformer))
        )


def _module_of(models: Any, name: str) -> str:
    module: str = models.get_model_builder(name).__module__
    return module


def _timm(name: str, pretrained: bool) -> Built | None:
    timm: Any = importlib.import_module("timm")
    if name.partition(".")[0] not in timm.list_models():
        return None
    defaults = timm.get_pretrained_cfg(name)
    ways = _ANY_SIZE if defaults is not None and defaults.fixed_input_size else _ANY_SIZE[-1:]
    backbone = _first_of(timm, name, pretrained, ways)
    return Built(backbone, *((defaults.mean, defaults.std) if defaults is not None else (None, None)))


def _first_of(timm: Any, name: str, pretrained: bool, ways: Sequence[dict[str, Any]]) -> nn.Module:
    """The model with the first of these options that it takes, as a backbone if it is one."""
    backbone: nn.Module
    for options in ways:
        try:
            backbone = timm.create_model(name, pretrained=pretrained, features_only=True, **options)
        except (TypeError, AttributeError, AssertionError):
            continue
        except RuntimeError:  # it gives no maps but those of forward_features
            break
        return backbone
    backbone = timm.create_model(name, pretrained=pretrained)
    return ForwardFeatures(backbone)


def _torchvision(name: str, pretrained: bool) -> Built | None:
    models: Any = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        return None
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    if any(name in models.list_models(module=part) for part in (models.detection, models.segmentation)):
        options["weights_backbone"] = None
    model: nn.Module = models.get_model(name, **options)
    within = getattr(model, "transform", None)  # of a detector
    if within is None:
        within = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (getattr(within, f"image_{which}", getattr(within, which, None)) for which in ("mean", "std"))
    return Built(libraries.with_maps(model), mean, std)


def _transformers(name: str, pretrained: bool) -> Built | None:
    if not pretrained:
        return None  # built from a configuration, which says nothing of mean and deviation
    transformers: Any = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(name)
    has_backbone = type(config) in transformers.AutoBackbone._model_mapping
    backbone = (transformers.AutoBackbone if has_backbone else transformers.AutoModel).from_pretrained(name)
    processor = transformers.AutoImageProcessor.from_pretrained(name)
    return Built(backbone, getattr(processor, "image_mean", None), getattr(processor, "image_std", None))


libraries = _Libraries()
library.known = libraries
