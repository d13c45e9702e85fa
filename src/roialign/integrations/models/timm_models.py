"""timm's models as backbones."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from roialign.backbones.sandbox import first_line
from roialign.integrations.models.common import ModelError, first_that_runs, near


class ForwardFeatures(nn.Module):
    """A timm model up to its pooling."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return self.model.forward_features(image)  # type: ignore[operator]


def build(name: str, image_hw: tuple[int, int]) -> nn.Module:
    """What `load_backbone` returns for timm/NAME."""
    timm: Any = importlib.import_module("timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ModelError(f"timm has no model {name!r}{near(name, known)}")
    try:
        defaults = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag of weights after the dot
        raise ModelError(f"timm/{name}: {first_line(error)}; it has {', '.join(_tags(timm, name))}") from error
    own_hw = tuple(defaults.input_size[1:]) if defaults is not None else image_hw
    sizes: list[dict[str, Any]] = [{}]
    if own_hw != image_hw:
        sizes = [{"img_size": image_hw}, {}] if defaults.fixed_input_size else [{}, {"img_size": image_hw}]
    builders: list[Callable[[], nn.Module]] = [
        functools.partial(make, timm, name, options) for make in (_features, _trunk) for options in sizes
    ]
    try:
        return first_that_runs(builders, image_hw)
    except (ImportError, ModelError):
        raise
    except Exception as error:  # timm's own
        raise ModelError(f"timm/{name} cannot be built: {first_line(error)}") from error


def _tags(timm: Any, name: str) -> list[str]:
    """A model's names with weights."""
    return timm.list_pretrained(f"{name.partition('.')[0]}.*") or [name.partition(".")[0]]


def _features(timm: Any, name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, features_only=True, **options)
    return model


def _trunk(timm: Any, name: str, options: dict[str, Any]) -> nn.Module:
    return ForwardFeatures(timm.create_model(name, pretrained=False, **options))
