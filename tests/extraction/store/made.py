"""Stores to test with: of two columns, some images a part, with features of a fixed seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from roialign.extraction.store.manifest import Manifest, MapGrid
from roialign.extraction.store.reading import Regions
from roialign.extraction.store.reading import open as open_store
from roialign.extraction.store.rows import ErrorRow, RegionRows, RowSchema
from roialign.extraction.store.writing import writing

SCHEMA = RowSchema((8, 3, 3), "float16", {"label": "string", "score": "float64", "crowd": "bool", "area": "int64"})
MANIFEST = Manifest(
    schema=SCHEMA,
    backbone={"name": "timm/resnet50", "weights_sha256": "ab" * 32},
    grids={"2": MapGrid((16.0, 16.0), (8.0, 8.0)), "10": MapGrid((32.0, 32.0), (0.5, 0.5))},
    transform={"fit": {"kind": "letterbox", "size_hw": [640, 640]}, "mean": [0.5, 0.5, 0.5], "std": None},
    options={"output_size": [3, 3], "sampling_ratio": -1},
    images_sha256="cd" * 32,
    boxes_sha256="ef" * 32,
    image_count=30,
    images_per_part=10,
    command="roialign extract photos",
    versions={"torch": "2.14.1"},
)
BOXES = 7  # of each image


def image_id(number: int) -> str:
    return f"街/{number:05d}.jpg"


def rows_of(number: int, manifest: Manifest = MANIFEST) -> RegionRows:
    """The rows of a part: the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    schema, images = manifest.schema, manifest.images_per_part
    count = images * BOXES
    values: dict[str, list[Any]] = {
        "label": [("tree", "car", None)[row % 3] for row in range(count)],
        "score": [row / count for row in range(count)],
        "crowd": [row % 2 == 0 for row in range(count)],
        "area": [row * 10 if row % 5 else None for row in range(count)],
    }
    return RegionRows(
        image_ids=[image_id(number * images + row // BOXES) for row in range(count)],
        box_ids=[f"b{row % BOXES}" for row in range(count)],
        box_indices=torch.arange(count) % BOXES,
        boxes_xyxy=torch.rand(count, 4, generator=generator) * 500,
        image_sizes_hw=torch.tensor([[480, 640]]).expand(count, 2),
        levels=["2" if row % 2 else "10" for row in range(count)],
        coverage=torch.rand(count, generator=generator),
        padding_distance=torch.full((count,), torch.inf),
        features=torch.randn(count, *schema.feature_shape, generator=generator).to(schema.dtype),
        columns={name: values[name] for name in schema.columns},
    )


def part_of(rows: RegionRows, start: int, stop: int) -> RegionRows:
    """The rows from `start` on and before `stop`."""
    own = {name: getattr(rows, name)[start:stop] for name in vars(rows) if name != "columns"}
    return RegionRows(**own, columns={name: values[start:stop] for name, values in rows.columns.items()})


def errors_of(number: int) -> list[ErrorRow]:
    return [ErrorRow(f"bad/{number}.jpg", None, "OSError", "cannot identify image file")] if number % 2 else []


def store_in(folder: Path, manifest: Manifest = MANIFEST, parts: int | None = None) -> Regions:
    """A store with its first `parts` parts, or all."""
    with writing(folder, manifest) as store:
        for number in store.missing()[:parts]:
            store.write(number, [rows_of(number, manifest), *errors_of(number)])
    return open_store(folder)


def larger(images: int, **schema: Any) -> Manifest:
    return replace(MANIFEST, image_count=images, schema=replace(SCHEMA, **schema))
