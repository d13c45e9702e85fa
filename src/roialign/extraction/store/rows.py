"""The rows of a store, a column at a time: as plain values, and as Arrow's tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from roialign.errors import OptionError, StoreError
from roialign.extraction.items import ROW_COLUMNS, ColumnType
from roialign.extraction.packages import needed

METADATA_KEY = b"roialign"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_COORDINATES = ("x1", "y1", "x2", "y2")
_SIDES = ("image_height", "image_width")
_STRINGS = ("image_id", "box_id", "level")
_GROUP_BYTES = 1 << 19  # of features in a row group, which is what is read for one row


@dataclass(frozen=True, eq=False)
class RegionRows:
    """K regions, a column at a time.

    Convention: boxes are x1, y1, x2, y2 in pixels of the upright image, sizes are (height, width).

    Args:
        image_ids, box_ids: K of them; together they name a row.
        box_indices: integers [K], the box's place among those of its image, from 0.
        boxes_xyxy: [K, 4].
        image_sizes_hw: integers [K, 2].
        levels: K names of maps, from which each box was pooled.
        coverage: [K], the share of each box's samples that are on its map.
        padding_distance: [K], as of `roialign.regions.Pooled`.
        features: [K, ...].
        columns: what was carried through from the annotations, by name: K values each, None where there is none.
    """

    image_ids: Sequence[str]
    box_ids: Sequence[str]
    box_indices: Tensor
    boxes_xyxy: Tensor
    image_sizes_hw: Tensor
    levels: Sequence[str]
    coverage: Tensor
    padding_distance: Tensor
    features: Tensor
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_id(self) -> str:
        """Of the first region; rows that were made at once are of one image."""
        return self.image_ids[0]


@dataclass(frozen=True)
class ErrorRow:
    """Why a box, or all of an image where `box_id` is None, has no row.

    `code` is an RA code, or the kind of the error that was raised.
    """

    image_id: str
    box_id: str | None
    code: str
    reason: str


Made = RegionRows | ErrorRow
"""What comes of boxes: some rows, or why one has none."""


@dataclass(frozen=True)
class RowSchema:
    """What the rows of a store hold.

    Args:
        feature_shape: of one region's feature, such as (256, 7, 7), or (256,) of a mean over the bins.
        feature_dtype: "float16" or "float32".
        columns: the types of what is carried through from the annotations, by name, in the order of the columns.

    Raises:
        OptionError: RA506, for an unsupported dtype or column type, an empty shape, or a column with the name of one
            that every row has.

    Example:
        >>> RowSchema((256, 7, 7), "float16", {"label": "string"}).rows_per_group
        20
    """

    feature_shape: tuple[int, ...]
    feature_dtype: str
    columns: Mapping[str, ColumnType] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.feature_dtype not in _DTYPES:
            raise OptionError(
                f"RA506: expected the type of features, one of {', '.join(_DTYPES)}; got {self.feature_dtype!r}. "
                "float16 takes half the room."
            )
        if not self.feature_shape or min(self.feature_shape) < 1:
            raise OptionError(
                f"RA506: expected the shape of one feature, each side at least 1; got {self.feature_shape}. Of "
                "features [K, C, H, W] it is (C, H, W)."
            )
        for name, kind in self.columns.items():
            if name in ROW_COLUMNS or kind not in get_args(ColumnType):
                raise OptionError(
                    f"RA506: expected a column of one of the types {', '.join(get_args(ColumnType))}, with a name that "
                    f"rows do not have of themselves; got {name!r} of type {kind!r}. Rename it."
                )

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.feature_dtype]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in their order."""
        return (*ROW_COLUMNS[:-1], *self.columns, ROW_COLUMNS[-1])

    @property
    def feature_bytes(self) -> int:
        """What one feature takes."""
        return self.dtype.itemsize * math.prod(self.feature_shape)

    @property
    def rows_per_group(self) -> int:
        """How many rows make a row group: those whose features take half a mebibyte."""
        return max(1, _GROUP_BYTES // self.feature_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As numbers and strings, for JSON."""
        return {
            "feature_shape": list(self.feature_shape),
            "feature_dtype": self.feature_dtype,
            "columns": [[name, kind] for name, kind in self.columns.items()],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RowSchema:
        """What `to_dict` wrote."""
        return cls(tuple(record["feature_shape"]), record["feature_dtype"], dict(record["columns"]))

    def to_arrow(self, fingerprint: str) -> Any:
        """The schema of a part's file; its metadata has the feature's shape and the extraction's fingerprint."""
        pa = needed("pyarrow")
        number = pa.field("element", pa.type_for_alias(self.feature_dtype), nullable=False)
        own = {
            **dict.fromkeys(ROW_COLUMNS, pa.float32()),
            **dict.fromkeys(_STRINGS, pa.string()),
            **dict.fromkeys(("box_index", *_SIDES), pa.int32()),
            "feature": pa.list_(number, math.prod(self.feature_shape)),
        }
        fields = [
            pa.field(name, own[name], nullable=False)
            if name in own
            else pa.field(name, pa.type_for_alias(self.columns[name]))
            for name in self.names
        ]
        about = {"feature_shape": self.feature_shape, "feature_dtype": self.feature_dtype, "fingerprint": fingerprint}
        return pa.schema(fields, metadata={METADATA_KEY: json.dumps(about)})

    def to_table(self, rows: RegionRows, fingerprint: str) -> Any:
        """The rows as an Arrow table.

        Raises:
            StoreError: RA714, if they are not of this schema.
        """
        pa = needed("pyarrow")
        self._check(rows)
        numbers: dict[str, Tensor] = {
            "box_index": rows.box_indices.int(),
            **dict(zip(_COORDINATES, rows.boxes_xyxy.float().unbind(1), strict=True)),
            **dict(zip(_SIDES, rows.image_sizes_hw.int().unbind(1), strict=True)),
            "coverage": rows.coverage.float(),
            "padding_distance": rows.padding_distance.float(),
            "feature": rows.features.reshape(-1),
        }
        values: dict[str, Any] = {
            **{name: one.detach().cpu().contiguous().numpy() for name, one in numbers.items()},
            **dict(zip(_STRINGS, (rows.image_ids, rows.box_ids, rows.levels), strict=True)),
            **rows.columns,
        }
        schema = self.to_arrow(fingerprint)
        arrays = [pa.array(values[one.name], one.type) for one in schema if one.name != "feature"]
        flat = pa.array(values["feature"])
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("feature").type))
        return pa.Table.from_arrays(arrays, schema=schema)

    def to_values(self, table: Any) -> dict[str, Tensor | list[Any]]:
        """The columns of an Arrow table: numbers of the rows as tensors, text and what was carried through as lists."""
        values: dict[str, Tensor | list[Any]] = {}
        for name in table.column_names:
            column = table.column(name)
            if name in self.columns or name in _STRINGS:
                values[name] = column.to_pylist()
            elif name == "feature":
                pieces = [torch.from_numpy(piece.flatten().to_numpy().copy()) for piece in column.chunks]
                flat = torch.cat(pieces) if pieces else torch.empty(0, dtype=self.dtype)
                values[name] = flat.reshape(table.num_rows, *self.feature_shape)
            else:
                values[name] = torch.from_numpy(column.to_numpy().copy())
        return values

    def to_rows(self, table: Any) -> RegionRows:
        """The rows of an Arrow table that has all columns."""
        values: dict[str, Any] = self.to_values(table)
        return RegionRows(
            values["image_id"],
            values["box_id"],
            values["box_index"],
            torch.stack([values[name] for name in _COORDINATES], dim=1),
            torch.stack([values[name] for name in _SIDES], dim=1),
            values["level"],
            values["coverage"],
            values["padding_distance"],
            values["feature"],
            {name: values[name] for name in self.columns},
        )

    def _check(self, rows: RegionRows) -> None:
        count = len(rows)
        tensors = {
            "box_indices": (rows.box_indices, (count,)),
            "boxes_xyxy": (rows.boxes_xyxy, (count, 4)),
            "image_sizes_hw": (rows.image_sizes_hw, (count, 2)),
            "coverage": (rows.coverage, (count,)),
            "padding_distance": (rows.padding_distance, (count,)),
            "features": (rows.features, (count, *self.feature_shape)),
        }
        lists = {"box_ids": rows.box_ids, "levels": rows.levels, **rows.columns}
        wrong = [f"{name} {list(one.shape)}" for name, (one, wanted) in tensors.items() if tuple(one.shape) != wanted]
        wrong += [f"{len(values)} {name}" for name, values in lists.items() if len(values) != count]
        if rows.features.dtype != self.dtype:
            wrong.append(f"features of {rows.features.dtype}")
        if set(rows.columns) != set(self.columns):
            wrong.append(f"the columns {list(rows.columns)}")
        if wrong:
            raise StoreError(
                f"RA714: expected {count} rows with boxes [{count}, 4], {self.feature_dtype} features "
                f"{[count, *self.feature_shape]} and the columns {list(self.columns)}; got {', '.join(wrong)}. All "
                "parts of a store have one schema."
            )


def errors_to_table(errors: Sequence[ErrorRow]) -> Any:
    """Error rows as an Arrow table."""
    pa = needed("pyarrow")
    names = ("image_id", "box_id", "code", "reason")
    schema = pa.schema([pa.field(name, pa.string(), nullable=name == "box_id") for name in names])
    return pa.table({name: [getattr(one, name) for one in errors] for name in names}, schema=schema)
