"""What a store was made from: of which backbone, how, from which images and boxes."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roialign.errors import StoreError
from roialign.extraction.store import files
from roialign.extraction.store.rows import RowSchema

_NAME = "manifest.json"
_FORMAT = "roialign regions 1"
_MOST_SHOWN = 80  # signs of a value in a message


@dataclass(frozen=True)
class MapGrid:
    """Where the cells of a map lie, at images of any size: (y, x) in pixels of what enters the backbone."""

    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float]


@dataclass(frozen=True)
class Manifest:
    """What decides the rows of a store, and who wrote them.

    Mappings hold what JSON does: text, finite numbers, truth values, None, and lists and mappings of them.

    Args:
        schema: of the rows.
        backbone: its name, and `weights_sha256` of it.
        grids: of the maps that are pooled from, by name.
        transform: what is done to images: fit, mean, std.
        options: all others that decide the rows: output size, sampling ratio, levels, batching.
        images_sha256: of the list of images.
        boxes_sha256: of the annotations.
        image_count: of the collection.
        images_per_part: how many consecutive images make a part.
        command: what started the extraction; it decides nothing.
        versions: of packages, by name. They are kept to be read and decide nothing: another version may change last
            bits, but not what a row is.
    """

    schema: RowSchema
    backbone: Mapping[str, Any]
    grids: Mapping[str, MapGrid]
    transform: Mapping[str, Any]
    options: Mapping[str, Any]
    images_sha256: str
    boxes_sha256: str
    image_count: int
    images_per_part: int = 256
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def part_count(self) -> int:
        return math.ceil(self.image_count / self.images_per_part)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that decides the rows, as JSON with sorted keys and no spaces."""
        return hashlib.sha256(_json(self.deciding(), sort_keys=True).encode()).hexdigest()

    def deciding(self) -> dict[str, Any]:
        """All that decides the rows, as JSON holds it."""
        deciding = {
            "rows": self.schema.to_dict(),
            "backbone": self.backbone,
            "grids": {
                name: {"stride_yx": grid.stride_yx, "offset_yx": grid.offset_yx} for name, grid in self.grids.items()
            },
            "transform": self.transform,
            "options": self.options,
            "images": {"sha256": self.images_sha256, "count": self.image_count, "per_part": self.images_per_part},
            "boxes": {"sha256": self.boxes_sha256},
        }
        plain: dict[str, Any] = json.loads(_json(deciding))
        return plain

    def write(self, folder: Path) -> None:
        """Write it to `folder`, wholly or not at all.

        Raises:
            StoreError: RA713, if the disk is full.
        """
        record = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            **self.deciding(),
            "command": self.command,
            "versions": dict(self.versions),
        }
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        with files.room_in(folder, lambda: "No part is written yet."), files.replacing(folder / _NAME) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a folder; None if there is none.

        Raises:
            StoreError: RA714, if it cannot be read, or is of another format.
        """
        path = folder / _NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise StoreError(
                    f"RA714: expected {path} of the format {_FORMAT!r}; got {record['format']!r}. Open it with the "
                    "version of roialign that wrote it."
                )
            found = cls(
                schema=RowSchema.from_dict(record["rows"]),
                backbone=record["backbone"],
                grids={
                    name: MapGrid(tuple(grid["stride_yx"]), tuple(grid["offset_yx"]))
                    for name, grid in record["grids"].items()
                },
                transform=record["transform"],
                options=record["options"],
                images_sha256=record["images"]["sha256"],
                boxes_sha256=record["boxes"]["sha256"],
                image_count=record["images"]["count"],
                images_per_part=record["images"]["per_part"],
                command=record["command"],
                versions=record["versions"],
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"RA714: expected {path} as an extraction writes it; got {type(error).__name__}: {error}. If it was "
                "edited, put it back; else extract to another folder."
            ) from error
        if found.fingerprint != record.get("fingerprint"):
            raise StoreError(
                f"RA714: expected {path} with the fingerprint of its content, {found.fingerprint[:12]}; got "
                f"{str(record.get('fingerprint'))[:12]}. It was edited: put it back, or extract to another folder."
            )
        return found


def check(there: Manifest, wanted: Manifest, folder: Path) -> None:
    """Raise unless what is in `folder` and what is wanted have the same rows.

    Raises:
        StoreError: RA711, with each entry that differs, as it is there and as it is wanted.
    """
    old, new = (dict(_entries(one.deciding())) for one in (there, wanted))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        differences = "; ".join(f"{name} is {_shown(old, name)} there, {_shown(new, name)} here" for name in names)
        raise StoreError(
            f"RA711: expected {folder} to be empty or of this extraction; got another one: {differences}. Choose "
            "another folder, or delete this one to begin anew."
        )


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 of a model's state: names, types, shapes and values of its parameters and buffers.

    It depends neither on the device, nor on the memory format, nor on the order in which the modules were made.

    Example:
        >>> model = nn.Conv2d(3, 8, 3)
        >>> weights_sha256(model) == weights_sha256(model.to(memory_format=torch.channels_last))
        True
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:  # the extra state of a module, which is of any type
            digest.update(f"{name}\n".encode() + pickle.dumps(value))
    return digest.hexdigest()


def _json(record: Mapping[str, Any], sort_keys: bool = False) -> str:
    return json.dumps(record, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a manifest cannot hold a {type(value).__name__}")


def _entries(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The values of nested mappings, as JSON, by dotted names."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def _shown(entries: Mapping[str, str], name: str) -> str:
    text = entries.get(name, "not")
    if name.endswith("sha256"):
        return text.strip('"')[:12]
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
