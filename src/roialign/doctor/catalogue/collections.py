"""RA7xx: collections of images and their annotations."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import Entry

_TWO_IMAGES = """\
import tempfile
from pathlib import Path
from roialign.extraction.boxes import open_boxes
from roialign.extraction.images import list_images
folder = Path(tempfile.mkdtemp())
for name in ("day/1.jpg", "night/1.jpg"):
    (folder / name).parent.mkdir()
    (folder / name).touch()
images, table, names = list_images(folder), folder / "boxes.csv", folder / "images.txt"\
"""
_PICTURES = """\
import tempfile
from pathlib import Path
from PIL import Image
from torch import nn
from roialign.extraction import extract
folder = Path(tempfile.mkdtemp())
Image.new("RGB", (64, 48)).save(folder / "1.png")
table, options = folder / "boxes.csv", {"backbone": nn.Conv2d(3, 8, 4, stride=4), "out": folder / "regions"}
options |= {"workers": 1, "quiet": True}\
"""
_OPENED = 'open_boxes(table, images, folder / "index.sqlite")'

ENTRIES = (
    Entry(
        "RA701",
        "annotations that cannot be read",
        "error",
        "The file of boxes is cut off, is of another form than its name says, or lacks what the form needs: a header, "
        "the column with the image, an image_id, four numbers. The message has the line, or the names of the columns "
        "that are accepted and of those that are there. Where each image has a file of its own, a broken one costs "
        "that image alone: its rows are among the errors. So does an outline that cannot be read cost its box.",
        "Write the file again, or add what is missing; where a name does not tell the form, pass form=....",
        _TWO_IMAGES,
        f'table.write_text("day/1.jpg,10,20,30,60\\n")\n{_OPENED}',
        f'table.write_text("image,x1,y1,x2,y2\\nday/1.jpg,10,20,30,60\\n")\n{_OPENED}',
        raised=True,
    ),
    Entry(
        "RA702",
        "annotations of images that are not there",
        "error",
        "The annotations name images that the collection does not have. Where that is true of some of them, those are "
        "among the errors and all others are extracted; where it is true of all, the two do not belong together.",
        "Pass the annotations of these images, or the folder of those that they name. Names are compared as whole "
        "paths, else as file names, else without their suffix.",
        _TWO_IMAGES,
        f'table.write_text("image,x1,y1,x2,y2\\nval/0012.jpg,10,20,30,60\\n")\n{_OPENED}',
        f'table.write_text("image,x1,y1,x2,y2\\nday/1.jpg,10,20,30,60\\n")\n{_OPENED}',
        raised=True,
    ),
    Entry(
        "RA703",
        "no images",
        "error",
        "There is no image where they were looked for: a misspelt path, a glob that nothing matches, a list whose "
        "paths are relative to another folder, a compressed tar, a Parquet file without a column of paths or bytes.",
        "Pass what the message names. Paths in a list are relative to the list.",
        _TWO_IMAGES,
        'list_images(folder / "*.jpg")',
        'list_images(folder / "**" / "*.jpg")',
        raised=True,
    ),
    Entry(
        "RA704",
        "two images of one id",
        "error",
        "Each row is found by the id of its image, the path in the collection. A list that names a file twice, or a "
        "tar with two members of one name, has two images of one id.",
        "Take out one of the two.",
        _TWO_IMAGES,
        'names.write_text("day/1.jpg\\nday/1.jpg\\n")\nlist_images(names)',
        'names.write_text("day/1.jpg\\nnight/1.jpg\\n")\nlist_images(names)',
        raised=True,
    ),
    Entry(
        "RA705",
        "annotations that fit several images",
        "error",
        "The annotations name images by less than their paths, and two images of the collection have that name, or "
        "two names of the annotations fit one image. To guess would give boxes to the wrong image.",
        "Name the images by their paths in the annotations, or extract one folder at a time.",
        _TWO_IMAGES,
        f'table.write_text("image,x1,y1,x2,y2\\n1.jpg,10,20,30,60\\n")\n{_OPENED}',
        f'table.write_text("image,x1,y1,x2,y2\\nday/1.jpg,10,20,30,60\\n")\n{_OPENED}',
        raised=True,
    ),
    Entry(
        "RA706",
        "images and boxes that do not go together",
        "error",
        "Before a long extraction begins, some of the images are extracted under the doctor's eyes. It does not begin "
        "where the doctor finds an error in a quarter of them, where most of their boxes are refused, where none of "
        "the images can be read, or where outlines are asked for and no box has one: all other images would go the "
        "same way.",
        "Mend what the message and the report name. Where they are wrong, force=True, or --force, goes on.",
        _PICTURES,
        'table.write_text("image,x1,y1,x2,y2\\n1.png,30,20,8,9\\n")\nextract(folder, boxes=table, **options)',
        'table.write_text("image,x1,y1,x2,y2\\n1.png,30,20,38,29\\n")\nextract(folder, boxes=table, **options)',
        raised=True,
    ),
    Entry(
        "RA707",
        "a process of an extraction died",
        "error",
        "A process that extracts ended without a word: most often the operating system killed it, because memory was "
        "short. All parts that are written stay.",
        "Run the same command again, with fewer workers. A smaller batch size is another extraction: it needs another "
        "folder.",
        "from multiprocessing import Pipe\nfrom roialign.extraction import local\nours, theirs = Pipe()",
        "theirs.close()\nlocal._hear(ours, 3)",
        "theirs.send(None)\nlocal._hear(ours, 3)",
        raised=True,
    ),
)
