"""A store is plain Parquet: other libraries read all of it in a line."""

from dataclasses import replace

import pytest
import torch

from .made import BOXES, MANIFEST, SCHEMA, image_id, rows_of, store_in

np = pytest.importorskip("numpy")
pytest.importorskip("pyarrow", reason="a store is of Parquet files")


def manifest_of(dtype):
    return replace(MANIFEST, schema=replace(SCHEMA, feature_dtype=dtype))


@pytest.fixture(scope="module", params=["float16", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def folder(dtype, tmp_path_factory):
    folder = tmp_path_factory.mktemp(dtype)
    store_in(folder, manifest_of(dtype))
    (folder / "parts" / f".x.{'0' * 16}.unfinished").write_bytes(b"what a killed run left")
    return folder


def expected(dtype):
    """Ids of images, labels and flat features of all rows."""
    parts = [rows_of(number, manifest_of(dtype)) for number in range(3)]
    features = torch.cat([part.features for part in parts]).flatten(1).numpy()
    names = [image_id(row // BOXES) for row in range(len(features))]
    return names, [label for part in parts for label in part.columns["label"]], features


def check(names, labels, features, dtype) -> None:
    wanted_names, wanted_labels, wanted = expected(dtype)
    assert list(names) == wanted_names
    assert [label if isinstance(label, str) else None for label in labels] == wanted_labels
    found = np.asarray(features)
    assert found.dtype == dtype
    assert np.array_equal(found, wanted)


def test_pyarrow(folder, dtype):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "parts")
    features = np.stack(table.column("feature").to_numpy())
    check(table.column("image_id").to_pylist(), table.column("label").to_pylist(), features, dtype)
    assert b'"feature_shape": [8, 3, 3]' in table.schema.metadata[b"roialign"]


def test_pandas(folder, dtype):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pd.read_parquet(folder / "parts")
    check(frame["image_id"], frame["label"], np.stack(frame["feature"]), dtype)


def test_polars(folder, dtype):
    pl = pytest.importorskip("polars", reason="polars is not installed")
    frame = pl.read_parquet(folder / "parts" / "*.parquet")
    check(frame["image_id"], frame["label"], frame["feature"].to_numpy(), dtype)


def test_duckdb(folder, dtype):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    found = duckdb.sql(f"select image_id, label, feature from '{folder}/parts/*.parquet'").fetchnumpy()
    features = np.stack([np.asarray(one, dtype="float32") for one in found["feature"]])  # it has no float16
    check(found["image_id"], found["label"].tolist(), features.astype(dtype), dtype)


def test_datasets(folder, dtype, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    data = datasets.load_dataset("parquet", data_dir=str(folder / "parts"), split="train", cache_dir=str(tmp_path))
    features = data.with_format("numpy")[:]["feature"]  # which are float32 in its own arrays
    check(data["image_id"], data["label"], features.astype(dtype), dtype)


def test_lance(folder, dtype, tmp_path):
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    dataset = pytest.importorskip("pyarrow.dataset")
    lance.write_dataset(dataset.dataset(folder / "parts"), tmp_path / "regions.lance")
    rows = lance.dataset(tmp_path / "regions.lance").to_table()
    features = np.stack(rows.column("feature").to_numpy())
    check(rows.column("image_id").to_pylist(), rows.column("label").to_pylist(), features, dtype)


@pytest.mark.rare
def test_ray_data(folder, dtype):
    if dtype == "float32":
        pytest.skip("Ray takes a minute to start: float16 is the one that could be in its way")
    ray = pytest.importorskip("ray", reason="ray is not installed")
    data = pytest.importorskip("ray.data", reason="ray.data is not installed").read_parquet(str(folder / "parts"))
    try:
        rows = sorted(data.take_all(), key=lambda row: (row["image_id"], row["box_id"]))
    finally:
        ray.shutdown()
    features = np.array([row["feature"] for row in rows], dtype)  # of lists
    check([row["image_id"] for row in rows], [row["label"] for row in rows], features, dtype)
