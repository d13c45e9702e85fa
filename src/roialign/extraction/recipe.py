"""How features are made: the backbone and all that is chosen about it, as a plain value that workers build from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from roialign.backbones import library
from roialign.backbones.library import Built
from roialign.errors import OptionError
from roialign.extraction.decode import Decode
from roialign.extraction.items import MASK_SHARE, BoxSource, ColumnType
from roialign.extraction.packages import needed
from roialign.extraction.store.manifest import MapGrid, weights_sha256
from roialign.extraction.store.parts import Parts
from roialign.extraction.store.rows import RowSchema
from roialign.extraction.work import Embed, PartWork, Reduce
from roialign.geometry import Frame
from roialign.ops import validate
from roialign.regions import RegionExtractor
from roialign.regions.tracing import pooled_maps

_WRAPPED = ("model.", "backbone.", "module.")  # what names of weights begin with in one file or another
_IN_FILE = ("state_dict", "model", "model_state_dict", "state_dict_ema")  # where training programs put the weights


@dataclass(frozen=True)
class Fit:
    """What is done to each image before it enters the backbone.

    Args:
        kind: "resize" to exactly (height, width), or with one number until the shorter side has it; or "letterbox".
        size: (height, width), or one number.

    Example:
        >>> Fit("resize", 240)(Frame.image((480, 640))).size_hw
        (240, 320)
    """

    kind: str
    size: tuple[int, int] | int

    def __call__(self, photo: Frame) -> Frame:
        if self.kind == "letterbox":
            return photo.letterbox((self.size, self.size) if isinstance(self.size, int) else self.size)
        return photo.resize_shorter(self.size) if isinstance(self.size, int) else photo.resize(self.size)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size if isinstance(self.size, int) else list(self.size)}


def _fit_of(resize: int | tuple[int, int] | None, letterbox: int | tuple[int, int] | None) -> Fit | None:
    """What is done to each image by these options, at most one of which is given.

    Raises:
        OptionError: RA506, for both, or a size that cannot be.
    """
    if resize is not None and letterbox is not None:
        raise OptionError("RA506: expected resize or letterbox; got both. Choose one.")
    if resize is None and letterbox is None:
        return None
    fit = Fit("resize", resize) if resize is not None else Fit("letterbox", letterbox or 0)
    fit(Frame.image((480, 640)))  # which says what is wrong with the size
    return fit


@dataclass(frozen=True)
class Recipe:
    """All that decides the feature of a box in a picture.

    Args:
        backbone: the name of a model, path.py:callable, or a module.
        weights: a file of weights for it, or None.
        pretrained: whether a named model has the weights that its library has for it.
        maps: names of the maps to pool from; None for those of a pyramid, or the last.
        output_size: bins (height, width).
        reduce: what is done with the bins.
        dtype: of the stored features.
        fit: what is done to each image; None for nothing.
        device: of the backbone.
        masked: whether outlines count.
    """

    backbone: str | nn.Module
    weights: str | None
    pretrained: bool
    maps: tuple[str, ...] | None
    output_size: tuple[int, int]
    reduce: Reduce
    dtype: str
    fit: Fit | None
    device: str
    masked: bool = False

    def __post_init__(self) -> None:
        if self.reduce not in get_args(Reduce):
            raise OptionError(f"RA506: expected reduce, one of {', '.join(get_args(Reduce))}; got {self.reduce!r}.")

    @classmethod
    def of_options(
        cls,
        backbone: str | nn.Module,
        *,
        weights: str | os.PathLike[str] | None,
        pretrained: bool,
        maps: Sequence[str] | None,
        output_size: int | tuple[int, int],
        reduce: Reduce,
        dtype: str,
        resize: int | tuple[int, int] | None,
        letterbox: int | tuple[int, int] | None,
        device: str | None,
        masked: bool = False,
    ) -> Recipe:
        """The recipe of the options of `extract`, which are explained there.

        Raises:
            OptionError: RA506, for options that do not go together, or that cannot be.
        """
        return cls(
            backbone=absolute(backbone),
            weights=None if weights is None else os.fspath(weights),
            pretrained=pretrained,
            maps=None if maps is None else tuple(maps),
            output_size=validate.check_options(output_size, 1.0, -1)[0],
            reduce=reduce,
            dtype=dtype,
            fit=_fit_of(resize, letterbox),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            masked=masked,
        )

    @property
    def name(self) -> str:
        """What the backbone is called, wherever its file lies."""
        if isinstance(self.backbone, nn.Module):
            return type(self.backbone).__qualname__
        return os.path.basename(self.backbone) if ".py" in self.backbone else self.backbone

    def build(self) -> RegionExtractor:
        """The extractor, on its device, in eval mode; weights that are random are the same each time.

        Raises:
            ValueError: for a model that no library has, with near ones.
            OptionError: RA506, for weights that are not of this model.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = self._built()
        backbone = library.current().with_maps(built.backbone)
        if self.weights is not None:
            load_weights(backbone, self.weights)
        extractor = RegionExtractor(
            backbone, self.output_size, fit=self.fit, mean=built.mean, std=built.std, maps=self.maps
        )
        return _channels_last(extractor.eval()).to(self.device)

    def _built(self) -> Built:
        if isinstance(self.backbone, nn.Module):
            return Built(self.backbone, None, None)
        return library.current().build(self.backbone, self.pretrained and self.weights is None)

    def shape_of(self, channels: int) -> tuple[int, ...]:
        """Of the feature of a box, from maps of that many channels."""
        height, width = self.output_size
        shapes = {"mean": (channels,), "none": (channels, height, width), "flatten": (channels * height * width,)}
        return shapes[self.reduce]


@dataclass(frozen=True)
class Learned:
    """What is known of an extractor once it was built and traced: for the manifest, and for the rows."""

    backbone: Mapping[str, Any]
    grids: Mapping[str, MapGrid]
    transform: Mapping[str, Any]
    schema: RowSchema


def learn(
    recipe: Recipe, extractor: RegionExtractor, traced_hw: tuple[int, int], columns: Mapping[str, ColumnType]
) -> Learned:
    """Trace an extractor at `traced_hw`, and hash its weights."""
    trace = extractor.trace(traced_hw)
    pooled = {name: trace[name] for name in pooled_maps(trace, extractor.maps)}
    further: dict[str, ColumnType] = {MASK_SHARE: "float64"} if recipe.masked else {}
    channels = cast(int, next(iter(pooled.values())).channels)  # a trace knows them
    normalized = {"mean": extractor.mean, "std": extractor.std}
    values = {name: None if one is None else one.flatten().tolist() for name, one in normalized.items()}
    return Learned(
        {"name": recipe.name, "weights_sha256": weights_sha256(extractor.backbone)},
        {name: MapGrid(grid.stride_yx, grid.offset_yx or grid.conventional_offset_yx) for name, grid in pooled.items()},
        {"fit": None if recipe.fit is None else recipe.fit.to_dict(), **values},
        RowSchema(recipe.shape_of(channels), recipe.dtype, {**columns, **further}),
    )


@dataclass(frozen=True)
class Job:
    """What a worker needs to do parts of an extraction: a plain value, which goes to other processes and machines.

    Args:
        recipe: of the features.
        traced_hw: the size at which each worker traces the backbone first, so that all find the same.
        source: of the boxes.
        parts: where to.
        batch_size: images in a batch, at most.
        decoders: threads that decode, in each worker.
        weights_sha256: of the backbone.
    """

    recipe: Recipe
    traced_hw: tuple[int, int]
    source: BoxSource
    parts: Parts
    batch_size: int
    decoders: int
    weights_sha256: str

    def open(self, extractor: RegionExtractor | None = None) -> PartWork:
        """What does the parts, with an extractor that is there already or with a new one.

        Raises:
            OptionError: RA506, if the backbone that is built has other weights.
        """
        if extractor is None:
            extractor = self.recipe.build()
            if weights_sha256(extractor.backbone) != self.weights_sha256:
                raise OptionError(
                    f"RA506: expected {self.recipe.name} to have the same weights each time that it is built; a worker "
                    "got others. Load them from a file, or seed what makes them."
                )
        levels = pooled_maps(extractor.trace(self.traced_hw), extractor.maps)
        embed = Embed(extractor, list(levels), self.recipe.reduce, self.parts.schema)
        return PartWork(Decode(self.source, self.recipe.masked), embed, self.batch_size, self.decoders)


def _channels_last(extractor: RegionExtractor) -> RegionExtractor:
    """With the weights of its convolutions in the order that is fastest; `Module.to` refuses those of volumes."""
    for weight in extractor.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return extractor


def load_weights(model: nn.Module, path: str) -> None:
    """Put the weights of a file into a model, whose every parameter has to be in it.

    A file may have more, such as the head of a classifier; names may begin with "module.", "model." or "backbone.".

    Args:
        model: to be changed.
        path: what `torch.save` wrote of a state, or a .safetensors file.

    Raises:
        OptionError: RA506, for a file that cannot be read, or that lacks some of the weights.
    """
    there = _weights_in(path)
    wanted = model.state_dict()
    known = {_bare(name): value for name, value in there.items()}
    found = {name: known[_bare(name)] for name in wanted if _bare(name) in known}
    lacking = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if lacking or not found:
        raise OptionError(
            f"RA506: expected weights of all {len(wanted)} parameters and buffers of the backbone in {path}; it lacks "
            f"{len(lacking)}, such as {', '.join(lacking[:3])}, and has {len(there)}, such as "
            f"{', '.join(list(there)[:3])}. Pass weights of this model; for others write a path.py:callable that loads "
            "them."
        )
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:  # of shapes
        raise OptionError(f"RA506: expected weights of the backbone in {path}; {error}.") from error


def _weights_in(path: str) -> dict[str, Any]:
    try:
        if path.endswith(".safetensors"):
            there: Any = needed("safetensors.torch").load_file(path)
        else:
            there = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, ImportError) as error:
        raise OptionError(f"RA506: expected weights in {path}; {_first(error)}.") from error
    except Exception as error:  # pickle's
        raise OptionError(
            f"RA506: expected a file of tensors alone in {path}; {_first(error)}. Save model.state_dict()."
        ) from error
    inner = next((there[name] for name in _IN_FILE if isinstance(there.get(name), Mapping)), there)
    return {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _bare(name: str) -> str:
    """A name without what wrappers put before it."""
    while prefix := next((one for one in _WRAPPED if name.startswith(one)), ""):
        name = name[len(prefix) :]
    return name


def versions() -> dict[str, str]:
    """Of the packages that rows are made with."""
    names = ("roialign", "torch", "torchvision", "timm", "transformers", "pillow", "pyarrow", "numpy")
    return {name: found for name in names if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def absolute(backbone: str | nn.Module) -> str | nn.Module:
    """path.py:callable with its whole path, for workers in other folders."""
    if isinstance(backbone, str) and ".py" in backbone:
        path, colon, name = backbone.rpartition(":") if not backbone.endswith(".py") else (backbone, "", "")
        if Path(path).is_file():
            return f"{os.path.abspath(path)}{colon}{name}"
    return backbone
