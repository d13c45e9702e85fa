"""Backbones by name: torchvision's, timm's, transformers', or those that a file builds; none is downloaded."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from torch import nn

from roialign.integrations.models.common import FORMS, ModelError

__all__ = ["ModelError", "load_backbone"]

_PACKAGES = ("torchvision", "timm", "transformers")


def load_backbone(model: str, image_hw: tuple[int, int] = (224, 224)) -> nn.Module:
    """Build a backbone with random weights; nothing is downloaded.

    Convention: `image_hw` is (height, width).

    Args:
        model: "torchvision/NAME", the last map of each size before pooling, of video models on a clip that shows the
            image in every frame; "timm/NAME", its feature maps; "transformers/TYPE" or
            "transformers/path/to/config.json", the backbone or the vision tower of a configuration; or
            "path/to/file.py:callable", which returns a module.
        image_hw: the image size that the backbone is for, where its parameters depend on it.

    Returns:
        A module that maps an image [N, C, H, W] to its feature maps.

    Raises:
        ModelError: for a name that is not known, with near ones; for a model that takes no images; and for a file or
            a function that fails, with the line.
        ImportError: if the package is not installed, with the command that installs it.

    Example:
        >>> load_backbone("resnet18")
        Traceback (most recent call last):
        roialign.integrations.models.common.ModelError: expected torchvision/NAME, ...
    """
    if re.search(r"\.py(:|$)", model):
        from roialign.integrations.models.file import from_file

        return from_file(model)
    package, _, name = model.partition("/")
    if package not in _PACKAGES or not name:
        raise ModelError(f"expected {FORMS}; got {model!r}.{_meant(model)}")
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{model} needs {package}, which is not installed; type: pip install {package}")
    module = importlib.import_module(f"roialign.integrations.models.{package}_models")
    build: Callable[[str, tuple[int, int]], nn.Module] = module.build
    return build(name, image_hw)


def _meant(model: str) -> str:
    """What may have been meant by a name without a package."""
    if model in _PACKAGES:
        return f" Is it {model}/resnet18 or another of its models?"
    path = model.rpartition(":")[0] or model
    if Path(path).exists():
        return "A file must end in .py."
    name = model.rpartition("/")[2]
    return f" Is it torchvision/{name} or timm/{name}?" if name else ""
