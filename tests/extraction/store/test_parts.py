"""Parts are whole or not there, and the same bytes for the same rows."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roialign import RoIError
from roialign.errors import OptionError, StoreError
from roialign.extraction.store import files
from roialign.extraction.store import parts as store_parts
from roialign.extraction.store.rows import ErrorRow, RowSchema
from roialign.extraction.store.writing import writing

from .made import MANIFEST, SCHEMA, errors_of, part_of, rows_of, store_in
from .writer import KILLED

parquet = pytest.importorskip("pyarrow.parquet", reason="a store is of Parquet files")
KILLS = 20


def content(folder: Path) -> dict[str, bytes]:
    """All files but the lock, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_store_has_the_same_bytes_however_its_parts_come(tmp_path):
    store_in(tmp_path / "at once")
    for _ in range(3):
        store_in(tmp_path / "one by one", parts=1)
    with writing(tmp_path / "backwards", MANIFEST) as parts:
        for number in (2, 1, 0, 1):
            parts.write(number, [rows_of(number), *errors_of(number)])
    expected = content(tmp_path / "at once")
    assert len(expected) == 7
    assert content(tmp_path / "one by one") == expected
    assert content(tmp_path / "backwards") == expected


def test_it_does_not_matter_how_tensors_lie_in_memory(tmp_path):
    rows = rows_of(0)
    strided = replace(
        rows,
        features=rows.features.to(memory_format=torch.channels_last).requires_grad_(),
        boxes_xyxy=rows.boxes_xyxy.T.contiguous().T,
        box_indices=rows.box_indices.short(),
    )
    written = []
    for name, some in (("plain", rows), ("strided", strided)):
        with writing(tmp_path / name, MANIFEST) as parts:
            parts.write(0, [some])
            written.append(parts.path(0).read_bytes())
    assert written[0] == written[1]


def test_killed_at_any_moment_it_leaves_whole_parts_and_goes_on_to_the_same_bytes(tmp_path):
    store_in(tmp_path / "undisturbed", KILLED)
    expected = content(tmp_path / "undisturbed")
    folder, grown, halves = tmp_path / "killed", [], 0
    command = [sys.executable, "-m", "tests.extraction.store.writer", str(folder)]
    rng = random.Random(0)
    with subprocess.Popen(command, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for round_ in range(KILLS + 1):
            writer.stdin.write("go\n")
            pid = int(writer.stdout.readline())
            if round_ < KILLS:
                for _ in range(rng.randrange(4)):
                    writer.stdout.readline()
                time.sleep(rng.uniform(0, 0.01))
                os.kill(pid, signal.SIGKILL)
            while writer.stdout.readline() != "done\n":
                pass
            there = content(folder)
            visible = {name: data for name, data in there.items() if not Path(name).name.startswith(".")}
            halves += len(there) - len(visible)
            assert visible == {name: expected[name] for name in visible}
            rows = [name for name in visible if name.startswith("parts/")]
            assert {name.replace("parts/", "errors/") for name in rows} <= set(visible)
            grown.append(len(rows))
        writer.stdin.close()
    assert there == expected
    assert grown == sorted(grown)
    assert len(set(grown)) > KILLS / 4, "no kill came between parts"
    assert halves, "no kill hit a file that was being written"


def test_what_a_dead_run_left_is_removed_when_the_next_one_starts(tmp_path):
    store_in(tmp_path, parts=1)
    left = [tmp_path / sub / f".x.{'0' * 16}.unfinished" for sub in ("", "parts", "errors")]
    for path in left:
        path.write_bytes(b"PAR1")
    assert not any(path.name.endswith(".parquet") for path in left)
    store_in(tmp_path)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("what", ["write", "fsync", "rename"])
def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, monkeypatch, what):
    store_in(tmp_path, parts=2)
    before = content(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with writing(tmp_path, MANIFEST) as parts, monkeypatch.context() as patch:
        if what == "write":
            patch.setattr(parquet.ParquetWriter, "write_table", full)
        else:
            patch.setattr(files.os, {"fsync": "fsync", "rename": "replace"}[what], full)
        with pytest.raises(
            StoreError, match=r"RA713: .*No space left.*2 of 3 parts are written.*same command"
        ) as raised:
            parts.write(2, [rows_of(2), *errors_of(2)])
    assert str(tmp_path) in str(raised.value)
    assert raised.value.__cause__.errno == errno.ENOSPC
    assert content(tmp_path) == before
    assert store_in(tmp_path).finished


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can make a small disk")
    try:
        with pytest.raises(StoreError, match=r"RA713: .*[1-9] of 80 parts are written"):
            store_in(disk / "store", KILLED)
        expected = {f"parts/{number:08d}.parquet" for number in range(len(list((disk / "store/parts").iterdir())))}
        there = content(disk / "store")
        assert {name for name in there if name.startswith("parts/")} == expected
        assert not [name for name in there if name.endswith("unfinished")]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_other_errors_of_the_disk_come_through(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with writing(tmp_path, MANIFEST) as parts, monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output error") as raised:
            parts.write(0, [rows_of(0)])
    assert not isinstance(raised.value, RoIError)
    assert list(content(tmp_path)) == ["manifest.json"]


WRONG = {
    "features": {"features": torch.zeros(70, 8, 3, 2, dtype=torch.float16)},
    "float32": {"features": torch.zeros(70, 8, 3, 3)},
    "boxes_xyxy": {"boxes_xyxy": torch.zeros(70, 5)},
    "coverage": {"coverage": torch.zeros(69)},
    "69 levels": {"levels": ["2"] * 69},
    "the columns": {"columns": {"label": ["x"] * 70}},
}


@pytest.mark.parametrize("said", WRONG)
def test_rows_of_another_schema_are_refused(tmp_path, said):
    with (
        writing(tmp_path, MANIFEST) as parts,
        pytest.raises(StoreError, match=rf"RA714: expected 70 rows .* got .*{said}"),
    ):
        parts.write(0, [replace(rows_of(0), **WRONG[said])])
    assert list(content(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize(
    ("shape", "dtype", "columns"),
    [
        ((8,), "bfloat16", {}),
        ((), "float16", {}),
        ((8, 0), "float16", {}),
        ((8,), "float16", {"x1": "float64"}),
        ((8,), "float16", {"label": "str"}),
    ],
)
def test_a_schema_that_cannot_be_stored(shape, dtype, columns):
    with pytest.raises(OptionError, match="RA506"):
        RowSchema(shape, dtype, columns)


def test_a_part_without_rows_is_there(tmp_path):
    none = part_of(rows_of(0), 0, 0)
    with writing(tmp_path, MANIFEST) as parts:
        parts.write(1, [none, ErrorRow("a.jpg", "7", "RA205", "NaN")])
        assert (parts.present(), parts.missing()) == ([1], [0, 2])


def test_row_groups_are_of_half_a_mebibyte_of_features(tmp_path):
    wide = replace(MANIFEST, schema=RowSchema((256, 7, 7), "float32"))
    with writing(tmp_path, wide) as parts:
        parts.write(0, [rows_of(0, wide)])
        metadata = parquet.read_metadata(parts.path(0))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [10] * 7


@pytest.mark.parametrize("count", [0, 1, 10, 30, 35, 70])
@pytest.mark.parametrize("at_a_time", [1, 7, 10, 70])
def test_a_file_is_the_same_however_many_rows_come_at_a_time(tmp_path, count, at_a_time):
    wide = replace(MANIFEST, schema=RowSchema((256, 7, 7), "float32", SCHEMA.columns))  # 10 rows in a group
    rows = part_of(rows_of(0, wide), 0, count)
    at_once = tmp_path / "at once.parquet"
    table = wide.schema.to_table(rows, wide.fingerprint)
    text = [field.name for field in table.schema if field.type == "string"]
    options = {"version": "2.6", "compression": "zstd", "use_dictionary": text, "write_statistics": text}
    parquet.write_table(table, at_once, row_group_size=10, **options)
    with writing(tmp_path / "store", wide) as parts:
        parts.write(0, (part_of(rows, start, start + at_a_time) for start in range(0, count, at_a_time)))
        assert parts.path(0).read_bytes() == at_once.read_bytes()


def test_rows_and_errors_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(store_parts, "_ERRORS_PER_GROUP", 5)
    wide = replace(MANIFEST, schema=RowSchema((256, 7, 7), "float32", SCHEMA.columns))
    sizes = []

    def made(folder):
        for row in range(70):
            yield part_of(rows_of(0, wide), row, row + 1)
            yield ErrorRow("a.jpg", str(row), "RA205", "NaN")
            sizes.append([path.stat().st_size for path in sorted(folder.rglob(".*.unfinished"))])
            assert not list(folder.glob("*/0*.parquet"))

    with writing(tmp_path, wide) as parts:
        parts.write(0, made(tmp_path))
        (errors,) = parts.error_paths([0])
    group = 10 * 256 * 7 * 7 * 4
    assert [sizes[row][1] >= row // 10 * group * 0.8 for row in range(0, 70, 10)] == [True] * 7
    assert parquet.read_table(errors).column("box_id").to_pylist() == [str(row) for row in range(70)]
    assert parquet.read_metadata(errors).num_row_groups == 14
