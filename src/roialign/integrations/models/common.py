"""What the loaders of all libraries need: their error, the outputs of inner modules, and clips for video models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roialign.backbones.sandbox import Sandbox

FORMS = "torchvision/NAME, timm/NAME, transformers/TYPE or path.py:callable"


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


class Clip(nn.Module):
    """A video model that takes an image, and sees it in every frame of a clip [N, C, T, H, W]."""

    def __init__(self, model: nn.Module, frames: int) -> None:
        super().__init__()
        self.model = model
        self.frames = frames

    def forward(self, image: Tensor) -> Any:
        """The model's output for a clip of `image` [N, C, H, W]."""
        return self.model(image.unsqueeze(2).expand(-1, -1, self.frames, -1, -1))


class Middle(nn.Module):
    """The maps of a video model's stages [N, C, T, H, W] or [N, T, H, W, C], at the time in the middle."""

    def __init__(self, stages: nn.Module, time_dim: int) -> None:
        super().__init__()
        self.stages = stages
        self.time_dim = time_dim

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The maps by name, without their dimension of time."""
        return {name: self._at_middle(output) for name, output in self.stages(image).items()}

    def _at_middle(self, output: Any) -> Tensor:
        if isinstance(output, tuple):  # tokens, one for the class and those of T x H x W cells, and these three numbers
            tokens, size_thw = output
            output = tokens[:, 1:].unflatten(1, tuple(size_thw))
        time = output.shape[self.time_dim]
        middle: Tensor = output.select(self.time_dim, time // 2)
        return middle


def first_that_runs(builders: Iterable[Callable[[], nn.Module]], image_hw: tuple[int, int]) -> nn.Module:
    """The first of several ways to build a model that can be built and takes such an image.

    Where none takes it, the first that can be built, so that tracing says why it does not run; where none can be
    built, the error of the last.
    """
    built: list[nn.Module] = []
    failure: Exception | None = None
    for build in builders:
        try:
            with torch.random.fork_rng(devices=[]):  # random weights without a step in the caller's random state
                model = build()
        except (ImportError, ModelError):
            raise
        except Exception as error:  # the library's own, of options that this model does not have
            failure = failure or error
            continue
        if _runs(model, image_hw):
            return model
        built.append(model)
    if not built:
        raise failure or ModelError("expected a way to build the model; got none")
    return built[0]


def _runs(model: nn.Module, image_hw: tuple[int, int]) -> bool:
    try:
        with Sandbox(model) as sandbox:
            sandbox.run(image_hw, 3)
    except Exception:  # whatever a model says to an image that it does not take
        return False
    return True


def near(name: str, known: Sequence[str]) -> str:
    """The end of a message about a name that is not known."""
    alike = difflib.get_close_matches(name, known, 4, 0.5)
    return f"; near: {', '.join(alike)}" if alike else f"; it has {len(known)} others"
