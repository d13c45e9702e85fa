"""What a finding says: what was seen, what it is taken for, and what would decide."""

from __future__ import annotations

from collections.abc import Sequence

from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.checks.operators import has_other_boxes, is_of_an_image
from roialign.doctor.evidence import Evidence, number
from roialign.doctor.explanations.places import Place
from roialign.doctor.explanations.weigh import Explanation

_PICTURE_SPOKE = 1.0

PASS_THE_IMAGE = (
    "Pass image_size=(H, W), the size of the tensor that entered the backbone, to roialign.diagnose to decide."
)


def evidence(known: Evidence, explanation: Explanation) -> str:
    """The numbers that speak for it."""
    parts = [_as_called(known, explanation), _of_the_place(known, explanation.place), _of_the_order(known, explanation)]
    if explanation.witnessed > _PICTURE_SPOKE:
        parts.append("So read they follow the edges of the picture, as boxes drawn around things do; as called they do not.")
    return " ".join(part for part in parts if part)


def decide(known: Evidence, first: Explanation, others: Sequence[Explanation], doubtful: bool) -> str | None:
    """What would settle it, where something may."""
    said = []
    if first.place.code == "RA108":
        said.append("If the offset was taken off the boxes already, nothing is wrong.")
    if first.place.name in _HOW_TO_LOOK:
        said.append(_HOW_TO_LOOK[first.place.name])
    if others:
        listed = list(dict.fromkeys(_named(one) for one in others))
        said.append(f"The evidence also fits {', '.join(listed)}: look at one box in the image.")
    elif doubtful:
        said.append("This is likely, not sure: look at one box in the image.")
    if first.order.code == "RA203" and known.image_size_hw is None:
        said.append(f"It may also be RA304, a map whose height and width were swapped. {PASS_THE_IMAGE}")
    if known.stride_yx is None and known.image_size_hw is None and first.place.code in ("RA101", "RA106"):
        said.append(PASS_THE_IMAGE if is_of_an_image(known.call) else _PRODUCT)
    return " ".join(said) or None


_PRODUCT = "The stride is the product of the strides of the layers before this call."
_HOW_TO_LOOK = {
    "another size": "Multiply the boxes by new size / old size, of the image that they belong to.",
    "window": "Subtract the corner of the window from the boxes.",
    "mosaic": "A tile's boxes move with its pixels: by its width in x for each column, by its height in y for each row.",
    "clipped by the wrong side": "What was cut off cannot be brought back: clip x to the width and y to the height.",
    "no frame": "Look at where these boxes come from: the coordinates of a map or of another picture must be converted.",
}


def _named(explanation: Explanation) -> str:
    return " and ".join(f"{code} ({_title(explanation, code)})" for code in explanation.codes)


def _title(explanation: Explanation, code: str) -> str:
    if code == explanation.order.code:
        return explanation.order.name
    return CATALOGUE[code].title


def _as_called(known: Evidence, explanation: Explanation) -> str:
    height, width = known.call.map_size_hw
    x, y = known.furthest_xy
    low = int(known.low.sum())
    if known.call.operator == "roi_align_1d":
        reach = f"The segments reach to {x:g}, and the sequence has {width} cells."
    else:
        over = f"the map has only {width} columns and {height} rows" if explanation.place.code == "RA101" else _image(known)
        within = "enclosing boxes" if has_other_boxes(known.call) else "boxes"
        reach = f"The {within} span x = {_least(known, 0):g} to {x:g}, y = {_least(known, 1):g} to {y:g}; {over}."
    if not low:
        return reach
    wholly = int((known.low & (known.coverage == 0)).sum())
    return f"{reach} {low} of {len(known.low)} RoIs lie off the map ({wholly} of them wholly), where every sample is zero."


def _least(known: Evidence, axis: int) -> float:
    return float(known.boxes_xyxy[:, [axis, axis + 2]].min())


def _image(known: Evidence) -> str:
    if known.image_size_hw is None:
        height, width = known.frame_hw
        return f"the map covers an image of about {width:.4g} columns and {height:.4g} rows"
    height, width = known.image_size_hw
    return f"the image that entered the network has {width:g} columns and {height:g} rows"


def _of_the_place(known: Evidence, place: Place) -> str:
    scale, call = known.call.spatial_scale, known.call
    stride_y, stride_x = place.lattice.stride_yx
    if place.code is None:
        return ""
    how = f"From {known.how_stride_is_known} the stride is {stride_y:g}" if known.stride_yx else f"With stride {stride_y:g} all fit"
    match place.code:
        case "RA101":
            return f"spatial_scale is 1.0. {how}."
        case "RA102":
            return f"They fit as cells of the {call.map_size_hw[0]} x {call.map_size_hw[1]} map; spatial_scale={number(scale)} scales them once more."
        case "RA103":
            return "All coordinates are fractions: every RoI reads the same corner of the map."
        case "RA104":
            return f"spatial_scale is {scale:g}, which enlarges the boxes; its inverse, {number(1 / scale)}, puts them on the map."
        case "RA106":
            off = place.lattice.cells_off(scale, call.map_size_hw)
            return f"{how}, but spatial_scale={number(scale)} claims {1 / scale:.4g}: at the far edge the RoIs are read {off:.2g} cells off."
        case "RA108":
            return _of_the_offset(known, place)
        case "RA110":
            return (
                f"From {known.how_stride_is_known} the stride is {stride_y:.4g} down and {stride_x:.4g} across; no single "
                f"spatial_scale fits both, and {number(scale)} is up to {place.lattice.cells_off(scale, call.map_size_hw):.2g} cells off."
            )
    return _of_the_frame(known, place)


def _of_the_offset(known: Evidence, place: Place) -> str:
    offset_y, offset_x = place.lattice.offset_yx or (0.0, 0.0)
    stride_y, stride_x = place.lattice.stride_yx
    at = f"{offset_y:g} px" if offset_y == offset_x else f"y = {offset_y:g}, x = {offset_x:g} px"
    beside = max(abs(offset_y - stride_y / 2), abs(offset_x - stride_x / 2))
    return (
        f"The network has no padding: its stride is {stride_y:g}, and cell (0, 0) is centred at {at}, not at {stride_y / 2:g}. "
        f"Every box is read up to {beside:g} px beside its place."
    )


def _of_the_frame(known: Evidence, place: Place) -> str:
    image_h, image_w = known.image_size_hw or known.frame_hw
    entered = f"{image_w:g} x {image_h:g}"
    match place.name:
        case "seen frame" if place.frame is not None:
            old_h, old_w = place.frame.size_hw
            steps = " > ".join(str(known.frames[0]).split(" > ")) if known.frames else ""
            left = ", which left a detection model in that frame" if known.detected_in == place.frame else ""
            return (
                f"They fit the {place.frame.name} of {old_w} columns and {old_h} rows from which the image of {entered} was made "
                f"({steps}){left}: what was done to the image was not done to them."
            )
        case "one resize of two":
            return (
                f"The image was resized more than once ({known.frames[0]}), and only one of the ratios reached the boxes: "
                f"both are needed, another {place.ratio:.4g} times."
            )
        case "resized twice":
            return f"The image was resized by {1 / place.ratio:.4g}, the boxes by that twice."
        case "resized the wrong way":
            return f"The image was resized ({known.frames[0]}), and the boxes the other way: divided where multiplied, or multiplied where divided."
        case "padded size":
            return (
                "Part of the image is padding, one colour beside the picture; boxes lie in it. As fractions of the photograph times "
                "the size of the padded image they would: the picture fills only a part of it."
            )
        case "bars left out":
            return "The image has bars of one colour (a letterbox), and the boxes begin as if the picture began at 0."
        case "parts of the image":
            of = "percents of the image" if place.ratio == 100 else f"parts of the image, {place.ratio:g} to each side"
            return f"They run from 0 to {place.ratio:g}: {of}, as annotation tools, documents and language models write them."
        case "sides exchanged":
            return "Width and height are exchanged: x was multiplied by the height of the image and y by its width."
        case "mosaic" if known.mosaic is not None:
            height, width = known.mosaic.tile_hw
            return (
                f"The image is a mosaic of tiles of {width} x {height}. The boxes of tiles to the right were moved by the tile's "
                f"height and those below by its width: {abs(width - height)} px off."
            )
        case "another size":
            return f"They would fit about {place.ratio:.2g} times as large: boxes of another size of this image."
        case "window":
            return "They fit a window of a larger picture whose corner was not subtracted."
        case "no frame":
            return "They lie far outside this image in any frame that was tried: scaled, reordered, of other sizes of it."
        case "clipped by the wrong side":
            side = min(known.image_size_hw or known.frame_hw)
            return f"Several end at exactly {side:g}, the shorter side of the image, along the longer one: clipped by the wrong side."
    return ""


def _of_the_order(known: Evidence, explanation: Explanation) -> str:
    order = explanation.order
    if order.code is None:
        return ""
    inverted = int((known.sides < 0).any(1).sum())
    ends = f"{inverted} of {len(known.sides)} boxes end before they begin ({_first_inverted(known)}). " if inverted else ""
    match order.name:
        case "y first":
            said = "Read y first (y1, x1, y2, x2) they fit."
        case "corners added":
            said = (
                "x2 - x1 and y2 - y1 are the far corners: the boxes were corners, and x1 and y1 were added to x2 and y2 once too often."
            )
        case "corner taken for the centre":
            said = "The corner was taken for the centre: every box lies half its size too far to the top left."
        case "centre taken for the corner":
            said = "The centre was taken for the corner: every box lies half its size too far to the bottom right."
        case "x1 and x2 exchanged":
            said = "x1 and x2 are exchanged, as by a flip that mirrors both and does not exchange them."
        case "y1 and y2 exchanged":
            said = "y1 and y2 are exchanged: sort them, if they do count from the top."
        case "corners exchanged":
            said = "The far corner comes first: sort the corners."
        case "mirrored" | "from the right, far edge first":
            said = "x counts from the right: the boxes are mirrored, or the image was and they were not."
        case "from the bottom" | "from the bottom, upper edge first":
            said = "y counts from the bottom, as in PDF files, maps and mathematics: the boxes stand upside down."
        case _:
            said = f"Read as {order.name} all have an area and fit."
    return ends + said



def _first_inverted(known: Evidence) -> str:
    row = int((known.sides < 0).any(1).nonzero()[0])
    return f"boxes[{row}] = [" + ", ".join(f"{value:g}" for value in known.boxes_xyxy[row].tolist()) + "]"
