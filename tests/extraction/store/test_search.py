"""Nearest neighbours against brute force, and the index that is kept."""

import errno
import os
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from roialign.errors import NoRegionError, OptionError, StoreError
from roialign.extraction.store import search
from roialign.extraction.store.reading import open as open_store
from roialign.extraction.store.search import nearest
from roialign.extraction.store.writing import writing

from .made import BOXES, MANIFEST, image_id, rows_of, store_in

pytest.importorskip("pyarrow", reason="a store is of Parquet files")


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return store_in(tmp_path_factory.mktemp("exact"))


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="the index is usearch's")
    monkeypatch.setattr(search, "MOST_EXACT", 100)
    return store_in(tmp_path)


def features() -> Tensor:
    return torch.cat([rows_of(number).features for number in range(3)]).flatten(1).double()


def by_brute_force(query: Tensor, k: int, left_out: set[int]) -> list[tuple[int, float]]:
    rows = features()
    cosines = torch.nn.functional.cosine_similarity(rows, query.double().flatten()[None]).tolist()
    order = sorted((number for number in range(len(rows)) if number not in left_out), key=lambda one: -cosines[one])
    return [(number, cosines[number]) for number in order[:k]]


def name_of(number: int) -> tuple[str, str]:
    return image_id(number // BOXES), f"b{number % BOXES}"


def recall(found, query: Tensor, expected: list[tuple[int, float]]) -> float:
    """The share of the true neighbours that were found; what was found has its true cosine and is in order."""
    cosines = {name_of(number): cosine for number, cosine in by_brute_force(query, 210, set())}
    similarities = [one.similarity for one in found]
    names = [(one.region.image_id, one.region.box_id) for one in found]
    assert similarities == pytest.approx([cosines[name] for name in names], abs=1e-5)
    assert similarities == sorted(similarities, reverse=True)
    assert len(found) == len(expected)
    return len(set(names) & {name_of(number) for number, _ in expected}) / len(expected)


LEAST, LEAST_OF_ONE = {"exact": 1.0, "indexed": 0.9}, 0.5
"""Of the recall over some queries, and of an index for one: on noise, which has no neighbourhoods, it may miss some."""


@pytest.mark.parametrize("kind", ["exact", "indexed"])
@pytest.mark.parametrize("k", [1, 10, 50])
def test_neighbours_of_a_feature(kind, k, request):
    regions = request.getfixturevalue(kind)
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(8, 3, 3, generator=generator), torch.randn(72, generator=generator)]
    queries += [rows_of(1).features[row] for row in range(4, 64, 7)]
    queries.append(-100 * rows_of(1).features[4].double())
    recalls = [recall(nearest(regions, query, k), query, by_brute_force(query, k, set())) for query in queries]
    assert sum(recalls) / len(recalls) >= LEAST[kind]


@pytest.mark.parametrize("kind", ["exact", "indexed"])
@pytest.mark.parametrize("same_image", [False, True])
def test_neighbours_of_a_region(kind, same_image, request):
    regions = request.getfixturevalue(kind)
    recalls = []
    for number in (0, 75, 209):
        image = range(number // BOXES * BOXES, number // BOXES * BOXES + BOXES)
        left_out = {number} if same_image else set(image)
        found = nearest(regions, name_of(number), 20, same_image=same_image)
        assert not {name_of(one) for one in left_out} & {(one.region.image_id, one.region.box_id) for one in found}
        query = features()[number]
        recalls.append(recall(found, query, by_brute_force(query, 20, left_out)))
    assert sum(recalls) / len(recalls) >= LEAST[kind]


@pytest.mark.parametrize("kind", ["exact", "indexed"])
def test_more_than_there_are(kind, request):
    regions = request.getfixturevalue(kind)
    assert len(nearest(regions, torch.randn(72), 10_000)) == 210
    assert len(nearest(regions, (image_id(3), "b3"), 10_000)) == 210 - BOXES


def test_an_image_of_regions_that_are_alike_is_left_out_as_a_whole(tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="the index is usearch's")
    rows = rows_of(0)
    alike = rows.features.clone()
    alike[:BOXES] = alike[0]
    with writing(tmp_path, MANIFEST) as parts:
        parts.write(0, [replace(rows, features=alike)])
    for most in (100, 1):
        monkeypatch.setattr(search, "MOST_EXACT", most)
        regions = open_store(tmp_path)
        assert [one.similarity for one in nearest(regions, (image_id(0), "b0"), 6, same_image=True)] == pytest.approx(
            [1] * 6
        )
        others = nearest(regions, (image_id(0), "b0"), 6)
        assert image_id(0) not in {one.region.image_id for one in others}
        assert len(others) == 6


@pytest.mark.parametrize("kind", ["exact", "indexed"])
def test_features_without_a_direction(kind, tmp_path, monkeypatch):
    if kind == "indexed":
        pytest.importorskip("usearch", reason="the index is usearch's")
        monkeypatch.setattr(search, "MOST_EXACT", 1)
    rows = rows_of(0)
    odd = rows.features.clone()
    odd[3], odd[4], odd[5] = 0, torch.nan, torch.inf
    with writing(tmp_path, MANIFEST) as parts:
        parts.write(0, [replace(rows, features=odd)])
    found = nearest(open_store(tmp_path), odd[10], 70)
    assert found[0].similarity == pytest.approx(1)
    assert found[0].region.box_id == "b3"
    similarities = {(one.region.image_id, one.region.box_id): one.similarity for one in found}
    assert all(similarities.get((image_id(0), f"b{box}"), 0) == 0 for box in (3, 4, 5))


def test_the_index_is_built_once(indexed, monkeypatch):
    first = nearest(indexed, torch.ones(72), 5)
    assert (indexed.folder / "search.usearch").exists()
    monkeypatch.setattr(search, "_new_index", None)
    again = nearest(open_store(indexed.folder), torch.ones(72), 5)
    assert [one.similarity for one in again] == [one.similarity for one in first]


def test_a_store_that_has_grown_gets_another_index(tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="the index is usearch's")
    monkeypatch.setattr(search, "MOST_EXACT", 100)
    nearest(store_in(tmp_path, parts=2), torch.ones(72))
    query = rows_of(2).features[0]
    assert nearest(store_in(tmp_path), query, 1)[0].region.image_id == image_id(20)


@pytest.mark.parametrize("damage", ["no index", "no json", "cut", "another's"])
def test_an_index_that_is_damaged_is_made_anew(indexed, damage):
    query = rows_of(1).features[0]
    expected = by_brute_force(query, 10, set())
    assert recall(nearest(indexed, query), query, expected) >= LEAST_OF_ONE
    index, about = indexed.folder / "search.usearch", indexed.folder / "search.json"
    if damage == "no index":
        index.unlink()
    elif damage == "no json":
        about.write_text("{")
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:1000])
    else:
        about.write_text(about.read_text().replace(MANIFEST.fingerprint, "0" * 64))
    assert recall(nearest(indexed, query), query, expected) >= LEAST_OF_ONE


def test_no_room_for_the_index(indexed, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(search.files.os, "fsync", full)
        with pytest.raises(StoreError, match=r"RA713: .*The regions are all there"):
            nearest(indexed, torch.ones(72))
    assert not list(indexed.folder.glob("*search*"))
    assert len(nearest(indexed, torch.ones(72))) == 10


def test_what_cannot_be_searched(exact):
    with pytest.raises(OptionError, match=r"RA506: expected k.*got 0"):
        nearest(exact, torch.ones(72), 0)
    with pytest.raises(OptionError, match=r"RA506: expected a feature \[8, 3, 3\]; got \[71\]"):
        nearest(exact, torch.ones(71))
    with pytest.raises(NoRegionError, match="RA715"):
        nearest(exact, ("nothing.jpg", "b0"))


def test_a_store_without_regions(tmp_path):
    assert nearest(store_in(tmp_path, parts=0), torch.ones(72)) == []
