"""transformers' models as backbones: of larger models the part that sees the image."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from roialign.backbones.sandbox import first_line
from roialign.integrations.models.common import ModelError, first_that_runs, near

_IMAGE = "pixel_values"
_VISION = (
    "vision_config",
    "image_config",
    "detector_config",
)  # where configurations of several parts keep that of the image's


def build(name: str, image_hw: tuple[int, int]) -> nn.Module:
    """What `load_backbone` returns for transformers/TYPE and transformers/path/to/config.json."""
    transformers: Any = importlib.import_module("transformers")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        config = _vision_of(_configuration(transformers, name))
        return first_that_runs(_builders(transformers, name, config, Path(name).exists(), image_hw), image_hw)
    except (ImportError, ModelError):
        raise
    except Exception as error:  # transformers' own
        raise ModelError(f"transformers/{name} cannot be built: {first_line(error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _configuration(transformers: Any, name: str) -> Any:
    if Path(name).exists():
        return transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    known = list(transformers.CONFIG_MAPPING.keys())
    if name not in known:
        raise ModelError(f"transformers has no configuration {name!r}{near(name, known)}")
    return transformers.AutoConfig.for_model(name)


def _vision_of(config: Any) -> Any:
    for part in _VISION:
        inner = getattr(config, part, None)
        if inner is not None:
            return _vision_of(inner)
    return config


def _builders(
    transformers: Any, name: str, config: Any, is_file: bool, image_hw: tuple[int, int]
) -> list[Callable[[], nn.Module]]:
    """The ways to build it, the one that says most first: for the asked size, then as it is configured."""
    inner = getattr(config, "backbone_config", None)
    if inner is not None and hasattr(inner, "use_pretrained_backbone"):
        inner.use_pretrained_backbone = False
    for key, value in list(vars(config).items()):
        if isinstance(value, tuple):  # ConvNeXt and FocalNet of 5.23 cannot be built with the tuples of their defaults
            setattr(config, key, list(value))
    if type(config) in transformers.AutoBackbone._model_mapping:
        stages = [stage for stage in getattr(config, "stage_names", []) if stage != "stem"]
        if 0 < len(stages) <= 5 and not is_file:
            config.out_features = stages
        make = functools.partial(transformers.AutoBackbone.from_config, config)
    else:
        try:
            make = functools.partial(_modelled, _class_for(transformers, name, config), config)
        except ModelError:
            if inner is None:
                raise
            return _builders(transformers, name, inner, is_file, image_hw)  # that of a model which wants text as well
    own = getattr(config, "image_size", None)
    if own is None or is_file:
        return [make]
    height, width = image_hw
    sizes = [height] if height == width else [(height, width)]
    return [
        *(functools.partial(_resized, config, size, make) for size in sizes),
        functools.partial(_resized, config, own, make),
    ]


def _resized(config: Any, size: Any, make: Callable[[], nn.Module]) -> nn.Module:
    config.image_size = size
    return make()


def _class_for(transformers: Any, name: str, config: Any) -> Any:
    """The model of a configuration that takes an image and nothing else."""
    kind = transformers.AutoModel._model_mapping.get(type(config), None)
    if kind is None or isinstance(kind, tuple):
        module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
        made: list[Any] = [
            one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__
        ]
        fitting = [
            one
            for one in made
            if issubclass(one, transformers.PreTrainedModel)
            and getattr(one, "config_class", None) is type(config)
            and one.main_input_name == _IMAGE
            and not one.__name__.endswith("PreTrainedModel")
        ]
        kind = fitting[0] if fitting else None
    wanted = getattr(kind, "main_input_name", None)
    if wanted != _IMAGE:
        clip = isinstance(wanted, str) and "video" in wanted
        got = "a clip of several frames" if clip else f"{wanted}" if wanted else "no model for its configuration alone"
        raise ModelError(
            f"expected a configuration of a model that takes an image [N, C, H, W]; transformers/{name} has "
            f"{'one that takes ' if wanted else ''}{got}. Trace the part that sees the image, from a path.py:callable"
        )
    if hasattr(config, "num_frames"):
        raise ModelError(
            f"expected a configuration of a model that takes an image [N, C, H, W]; transformers/{name} takes clips of "
            f"{config.num_frames} frames. Trace the part that sees one frame, from a path.py:callable"
        )
    others = [
        one.name
        for one in inspect.signature(kind.forward).parameters.values()
        if one.default is one.empty and one.name not in ("self", _IMAGE) and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    if others:
        raise ModelError(
            "expected a configuration of a model that takes an image [N, C, H, W] and nothing else; "
            f"transformers/{name} also needs {', '.join(others)}. Pass them in your own module"
        )
    return kind


def _modelled(kind: Any, config: Any) -> nn.Module:
    """The model; of a detector of queries its backbone and its encoder."""
    model: nn.Module = kind._from_config(config)
    is_detector = all(isinstance(getattr(model, part, None), nn.Module) for part in ("backbone", "encoder", "decoder"))
    return _Detector(model) if is_detector else model


class _Detector(nn.Module):
    """A detector of queries up to its encoder: the maps of its backbone, and the encoder's output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Any]:
        """The outputs of `backbone`, without its masks, and of `encoder`; what comes after them is not run."""
        outputs: dict[str, Any] = {}

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            outputs["backbone"] = [level[0] if isinstance(level, tuple) else level for level in output]

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            outputs["encoder"] = output
            raise _EnoughError

        hooks = [
            self.model.get_submodule("backbone").register_forward_hook(keep),
            self.model.get_submodule("encoder").register_forward_hook(stop),
        ]
        try:
            self.model(image)
        except _EnoughError:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return outputs


class _EnoughError(Exception):
    """Ends a forward pass when the encoder is through."""
