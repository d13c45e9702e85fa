"""A look at some images before a long run begins."""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Sequence
from itertools import chain

from roialign.backbones.reading import upright_size_hw
from roialign.doctor import Report
from roialign.doctor.watch import watch
from roialign.errors import BoxesValueError, RoIError, SampleError
from roialign.extraction.decode import NO_BOXES, Decode, error_row
from roialign.extraction.items import ImageRef
from roialign.extraction.store.rows import ErrorRow
from roialign.extraction.work import Embed, Prepared
from roialign.geometry import Boxes, Frame

MOST = 16
"""Images in a sample."""

_ENOUGH = 4  # an error in one of so many images is one of the collection; in fewer it is one of those images


def sample_of(images: Sequence[ImageRef]) -> list[ImageRef]:
    """Some images, spread evenly over the collection."""
    count = min(len(images), MOST)
    return [images[index * len(images) // count] for index in range(count)]


def check(images: Sequence[ImageRef], decode: Decode, embed: Embed) -> Report:
    """Extract the features of a sample under the doctor's eyes, and return what it found.

    Raises:
        SampleError: RA706, if the doctor finds an error in a quarter of the images, if most of the boxes are refused,
            if outlines count and no box has one, or if no image can be used.
    """
    prepared, errors, boxes, outlines = list[Prepared](), list[ErrorRow](), 0, 0
    for image in images:
        decoded = decode(image)
        errors += [error for error in decoded.errors if error.code != NO_BOXES]
        if decoded.marked is not None:
            boxes += len(decoded.marked.box_ids)
            outlines += sum(mask is not None for mask in decoded.marked.masks or ())
            prepared.append(embed.prepare(decoded.marked))
    refused = [error for error in errors if error.box_id is not None]
    if len(refused) > boxes:
        raise SampleError(
            f"RA706: expected boxes of these images; {len(refused)} of the {len(refused) + boxes} boxes of a sample "
            f"are refused, {_commonest(refused)}{_cause(refused, decode, images)}"
        )
    if errors and not prepared:
        raise SampleError(
            f"RA706: expected images that can be used; in a sample of them all fail, {_commonest(errors)}"
        )
    if decode.masked and prepared and not outlines:
        raise SampleError(
            f"RA706: expected boxes with outlines, polygons or run lengths; none of the {boxes} boxes of a sample has "
            "one. Leave out masked=True (--masked) to pool all of each box."
        )
    failed: list[ErrorRow] = []
    with watch() as report:
        for one in prepared:
            try:
                deque(embed([one]), maxlen=0)
            except (RoIError, RuntimeError, ValueError) as error:  # as in the run, where it costs that image
                failed.append(error_row(one.marked.image_id, error))
    if failed and len(failed) == len(prepared):
        raise SampleError(f"RA706: expected images that the backbone takes; it takes none, {_commonest(failed)}")
    codes = [{one.code for one in call.findings if one.severity == "error"} for call in report.calls]
    found = [code for code, count in Counter(chain.from_iterable(codes)).items() if count * _ENOUGH >= len(prepared)]
    if found:
        stop = SampleError(
            f"RA706: expected boxes that fit their images; the doctor found {', '.join(sorted(found))} in a "
            "sample of them. Mend what the report names, or pass force=True (--force) to extract all the same."
        )
        stop.report = report
        raise stop
    return report


def _commonest(errors: Sequence[ErrorRow]) -> str:
    code = Counter(error.code for error in errors).most_common(1)[0][0]
    first = next(error for error in errors if error.code == code)
    return f"most with {code}. The first, of {first.image_id}: {first.reason}"


def _cause(refused: Sequence[ErrorRow], decode: Decode, images: Sequence[ImageRef]) -> str:
    """What boxes that end before they begin most likely are."""
    first = next((error for error in refused if error.code == "RA204"), None)
    image = None if first is None else next(one for one in images if one.image_id == first.image_id)
    found = None if image is None else decode.source.of(image)
    if image is None or found is None:
        return ""
    height, width = found.size_hw or upright_size_hw(io.BytesIO(image.read_bytes()))
    boxes_xyxy = found.boxes_xyxy * ((width, height) * 2 if found.normalized else 1)
    try:
        Boxes(boxes_xyxy, Frame.image((height, width)))
    except BoxesValueError as error:
        return f" {str(error).rpartition(']. ')[2]}"
    return ""
