"""Which name of the annotations is which image: paths, file names, stems, and what is refused."""

from __future__ import annotations

import random
import time

import pytest

from roialign.errors import AnnotationError
from roialign.extraction.boxes.matching import match

CASES = {  # names, images, the names that are found by the ids
    "paths": (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"], {}),
    "file names": (["1.jpg", "2.jpg"], ["train/1.jpg", "val/2.jpg"], {"train/1.jpg": "1.jpg", "val/2.jpg": "2.jpg"}),
    "longer names": (["/data/x/1.jpg"], ["1.jpg"], {"1.jpg": "/data/x/1.jpg"}),
    "backslashes": (["C:\\x\\1.jpg"], ["x/1.jpg"], {"x/1.jpg": "C:\\x\\1.jpg"}),
    "dots": (["./a/1.jpg"], ["a/1.jpg"], {"a/1.jpg": "./a/1.jpg"}),
    "other suffixes": (["1.png"], ["1.jpg"], {"1.jpg": "1.png"}),
    "no suffix": (["0a1"], ["train/0a1.jpg"], {"train/0a1.jpg": "0a1"}),
    "dots in names": (["v1.2", "v1.3"], ["v1.2.jpg", "v1.3.jpg"], {"v1.2.jpg": "v1.2", "v1.3.jpg": "v1.3"}),
    "composed letters": (["\u00e9.jpg"], ["e\u0301.jpg"], {"e\u0301.jpg": "\u00e9.jpg"}),
    "folders that end alike": (
        ["x/a/1.jpg", "x/b/1.jpg"],
        ["b/1.jpg", "a/1.jpg"],
        {"a/1.jpg": "x/a/1.jpg", "b/1.jpg": "x/b/1.jpg"},
    ),
    "labels and images": (
        ["labels/a/1.txt", "labels/b/1.txt"],
        ["images/a/1.jpg", "images/b/1.jpg"],
        {"images/a/1.jpg": "labels/a/1.txt", "images/b/1.jpg": "labels/b/1.txt"},
    ),
    "an exact name and a longer one": (["1.xml", "old/1.xml"], ["1.jpg"], {"1.jpg": "1.xml"}),
    "a path that another image has": (["a/1.jpg"], ["a/1.jpg", "b/1.jpg"], {}),
    "file name before stem": (["1.png", "1.jpg"], ["x/1.jpg", "x/1.png"], {"x/1.jpg": "1.jpg", "x/1.png": "1.png"}),
    "members of tars": (["000.jpg"], ["t.tar/000.jpg"], {"t.tar/000.jpg": "000.jpg"}),
    "nothing": (["a.jpg"], ["b.jpg"], {}),
    "no names": ([], ["b.jpg"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_names_are_found(case: str) -> None:
    names, images, wanted = CASES[case]
    for order in (1, -1):
        matching = match(names[::order], images[::order], "boxes")
        assert matching.renamed == wanted
        found = matching.by_path + matching.by_file_name + matching.by_stem
        assert found == len(set(names) & set(images)) + len(wanted)
        assert matching.images_without == len(images) - found
        assert matching.names_without == len(names) - found


@pytest.mark.parametrize(
    ("names", "images", "wanted"),
    [
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], r"boxes has '1\.jpg', which could be 'a/1\.jpg' or 'b/1\.jpg'"),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], r"'1\.jpg' could be 'a/1\.jpg' or 'b/1\.jpg' of boxes"),
        (["1.xml"], ["1.jpg", "1.png"], r"boxes has '1\.xml', which could be '1\.jpg' or '1\.png'"),
        (["x/a/1.jpg", "y/a/1.jpg"], ["a/1.jpg"], r"'a/1\.jpg' could be 'x/a/1\.jpg' or 'y/a/1\.jpg' of boxes"),
        (["x/1.jpg", "y/1.jpg"], ["a/1.jpg", "b/1.jpg"], r"boxes has 'x/1\.jpg', which could be 'a/1\.jpg' or"),
    ],
)
def test_what_fits_twice_is_refused_with_both(names: list[str], images: list[str], wanted: str) -> None:
    with pytest.raises(AnnotationError, match=f"^RA705: .*{wanted}"):
        match(names, images, "boxes")


def test_the_summary() -> None:
    matching = match(["a.jpg", "x/b.jpg", "c.png", "d.jpg"], ["a.jpg", "b.jpg", "c.jpg", "e.jpg", "f.jpg"], "boxes")
    assert str(matching) == (
        "3 images have annotations (1 by path, 1 by file name, 1 by stem); 2 of the collection have none, the first is "
        "e.jpg; 1 of the annotations are missing, the first is d.jpg"
    )
    assert str(match([], ["a"], "boxes")) == "no image has annotations; 1 of the collection have none, the first is a"


def test_many_files_of_one_name_do_not_take_for_ever() -> None:
    images = [f"{number:05d}/image.jpg" for number in range(30_000)]
    names = [f"x/{number:05d}/image.jpg" for number in range(30_000)]
    random.Random(0).shuffle(names)
    begin = time.process_time()
    matching = match(names, images, "boxes")
    assert matching.by_file_name == 30_000
    assert all(name == f"x/{image}" for image, name in matching.renamed.items())
    assert time.process_time() - begin < 10  # compared one by one it would be minutes
