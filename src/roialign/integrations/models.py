"""Backbones by name: torchvision's, timm's, transformers', or those that a file builds; none is downloaded."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roialign.backbones.sandbox import Sandbox

_PACKAGES = ("torchvision", "timm", "transformers")


class ModelError(ValueError):
    """A model that cannot be built: what was asked for, and what there is."""


class Stages(nn.Module):
    """A model that returns the outputs of some of its modules, by their names."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Run the model on `image` [N, C, H, W]; the outputs of the modules, in their order."""
        outputs: dict[str, Any] = {}
        hooks = [self.model.get_submodule(name).register_forward_hook(_keeper(outputs, name)) for name in self.names]
        try:
            self.model(image)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: outputs[name] for name in self.names}


def _keeper(outputs: dict[str, Any], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs[name] = output

    return keep


class ForwardFeatures(nn.Module):
    """A timm model up to its pooling."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        return self.model.forward_features(image)  # type: ignore[operator]


def load_backbone(model: str, image_hw: tuple[int, int] = (224, 224)) -> nn.Module:
    """Build a backbone with random weights; nothing is downloaded.

    Convention: `image_hw` is (height, width).

    Args:
        model: "torchvision/NAME", the last map of each size before pooling; "timm/NAME", its feature maps;
            "transformers/TYPE" or "transformers/path/to/config.json", the backbone of a configuration; or
            "path/to/file.py:callable", which returns a module.
        image_hw: the image size that the backbone is for, where its parameters depend on it.

    Returns:
        A module that maps an image [N, C, H, W] to its feature maps.

    Raises:
        ModelError: for a name that is not known, with near ones.
        ImportError: if the package is not installed, with what installs it.

    Example:
        >>> load_backbone("resnet18")
        Traceback (most recent call last):
        roialign.integrations.models.ModelError: expected torchvision/NAME, ...
    """
    if ".py:" in model:
        return _from_file(model)
    package, _, name = model.partition("/")
    if package not in _PACKAGES or not name:
        raise ModelError(
            f"expected torchvision/NAME, timm/NAME, transformers/TYPE or path.py:callable; got {model!r}. "
            f"Is it torchvision/{model.rpartition('/')[2]} or timm/{model.rpartition('/')[2]}?"
        )
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{model} needs {package}, which is not installed; type: pip install {package}")
    build: dict[str, Callable[[str, tuple[int, int]], nn.Module]] = {
        "torchvision": _from_torchvision,
        "timm": _from_timm,
        "transformers": _from_transformers,
    }
    return build[package](name, image_hw)


def _from_file(model: str) -> nn.Module:
    path, _, name = model.rpartition(":")
    if not Path(path).is_file():
        raise ModelError(f"expected path.py:callable; there is no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"expected a Python file; got {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = getattr(module, name, None)
    if made is None:
        raise ModelError(f"{path} has no {name!r}{_near(name, [n for n in vars(module) if n[0] != '_'])}")
    built = made if isinstance(made, nn.Module) else made()
    if not isinstance(built, nn.Module):
        raise ModelError(f"expected {model} to return a torch.nn.Module; got {type(built).__name__}")
    return built


def _from_torchvision(name: str, image_hw: tuple[int, int]) -> nn.Module:
    models: Any = importlib.import_module("torchvision.models")
    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model {name!r}{_near(name, known)}")
    options: dict[str, Any] = {"weights": None}
    if any(name in models.list_models(module=part) for part in (models.detection, models.segmentation)):
        options["weights_backbone"] = None
    if name.startswith("vit") and image_hw[0] == image_hw[1]:
        options["image_size"] = image_hw[0]
    model: nn.Module = models.get_model(name, **options)
    inner = getattr(model, "backbone", None)
    if isinstance(inner, nn.Module):
        return inner
    if isinstance(model, models.VisionTransformer):
        return Stages(model, ["encoder"])
    return Stages(model, stage_names(model, image_hw, channels_last=isinstance(model, models.SwinTransformer)))


def stage_names(model: nn.Module, image_hw: tuple[int, int], channels_last: bool) -> list[str]:
    """The last module, of the upper two levels, that makes a map of each size, up to the pooling."""
    last: dict[tuple[int, ...], str] = {}
    pooled: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, nn.AdaptiveAvgPool2d) or (channels_last and name == "permute"):
                pooled.append(name)
            if not pooled and isinstance(output, Tensor) and output.ndim == 4:
                last[tuple(output.shape[1:3] if channels_last else output.shape[2:])] = name

        return see

    upper = [(name, module) for name, module in model.named_modules() if name and name.count(".") < 2]
    hooks = [module.register_forward_hook(look(name)) for name, module in upper]
    try:
        with Sandbox(model) as sandbox:
            sandbox.run(image_hw, 3)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ModelError(f"{type(model).__name__} makes no maps [N, C, H, W]; write a path.py:callable that does")
    return list(last.values())


def _from_timm(name: str, image_hw: tuple[int, int]) -> nn.Module:
    timm: Any = importlib.import_module("timm")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ModelError(f"timm has no model {name!r}{_near(name, known)}")
    options: dict[str, Any] = {"pretrained": False}
    defaults = timm.get_pretrained_cfg(name)
    if defaults is not None and defaults.fixed_input_size and tuple(defaults.input_size[1:]) != image_hw:
        options["img_size"] = image_hw
    try:
        features: nn.Module = timm.create_model(name, features_only=True, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError):
        return ForwardFeatures(timm.create_model(name, **options))
    return features


def _from_transformers(name: str, image_hw: tuple[int, int]) -> nn.Module:
    transformers: Any = importlib.import_module("transformers")
    if Path(name).exists():
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    else:
        known = list(transformers.CONFIG_MAPPING.keys())
        if name not in known:
            raise ModelError(f"transformers has no configuration {name!r}{_near(name, known)}")
        config = transformers.AutoConfig.for_model(name)
    if type(config) not in transformers.AutoBackbone._model_mapping:
        return _seeded(lambda: transformers.AutoModel.from_config(config))
    stages = [stage for stage in getattr(config, "stage_names", []) if stage != "stem"]
    if len(stages) <= 5 and not Path(name).exists():
        config.out_features = stages
    return _seeded(lambda: transformers.AutoBackbone.from_config(config))


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Random weights without a step in the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        return build()


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 4, 0.5)
    return f"; near: {', '.join(near)}" if near else f"; it has {len(known)} others"
