"""The index of a large file: used again, replaced, read by threads and processes, and never half there."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from roialign.extraction.boxes import OpenBoxes, coco, index

from .scenes import IMAGES, SCENES, opened, refs, write_coco, write_csv


def counts(source: OpenBoxes) -> list[int]:
    return [len(source.of(image) or ()) for image in IMAGES]


def test_an_index_of_the_same_file_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path)
    first = opened(path, tmp_path)
    monkeypatch.setattr(coco, "JsonMembers", None)
    again = opened(path, tmp_path)
    assert again == first
    assert counts(again) == [3, 1, 0]
    with pytest.raises(TypeError):
        opened(path, tmp_path, with_masks=True)


def test_an_index_of_another_file_is_replaced_while_it_is_open(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    first = opened(path, tmp_path)
    assert counts(first) == [3, 1, 0]
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 2'))
    second = opened(path, tmp_path)
    assert counts(second) == [0, 4, 0]
    third = opened(write_csv(tmp_path), tmp_path)
    assert counts(third) == [3, 1, 0]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["boxes.csv", "boxes.json", "index.sqlite"]


@pytest.mark.parametrize("content", [b"", b"no index", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_index_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.sqlite").write_bytes(content)
    assert counts(opened(write_coco(tmp_path), tmp_path)) == [3, 1, 0]


def test_threads_read_at_once(tmp_path: Path) -> None:
    source = opened(write_coco(tmp_path), tmp_path)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: counts(source), range(40))) == [[3, 1, 0]] * 40


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_at_once(tmp_path: Path, method: str) -> None:
    source = opened(write_coco(tmp_path), tmp_path)
    assert counts(source) == [3, 1, 0]  # with a connection of this process
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as processes:
        assert list(processes.map(counts, [source] * 4)) == [[3, 1, 0]] * 4


def test_an_interrupted_process_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_coco(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(path, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["boxes.json"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite.12345.unfinished").write_bytes(b"half")
    opened(write_coco(tmp_path), tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["boxes.json", "index.sqlite"]


def test_rows_are_found_by_the_image_and_not_by_looking_through_all(tmp_path: Path) -> None:
    opened(write_coco(tmp_path), tmp_path)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    for table, column in (("boxes", "image"), ("images", "name"), ("images", "key"), ("faults", "image")):
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {column} = 1").fetchone()
        assert "USING INDEX" in plan[-1]


def test_boxes_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_AT_ONCE", 2)
    source = opened(write_coco(tmp_path), tmp_path)
    found = source.of(refs(SCENES[0].name)[0])
    assert found is not None
    assert found.box_ids == ("0", "1", "2")
