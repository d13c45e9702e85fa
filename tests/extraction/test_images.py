"""What a collection of images may be: its ids, their order, and the bytes that are read."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from roialign.errors import CollectionError
from roialign.extraction.images import list_images
from roialign.extraction.items import ImageRef


def fill(folder: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def tar_of(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def ids(images: list[ImageRef]) -> list[str]:
    return [image.image_id for image in images]


def test_a_folder_is_searched_below_and_sorted_by_ids(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.PNG", "b/10.jpeg", "a.jpg", "Ä ö.webp", "c/d/e f.TIFF", "x.tif", "y.bmp", "notes.txt", "z.gif")
    images = list_images(tmp_path)
    wanted = ["a.jpg", "b/10.jpeg", "b/2.PNG", "c/d/e f.TIFF", "x.tif", "y.bmp", "Ä ö.webp"]
    assert ids(images) == wanted == sorted(wanted)
    assert [image.read_bytes().decode() for image in images] == wanted
    assert images == list_images(f"{tmp_path}/") == pickle.loads(pickle.dumps(images))


def test_names_that_begin_with_a_dot_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "._1.jpg", ".cache/2.jpg")
    assert ids(list_images(tmp_path)) == ids(list_images(tmp_path / "**" / "*.jpg")) == ["1.jpg"]


def test_a_single_image_is_a_collection(tmp_path: Path) -> None:
    assert ids(list_images(fill(tmp_path, "one.jpg") / "one.jpg")) == ["one.jpg"]


def test_loops_of_links_end_and_a_linked_folder_is_listed_once(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", "a/1.jpg", "z/2.jpg")
    fill(tmp_path / "out", "3.jpg")
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "a" / "first").symlink_to(folder / "z", target_is_directory=True)
    (folder / "linked").symlink_to(tmp_path / "out", target_is_directory=True)
    (folder / "linked too").symlink_to(tmp_path / "out", target_is_directory=True)
    found = ids(list_images(folder))
    assert found[:1] + found[-1:] == ["a/1.jpg", "z/2.jpg"]
    assert len(found) == 3
    assert found[1] in ("linked/3.jpg", "linked too/3.jpg")
    assert found == ids(list_images(folder))


def test_a_dangling_link_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (image,) = list_images(tmp_path)
    with pytest.raises(FileNotFoundError):
        image.read_bytes()


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*/*.jpg", ["a/1.jpg", "b/2.jpg"]),
        ("**/*.jpg", ["0.jpg", "a/1.jpg", "a/c/3.jpg", "b/2.jpg"]),
        ("**", ["0.jpg", "a/1.jpg", "a/c/3.jpg", "b/2.jpg"]),
        ("a/*", ["1.jpg"]),
        ("[ab]/?.jpg", ["a/1.jpg", "b/2.jpg"]),
    ],
)
def test_a_glob_gives_ids_below_its_first_wildcard(tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    fill(tmp_path, "0.jpg", "a/1.jpg", "a/c/3.jpg", "b/2.jpg", "b/2.txt")
    images = list_images(tmp_path / pattern)
    assert ids(images) == wanted
    assert all(image.read_bytes().decode().endswith(image.image_id) for image in images)


def test_a_relative_glob_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path, "p/1.jpg", "2.jpg"))
    assert ids(list_images("*.jpg")) == ["2.jpg"]
    assert ids(list_images(".")) == ["2.jpg", "p/1.jpg"]
    assert [image.read_bytes() for image in list_images("p")] == [b"p/1.jpg"]


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    assert ids(list_images(fill(tmp_path, "set [1]/1.jpg") / "set [1]")) == ["1.jpg"]


def test_a_list_is_relative_to_itself(tmp_path: Path) -> None:
    fill(tmp_path, "lists/in.jpg", "photos/a b.jpg", "photos/ü.png", "photos/no suffix")
    lines = ["../photos/ü.png", "in.jpg", "", f"{tmp_path}/photos/a b.jpg", f"{tmp_path}/lists/sub/../gone.jpg"]
    (tmp_path / "lists" / "all.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    images = list_images(tmp_path / "lists" / "all.txt")
    assert sorted(ids(images)) == ids(images)
    assert set(ids(images)) == {"../photos/ü.png", "in.jpg", f"{tmp_path}/photos/a b.jpg", "gone.jpg"}
    content = {image.image_id: image.read_bytes() for image in images if image.image_id != "gone.jpg"}
    assert content["../photos/ü.png"].decode() == "photos/ü.png"
    assert content[f"{tmp_path}/photos/a b.jpg"] == b"photos/a b.jpg"


def test_members_of_a_tar_are_read_by_their_place(tmp_path: Path) -> None:
    long = "n" * 120 + ".png"
    members = {"./000.jpg": b"first", "000.json": b"{}", "d/001.JPG": b"second" * 500, long: b"third", "._1.jpg": b"no"}
    tar = tar_of(tmp_path / "shard.tar", members)
    images = list_images(tar)
    assert ids(images) == ["shard.tar/000.jpg", "shard.tar/d/001.JPG", f"shard.tar/{long}"]
    assert [image.read_bytes() for image in images] == [b"first", b"second" * 500, b"third"]


def test_several_tars_of_a_folder_or_glob(tmp_path: Path) -> None:
    tar_of(tmp_path / "train" / "b.tar", {"1.jpg": b"b1"})
    tar_of(tmp_path / "train" / "a.tar", {"1.jpg": b"a1", "2.jpg": b"a2"})
    wanted = ["train/a.tar/1.jpg", "train/a.tar/2.jpg", "train/b.tar/1.jpg"]
    assert ids(list_images(tmp_path)) == ids(list_images(tmp_path / "*" / "*.tar")) == wanted
    assert [image.read_bytes() for image in list_images(tmp_path)] == [b"a1", b"a2", b"b1"]


def test_a_tar_beside_images_is_left_alone(tmp_path: Path) -> None:
    tar_of(fill(tmp_path, "1.jpg") / "all.tar", {"1.jpg": b""})
    assert ids(list_images(tmp_path)) == ["1.jpg"]


def test_a_tar_that_was_cut_off_after_it_was_listed(tmp_path: Path) -> None:
    (image,) = list_images(tar_of(tmp_path / "a.tar", {"1.jpg": b"x" * 5000}))
    os.truncate(tmp_path / "a.tar", 2000)
    with pytest.raises(OSError, match=r"a\.tar ends 3512 bytes before its member a\.tar/1\.jpg does"):
        image.read_bytes()


def table(path: Path, columns: dict[str, Any], group: int = 2) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `extraction`")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_paths_in_a_parquet_file(tmp_path: Path) -> None:
    fill(tmp_path, "b.jpg", "a/c.jpg")
    images = list_images(table(tmp_path / "list.parquet", {"file_name": ["b.jpg", "a/c.jpg"], "n": [1, 2]}))
    assert [(image.image_id, image.read_bytes()) for image in images] == [("a/c.jpg", b"a/c.jpg"), ("b.jpg", b"b.jpg")]


def test_bytes_in_a_parquet_file_stay_in_the_order_of_the_rows(tmp_path: Path) -> None:
    content = [f"image {row}".encode() for row in range(5)]
    names = ["z.jpg", "d/y.jpg", "x.jpg", "/w.jpg", "x.jpg"]
    path = table(tmp_path / "t.parquet", {"image": content, "path": names})
    images = list_images(path)
    wanted = ["00000000/z.jpg", "00000001/d/y.jpg", "00000002/x.jpg", "00000003/w.jpg", "00000004/x.jpg"]
    assert ids(images) == [f"t.parquet/{name}" for name in wanted]
    assert [image.read_bytes() for image in images] == content
    assert [image.read_bytes() for image in reversed(images)] == content[::-1]
    assert images[4].member == (2, 0)


def test_structs_of_bytes_and_path_as_datasets_writes_them(tmp_path: Path) -> None:
    structs = [{"bytes": b"one", "path": "1.png"}, {"bytes": b"two", "path": None}, {"bytes": b"", "path": "3.png"}]
    images = list_images(table(tmp_path / "t.parquet", {"image": structs, "label": [0, 1, 0]}))
    assert ids(images) == ["t.parquet/00000000/1.png", "t.parquet/00000001", "t.parquet/00000002/3.png"]
    assert [image.read_bytes() for image in images] == [b"one", b"two", b""]


def test_structs_with_paths_alone_are_files(tmp_path: Path) -> None:
    structs = [{"bytes": None, "path": "1.png"}, {"bytes": None, "path": "2.png"}]
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `extraction`")
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    path = table(fill(tmp_path, "1.png", "2.png") / "t.parquet", {"image": pyarrow.array(structs, kind)})
    assert [image.read_bytes() for image in list_images(path)] == [b"1.png", b"2.png"]


def test_a_row_without_bytes_cannot_be_read(tmp_path: Path) -> None:
    images = list_images(table(tmp_path / "t.parquet", {"image": [b"one", None]}))
    assert images[0].read_bytes() == b"one"
    with pytest.raises(OSError, match=r"row 1 of row group 0 of .* has no bytes in its column image"):
        images[1].read_bytes()


def test_the_column_of_a_parquet_file_can_be_named(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", {"left": [b"l"], "right": [b"r"]})
    assert [image.read_bytes() for image in list_images(path, column="right")] == [b"r"]
    with pytest.raises(CollectionError, match=r"^RA703: .* several can be it: left, right\. Name it: column="):
        list_images(path)
    with pytest.raises(CollectionError, match=r"^RA703: expected column 'up' .* it has left \(binary\)"):
        list_images(path, column="up")


def test_a_parquet_file_without_images(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"^RA703: .* its columns are x, y\."):
        list_images(table(tmp_path / "t.parquet", {"x": [1], "y": ["a"]}))


EMPTY = {
    "folder": (
        "",
        r"expected images \(\.bmp.* in .* and the folders below it; found 3 other files: 2 \.txt, 1 \.gif\.",
    ),
    "empty folder": ("nothing", r"in .*nothing and the folders below it; there is no file\."),
    "glob": ("*.jpg", r"that match \*\.jpg in .*; there is no file\."),
    "misspelt": ("photso", r"got '.*photso', which does not exist\."),
    "remote": ("s3://bucket/photos", r"does not exist\. Mount it, or download it first\."),
    "other file": ("a.gif", r"expected a folder of images, .*; got the file .*a\.gif\."),
    "empty list": ("empty.txt", r"expected one path of an image a line in .*empty\.txt; it is empty\."),
    "list of nothing": ("gone.txt", r"none of its 2 files exists, the first is .*1\.jpg\."),
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_collection_says_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    fill(tmp_path, "a.gif", "nothing/.hidden.jpg")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "gone.txt").write_text("1.jpg\n2.jpg\n")
    monkeypatch.chdir(tmp_path)
    where, wanted = EMPTY[case]
    with pytest.raises(CollectionError, match=f"^RA703: .*{wanted}"):
        list_images(where if "://" in where else tmp_path / where)


def test_broken_and_compressed_tars_and_tars_without_images(tmp_path: Path) -> None:
    tar_of(tmp_path / "packed.tar", {"1.jpg": b""}, "w:gz")
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 500)
    tar_of(tmp_path / "cut.tar", {"1.jpg": b"1" * 5000, "2.jpg": b"2" * 5000})
    os.truncate(tmp_path / "cut.tar", 8000)
    tar_of(tmp_path / "texts.tar", {"1.txt": b""})
    for name, wanted in (
        ("packed", "It is compressed: unpack it once"),
        ("broken", "as a tar with images"),
        ("cut", "unexpected end of data"),
        ("texts", "found none"),
    ):
        with pytest.raises(CollectionError, match=f"^RA703: .*{wanted}"):
            list_images(tmp_path / f"{name}.tar")


def test_duplicates_are_refused_with_the_first_two(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "twice.txt").write_text("b.jpg\na.jpg\n./b.jpg\na.jpg\n")
    with pytest.raises(
        CollectionError, match=r"^RA704: .*; 'a\.jpg' is that of .*a\.jpg and .*a\.jpg; 1 more come twice\."
    ):
        list_images(tmp_path / "twice.txt")
    tar_of(tmp_path / "t.tar", {"a.jpg": b"1", "./a.jpg": b"2"})
    with pytest.raises(
        CollectionError, match=r"^RA704: .*'t\.tar/a\.jpg' is .*t\.tar at \(512, 1\) and .*\(1536, 1\)\."
    ):
        list_images(tmp_path / "t.tar")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(raw, "wb") as file:
        file.write(b"x")
    (image,) = list_images(tmp_path)
    assert image.image_id == "caf\\xe9.jpg"
    assert image.read_bytes() == b"x"


def test_listing_imports_no_package_of_the_extra(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    program = (
        "import sys\nfrom roialign.extraction.images import list_images\nimport roialign.extraction.boxes\n"
        f"list_images({str(tmp_path)!r}); print({{'pyarrow', 'yaml', 'PIL'}} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "set()"
