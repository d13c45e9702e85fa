"""What was written is what is read, by number, by image, by box, in batches and in torch's datasets."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from roialign.errors import NoRegionError, StoreError
from roialign.extraction.store.manifest import MapGrid
from roialign.extraction.store.reading import open as open_store
from roialign.extraction.store.rows import ErrorRow, RegionRows, RowSchema
from roialign.extraction.store.writing import writing

from .made import BOXES, MANIFEST, errors_of, image_id, larger, rows_of, store_in

pytest.importorskip("pyarrow", reason="a store is of Parquet files")
WIDE = replace(MANIFEST, schema=RowSchema((256, 7, 7), "float32", {"label": "string"}))  # 10 rows to a row group


@pytest.fixture(scope="module", params=[MANIFEST, WIDE], ids=["float16", "float32 in many row groups"])
def store(request, tmp_path_factory):
    return store_in(tmp_path_factory.mktemp("store"), request.param)


def written(regions) -> list[dict]:
    """The rows that were written, each a dict."""
    return [row for number in range(3) for row in as_dicts(rows_of(number, regions.manifest))]


def as_dicts(rows: RegionRows) -> list[dict]:
    return [
        {
            "image_id": rows.image_ids[index],
            "box_id": rows.box_ids[index],
            "box_index": int(rows.box_indices[index]),
            "box_xyxy": rows.boxes_xyxy[index].tolist(),
            "image_size_hw": tuple(rows.image_sizes_hw[index].tolist()),
            "level": rows.levels[index],
            "coverage": float(rows.coverage[index]),
            "padding_distance": float(rows.padding_distance[index]),
            "feature": rows.features[index].double().sum().item(),
            "columns": {name: values[index] for name, values in rows.columns.items()},
        }
        for index in range(len(rows))
    ]


def as_dict(region) -> dict:
    return {**vars(region), "box_xyxy": region.box_xyxy.tolist(), "feature": region.feature.double().sum().item()}


def equal(found: RegionRows, expected: RegionRows) -> bool:
    return as_dicts(found) == as_dicts(expected) and torch.equal(found.features, expected.features)


def test_a_store_says_what_it_is(store):
    assert len(store) == 3 * 10 * BOXES
    assert store.finished
    assert store.columns[:2] == ("image_id", "box_id")
    assert store.columns[-1] == "feature"
    assert store.grids["10"] == MapGrid((32.0, 32.0), (0.5, 0.5))
    assert store.manifest.backbone["name"] == "timm/resnet50"
    assert repr(store) == f"Regions({str(store.folder)!r}, 210 regions, 3 of 3 parts)"


def test_every_region_is_what_was_written(store):
    assert [as_dict(region) for region in store] == written(store)
    assert as_dict(store[-1]) == written(store)[-1]
    features = torch.stack([region.feature for region in store])
    assert features.dtype == store.manifest.schema.dtype
    assert torch.equal(features, torch.cat([rows_of(number, store.manifest).features for number in range(3)]))


def test_a_number_that_there_is_not(store):
    with pytest.raises(IndexError, match=r"RA715: .* one of 210 regions, counted from 0; got 210"):
        store[210]
    with pytest.raises(NoRegionError, match="got -211"):
        store[-211]


def test_regions_of_an_image(store):
    for number in (0, 9, 10, 29):
        part, place = divmod(number, 10)
        expected = as_dicts(rows_of(part, store.manifest))[place * BOXES : (place + 1) * BOXES]
        assert as_dicts(store.of_image(image_id(number))) == expected
        assert store.numbers_of(image_id(number)) == list(range(number * BOXES, (number + 1) * BOXES))


@pytest.mark.parametrize("name", ["", "nothing.jpg", image_id(30), image_id(3) + "x"])
def test_an_image_without_regions(store, name):
    rows = store.of_image(name)
    assert len(rows) == 0
    assert rows.features.shape == (0, *store.manifest.schema.feature_shape)
    assert rows.features.dtype == store.manifest.schema.dtype
    assert rows.boxes_xyxy.shape == (0, 4)


def test_one_box_of_an_image(store):
    region = store.row(image_id(12), "b3")
    assert as_dict(region) == written(store)[12 * BOXES + 3]
    with pytest.raises(KeyError, match=r"RA715: .*'b9'; boxes of it are b0, b1, b2, b3, b4, b5, b6\. errors") as raised:
        store.row(image_id(12), "b9")
    assert not str(raised.value).startswith("'"), "a KeyError shows its repr"
    with pytest.raises(NoRegionError, match="no box of it has a row"):
        store.row("nothing.jpg", "b0")


@pytest.mark.parametrize("size", [1, 32, 70, 1000])
def test_batches_are_all_rows_in_order(store, size):
    batches = list(store.batches(size))
    assert max(len(batch) for batch in batches) <= size
    assert [row for batch in batches for row in as_dicts(batch)] == written(store)


def test_features_can_be_written_to(store):
    for feature in (store[0].feature, next(store.batches()).features, store.as_dataset()[0]["feature"]):
        feature += 1
    assert as_dict(store[0]) == written(store)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_in_any_order(store, workers):
    dataset = store.as_dataset(["image_id", "box_id", "x2", "feature", "label"])
    assert len(dataset) == len(store)
    order = torch.randperm(len(store)).tolist()[:60]
    loader = DataLoader(dataset, batch_size=7, sampler=order, num_workers=workers, collate_fn=list)
    found = [item for batch in loader for item in batch]
    expected = written(store)
    for number, item in zip(order, found, strict=True):
        assert set(item) == {"image_id", "box_id", "x2", "feature", "label"}
        assert (item["image_id"], item["box_id"]) == (expected[number]["image_id"], expected[number]["box_id"])
        assert item["x2"].item() == expected[number]["box_xyxy"][2]
        assert item["label"] == expected[number]["columns"]["label"]
        assert item["feature"].shape == store.manifest.schema.feature_shape
        assert item["feature"].double().sum().item() == expected[number]["feature"]


def test_a_dataset_is_collated_to_the_stored_types(store):
    batch = next(iter(DataLoader(store.as_dataset(["feature", "coverage", "box_index", "image_id"]), batch_size=5)))
    assert batch["feature"].shape == (5, *store.manifest.schema.feature_shape)
    assert batch["feature"].dtype == store.manifest.schema.dtype
    assert (batch["coverage"].dtype, batch["box_index"].dtype) == (torch.float32, torch.int32)
    assert batch["image_id"] == [image_id(0)] * 5


def test_a_batch_reads_each_row_group_once(store, monkeypatch):
    dataset, read = store.as_dataset(["feature"]), []
    regions = type(store)
    plain = regions.read
    monkeypatch.setattr(
        regions, "read", lambda self, group, columns=None: read.append(group) or plain(self, group, columns)
    )
    dataset.__getitems__(torch.randperm(len(store)).tolist())
    assert len(read) == len(store.groups)


def test_the_same_number_twice_in_a_batch(store):
    first, second = store.as_dataset().__getitems__([100, 100])
    assert first["image_id"] == second["image_id"] == image_id(100 // BOXES)
    assert torch.equal(first["feature"], second["feature"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_has_every_row_once(store, workers):
    stream = store.as_stream(["image_id", "box_id", "feature"])
    found = [item for batch in DataLoader(stream, 8, num_workers=workers, collate_fn=list) for item in batch]
    names = [(item["image_id"], item["box_id"]) for item in found]
    expected = [(row["image_id"], row["box_id"]) for row in written(store)]
    assert sorted(names) == sorted(expected)
    if not workers:
        assert names == expected
    sums = {(row["image_id"], row["box_id"]): row["feature"] for row in written(store)}
    assert all(item["feature"].double().sum().item() == sums[name] for name, item in zip(names, found, strict=True))


def test_columns_that_there_are_not(store):
    for make in (store.as_dataset, store.as_stream):
        with pytest.raises(NoRegionError, match=r"RA715: .*image_id.*; got features, boxes"):
            make(["features", "label", "boxes"])


def test_it_goes_to_other_processes(store):
    copy = pickle.loads(pickle.dumps(store))
    assert as_dict(copy[100]) == as_dict(store[100])
    store[0]
    assert len(pickle.dumps(store)) < 10_000


def test_arrow_filters(store):
    import pyarrow.dataset as ds

    table = store.arrow.to_table(["box_id"], ds.field("image_id") == image_id(12))
    assert table.column("box_id").to_pylist() == [f"b{index}" for index in range(BOXES)]


def test_a_store_that_is_not_finished(tmp_path):
    store = store_in(tmp_path, parts=2)
    assert not store.finished
    assert len(store) == 2 * 10 * BOXES
    with writing(tmp_path, MANIFEST) as parts:  # while it goes on
        parts.write(2, [rows_of(2)])
        assert len(store.of_image(image_id(29))) == 0
        assert len(open_store(tmp_path)) == 3 * 10 * BOXES


def test_a_store_without_parts(tmp_path):
    store = store_in(tmp_path, parts=0)
    assert (len(store), store.finished, list(store), list(store.batches())) == (0, False, [], [])
    assert len(store.of_image("x")) == 0
    assert list(store.as_stream()) == []
    assert store.arrow.count_rows() == 0


def test_parts_without_rows(tmp_path):
    empty = rows_of(0)
    empty = replace(
        empty,
        **{name: getattr(empty, name)[:0] for name in vars(empty) if name != "columns"},
        columns={name: [] for name in empty.columns},
    )
    with writing(tmp_path, MANIFEST) as parts:
        for number in range(3):
            parts.write(number, [rows_of(1) if number == 1 else empty])
    store = open_store(tmp_path)
    assert store.finished
    assert [as_dict(region) for region in store] == as_dicts(rows_of(1))
    assert len(store.of_image(image_id(12))) == BOXES


def test_errors_are_of_the_parts_that_are_there(tmp_path):
    unmatched = [ErrorRow("gone.jpg", None, "RA702", "no such image"), ErrorRow("there.jpg", "7", "RA205", "NaN")]
    with writing(tmp_path, larger(40)) as parts:
        for number in range(4):
            parts.write(number, [rows_of(number), *errors_of(number)])
        parts.write_unmatched(unmatched)
        parts.path(3).unlink()  # as if it had been killed between the two files
    assert list(open_store(tmp_path).errors()) == [*errors_of(1), *unmatched]


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match=rf"RA714: .*{tmp_path}, which has no manifest.json"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="RA714"):
        open_store(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["cut", "empty", "garbled", "gone"])
def test_a_damaged_part_is_named(tmp_path, damage):
    store = store_in(tmp_path, WIDE)
    path = tmp_path / "parts" / "00000001.parquet"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-100], "empty": b"", "garbled": b"\0" * len(data)}[damage])
    with pytest.raises(StoreError, match=rf"RA714: expected {path} as it was written.*Delete it"):
        store[100]
    with pytest.raises(StoreError, match=rf"RA714: expected {path}"):
        list(store.batches())


def test_a_part_of_another_extraction_is_named(tmp_path):
    store_in(tmp_path / "one", MANIFEST)
    other = store_in(tmp_path / "other", replace(MANIFEST, boxes_sha256="0" * 64))
    path = tmp_path / "other" / "parts" / "00000001.parquet"
    path.write_bytes((tmp_path / "one" / "parts" / "00000001.parquet").read_bytes())
    with pytest.raises(StoreError, match=rf"RA714: expected {path} to be of the extraction .* got one of"):
        len(other)
