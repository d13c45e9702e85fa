"""One call in a file: to send with a bug report, and to examine elsewhere."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from roialign.doctor.diagnose import diagnose
from roialign.doctor.findings import Diagnosis
from roialign.errors import FeatureMapError, OptionError
from roialign.geometry.values import shown
from roialign.ops import notebook, notice
from roialign.ops.validate import describe, is_dense, is_flag
from roialign.version import __version__

_FORMAT = "roialign call 1"
_MOST_CELLS = 1 << 34  # of features that were left out, each of which is looked at
_ARGUMENTS = ("input", "boxes", "output_size", "spatial_scale", "sampling_ratio", "aligned")


def save_call(
    path: str | os.PathLike[str],
    input: Any,
    boxes: Any,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    image_size: tuple[int, int] | None = None,
    *,
    features: bool = True,
) -> None:
    """Write the arguments of one call of `roi_align`, good or bad, to a file for a bug report.

    `roialign doctor --call PATH` says what the file holds and what is wrong with the call. It holds nothing
    but numbers, names of types, versions, and the name of the file and the line that saved it, and is loaded
    with `weights_only=True`: it can run no code. Tensors are copied to the CPU.

    Args:
        path: file to write.
        input: features [N, C, H, W].
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; xyxy.
        output_size: bins (height, width), or one number for both.
        spatial_scale: as given to `roi_align`.
        sampling_ratio: as given to `roi_align`.
        aligned: as given to `roi_align`.
        image_size: (height, width) of the tensor that entered the backbone, where it is known.
        features: False leaves out the values of `input`, which may be large or confidential, and keeps its
            shape and type. What depends on the values, RA301 and RA302, is then not examined.

    Raises:
        OptionError: RA506, if `path` is not a path, or an argument is made of anything but tensors, numbers, text,
            lists and tuples.
        FeatureMapError: RA307, if `image_size` is not (height, width).

    Example:
        >>> import tempfile, torch, roialign
        >>> boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]
        >>> with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        ...     roialign.save_call(file.name, torch.ones(1, 8, 64, 64), boxes, output_size=7)
        ...     held = torch.load(file.name, weights_only=True)
        >>> roialign.diagnose(**held["arguments"]).findings[0].code
        'RA101'
    """
    _check_path(path)
    if not _is_size(image_size):
        raise FeatureMapError(
            f"RA307: expected image_size as (height, width), both at least 1; got {shown(image_size)}. For a tensor: "
            "image.shape[-2:]."
        )
    given = (input, boxes, output_size, spatial_scale, sampling_ratio, bool(aligned) if is_flag(aligned) else aligned)
    left_out = not features and isinstance(input, Tensor)
    named = dict(zip(_ARGUMENTS, given, strict=True))
    arguments = {name: _plain(name, value) for name, value in named.items() if not (left_out and name == "input")}
    if left_out:
        arguments["input"] = _shape_of(input)
    site = _site()
    about = [f"A call of roi_align, saved at {site} by roialign {__version__} with torch {torch.__version__}."]
    about += [f"{name}: {_described(value)}" for name, value in named.items()]
    about.append(f"image_size: {'not given' if image_size is None else tuple(map(int, image_size))}")
    if left_out:
        about[1] += ", values left out: RA301 and RA302 are not examined"
    held = {
        "format": _FORMAT,
        "about": "\n".join(about),
        "arguments": arguments,
        "image_size": None if image_size is None else tuple(map(int, image_size)),
        "call_site": site,
    }
    torch.save(held, path)


@dataclass(frozen=True)
class SavedCall:
    """What a file written by `save_call` holds."""

    about: str
    """What was saved, in words: a line for each argument."""
    arguments: dict[str, Any]
    image_size: tuple[int, int] | None
    call_site: str
    """Where it was saved, as "file.py:12"."""

    def diagnose(self) -> Diagnosis:
        """What is wrong with the call, as `roialign.diagnose` says it."""
        return diagnose(**self.arguments, image_size=self.image_size).at(self.call_site)


def load_call(path: str | os.PathLike[str]) -> SavedCall:
    """Read a file written by `save_call`; features that were left out become ones.

    Raises:
        OptionError: RA506, if there is no such file, or it was not written by `save_call`. Nothing is unpacked that
            is larger than the file.
    """
    from roialign.doctor.report.words import printable

    _check_path(path)
    shown_path = os.fspath(path)
    if not os.path.isfile(path):
        raise OptionError(f"RA506: expected a file that roialign.save_call wrote; there is no file {shown_path}")
    refusal = f"RA506: {shown_path} is not a call that roialign.save_call wrote"
    if not _is_as_large_as_it_says(path):
        raise OptionError(f"{refusal}: it is not a torch.save file, or would unpack to more than its size")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, for a file that is torn, foreign or hostile
        raise OptionError(f"{refusal}: torch.load(weights_only=True) refuses it ({type(error).__name__})") from error
    if not _is_ours(held):
        raise OptionError(f"{refusal}, or another version of roialign wrote it; this one reads {_FORMAT!r}")
    arguments = dict(held["arguments"])
    try:
        room = _room_left(arguments, os.path.getsize(path))
    except RecursionError:
        room = -1
    if room < 0:
        raise OptionError(f"{refusal}: its contents would take more space than the file")
    if isinstance(arguments["input"], dict):
        try:
            arguments["input"] = _stand_in(**arguments["input"])
        except (TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise OptionError(f"{refusal}: its features have no usable shape and type") from error
    return SavedCall(printable(held["about"]), arguments, held["image_size"], held["call_site"])


def _check_path(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise OptionError(f'RA506: expected path, the name of a file, such as "call.pt"; got {shown(path)}.')


def _is_ours(held: Any) -> bool:
    return (
        isinstance(held, dict)
        and held.get("format") == _FORMAT
        and isinstance(held.get("arguments"), dict)
        and set(held["arguments"]) == set(_ARGUMENTS)
        and isinstance(held.get("about"), str)
        and isinstance(held.get("call_site"), str)
        and _is_size(held.get("image_size"))
    )


def _is_as_large_as_it_says(path: str | os.PathLike[str]) -> bool:
    """Whether it is an archive as torch.save writes it: nothing in it is compressed or lies where another part does."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return False
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    return stored and sum(part.file_size for part in parts) <= os.path.getsize(path)


def _room_left(value: Any, room: int) -> int:
    """What the value leaves of so many bytes, were each part of it in a place of its own, as in a file of save_call.

    Less than nothing where it takes more: a file can name one tensor often, or expand a single number.
    """
    if isinstance(value, Tensor):
        usual = type(value) is Tensor and value.device.type == "cpu"
        return room - (value.numel() * value.element_size() if is_dense(value) else 0) if usual else -1
    if isinstance(value, str):
        return room - len(value)
    if isinstance(value, dict):
        value = (*value.keys(), *value.values())
    for item in value if isinstance(value, (list, tuple)) else ():
        room = _room_left(item, room - 1)
        if room < 0:
            break
    return room


def _is_size(image_size: Any) -> bool:
    if image_size is None:
        return True
    pair = isinstance(image_size, Sequence) and len(image_size) == 2
    return pair and all(isinstance(side, Integral) and int(side) >= 1 for side in image_size)


def _plain(name: str, value: Any) -> Any:
    """The value as torch.load(weights_only=True) takes it."""
    if isinstance(value, Tensor):
        plain = value.detach()
        if type(plain) is not Tensor:
            plain = plain.as_subclass(Tensor)
        copy = plain.to("cpu", copy=True)  # a view would bring all of its storage
        return copy.requires_grad_(value.requires_grad)
    if isinstance(value, (list, tuple)):
        items = [_plain(name, item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise OptionError(
        f"RA506: expected {name} of tensors, numbers, text, lists and tuples; got {type(value).__name__}. Pass what "
        "roi_align takes: torch.as_tensor(array)."
    )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{describe(value)} on {value.device}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return f"a {type(value).__name__} of {len(value)}: {'; '.join(map(_described, value[:8]))}" + (
            "; ..." if len(value) > 8 else ""
        )
    return repr(value)


def _shape_of(features: Tensor) -> dict[str, Any]:
    if features.is_nested:
        raise OptionError(
            "RA506: expected features of one shape where their values are left out; got a nested tensor. Keep them: "
            "features=True."
        )
    return {"shape": list(features.shape), "dtype": str(features.dtype).removeprefix("torch.")}


def _stand_in(shape: list[int], dtype: str) -> Tensor:
    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype) or math.prod(shape) > _MOST_CELLS:
        raise TypeError
    return torch.ones((), dtype=kind).expand(shape)


def _site() -> str:
    """The line that called, without folders that are no part of the project."""
    frame = notice.calling_frame(("roialign", "torch"))
    cell = notebook.cell(frame.f_code.co_filename)
    if cell:
        return f"{cell}, line {frame.f_lineno}"
    relative = os.path.relpath(frame.f_code.co_filename)
    name = os.path.basename(relative) if relative.startswith("..") else relative
    return f"{name}:{frame.f_lineno}"
