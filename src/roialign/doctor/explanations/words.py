"""What a finding says: what was seen, what it is taken for, and what would decide."""

from __future__ import annotations

from collections.abc import Sequence

from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.checks.operators import has_other_boxes, is_of_an_image
from roialign.doctor.evidence import Evidence, number
from roialign.doctor.explanations.scene import Place
from roialign.doctor.explanations.weigh import Explanation

_PICTURE_SPOKE = 1.0

PASS_THE_IMAGE = (
    "Pass image_size=(H, W), the size of the tensor that entered the backbone, to roialign.diagnose to decide."
)
_PRODUCT = "The stride is the product of the strides of the layers before this call."
_MAKE_UPRIGHT = (
    "Annotation tools and viewers show the upright picture: make pictures upright first, "
    "PIL.ImageOps.exif_transpose(image), and keep the boxes of the upright ones."
)
_HOW_TO_LOOK = {
    "another size": "Multiply the boxes by new size / old size, of the image that they belong to.",
    "window": "Subtract the corner of the crop from the boxes.",
    "turned": _MAKE_UPRIGHT,
    "turn left out": _MAKE_UPRIGHT,
    "mosaic": "A tile's boxes move with its pixels: by its width in x per column, by its height in y per row.",
    "clipped to the wrong side": "What was cut off is lost: clip x to the width and y to the height where it was done.",
    "no frame": "Look at where these boxes come from: coordinates of a map or of another picture must be converted.",
}
_ORDERS = {
    "y first": "Read y first (y1, x1, y2, x2) they fit.",
    "corners added": (
        "x2 - x1 and y2 - y1 are the far corners: the boxes were corners, and x1 and y1 were added to x2 and y2 once "
        "too often."
    ),
    "corner taken for the centre": (
        "The corner was taken for the centre: every box is half its size too far to the top left."
    ),
    "centre taken for the corner": (
        "The centre was taken for the corner: every box is half its size too far to the bottom right."
    ),
    "corner halved": ("The centre was computed as (x + w) / 2, half the corner and half the size: it is x + w / 2."),
    "rotated clockwise": (
        "Rotated by 90 degrees they fit: the EXIF orientation was applied to the picture or to the boxes, but not to "
        "both."
    ),
    "rotated counter-clockwise": (
        "Rotated by 90 degrees they fit: the EXIF orientation was applied to the picture or to the boxes, but not to "
        "both."
    ),
    "x1 and x2 swapped": "x1 and x2 are swapped, as by a flip that mirrors both without swapping them.",
    "y1 and y2 swapped": "y1 and y2 are swapped: sort them if y is measured from the top.",
    "corners swapped": "The far corner comes first: sort the corners.",
    "mirrored": "x is measured from the right: the boxes are mirrored, or the image was and they were not.",
    "from the right, far edge first": (
        "x is measured from the right: the boxes are mirrored, and x1 and x2 not swapped."
    ),
    "from the bottom": (
        "y is measured from the bottom, as in PDF files, maps and mathematics: the boxes are upside down."
    ),
    "from the bottom, upper edge first": (
        "y is measured from the bottom, as in PDF files, maps and mathematics, the upper edge first: the boxes are "
        "upside down."
    ),
}


def evidence(known: Evidence, explanation: Explanation) -> str:
    """The numbers that speak for it."""
    parts = [_as_called(known, explanation), _of_the_place(known, explanation.place), _of_the_order(known, explanation)]
    if explanation.witnessed > _PICTURE_SPOKE:
        parts.append(
            "Read this way they follow the edges of the picture, as boxes drawn around things do; as passed they do "
            "not."
        )
    return " ".join(part for part in parts if part)


def decide(known: Evidence, first: Explanation, others: Sequence[Explanation], doubtful: bool) -> str | None:
    """What would settle it, where something may."""
    said = []
    if first.place.code == "RA108":
        said.append("If the offset was already subtracted from the boxes, nothing is wrong.")
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


def _named(explanation: Explanation) -> str:
    return " and ".join(f"{code} ({_title(explanation, code)})" for code in explanation.codes)


def _title(explanation: Explanation, code: str) -> str:
    return explanation.order.name if code == explanation.order.code else CATALOGUE[code].title


def _as_called(known: Evidence, explanation: Explanation) -> str:
    height, width = known.call.map_size_hw
    x, y = known.furthest_xy
    low = int(known.low.sum())
    if known.call.operator == "roi_align_1d":
        reach = f"The segments reach to {x:g}, and the sequence has {width} cells."
    else:
        only = f"the map has only {width} columns and {height} rows"
        over = only if explanation.place.code == "RA101" else _image(known)
        boxes = "enclosing boxes" if has_other_boxes(known.call) else "boxes"
        reach = f"The {boxes} span x = {_least(known, 0):g} to {x:g}, y = {_least(known, 1):g} to {y:g}; {over}."
    if not low:
        return reach
    wholly = int((known.low & (known.coverage == 0)).sum())
    return f"{reach} {low} of {len(known.low)} RoIs lie off the map ({wholly} wholly), where every sample is zero."


def _least(known: Evidence, axis: int) -> float:
    return float(known.boxes_xyxy[:, [axis, axis + 2]].min())


def _image(known: Evidence) -> str:
    if known.image_size_hw is None:
        height, width = known.frame_hw
        return f"the map covers an image of about {width:.4g} columns and {height:.4g} rows"
    height, width = known.image_size_hw
    return f"the image that entered the network has {width:g} columns and {height:g} rows"


def _of_the_place(known: Evidence, place: Place) -> str:
    scale, (height, width) = known.call.spatial_scale, known.call.map_size_hw
    stride_y, stride_x = place.lattice.stride_yx
    off = place.lattice.cells_off(scale, (height, width))
    how = f"With stride {stride_y:g} all fit"
    if known.stride_yx:
        how = f"From {known.how_stride_is_known} the stride is {stride_y:g}"
    match place.code:
        case None:
            return ""
        case "RA101":
            return f"spatial_scale is 1.0. {how}."
        case "RA102":
            return (
                f"They fit as cells of the {height} x {width} map; spatial_scale={number(scale)} scales them once "
                "too often."
            )
        case "RA103":
            return "All coordinates are fractions: every RoI reads the same corner of the map."
        case "RA104":
            return f"spatial_scale is {scale:g}, which enlarges the boxes; pass {number(1 / scale)}."
        case "RA106":
            claim = f"spatial_scale={number(scale)} claims {1 / scale:.4g}"
            return f"{how}, but {claim}: at the far edge the RoIs are read {off:.2g} cells off."
        case "RA108":
            return _of_the_offset(place)
        case "RA110":
            return (
                f"From {known.how_stride_is_known} the stride is {stride_y:.4g} vertically and {stride_x:.4g} "
                f"horizontally; no single spatial_scale fits both, and {number(scale)} is up to {off:.2g} cells off."
            )
    return _of_the_frame(known, place)


def _of_the_offset(place: Place) -> str:
    offset_y, offset_x = place.lattice.offset_yx or (0.0, 0.0)
    stride_y, stride_x = place.lattice.stride_yx
    at = f"{offset_y:g} px" if offset_y == offset_x else f"y = {offset_y:g}, x = {offset_x:g} px"
    beside = max(abs(offset_y - stride_y / 2), abs(offset_x - stride_x / 2))
    return (
        f"The network loses its border: its stride is {stride_y:g}, and cell (0, 0) is centred at {at}, not at "
        f"{stride_y / 2:g}. Every box is read up to {beside:g} px off."
    )


def _of_the_frame(known: Evidence, place: Place) -> str:
    image_h, image_w = known.image_size_hw or known.frame_hw
    chain = str(known.frames[0]) if known.frames else ""
    match place.name:
        case "seen frame" if place.frame is not None:
            old_h, old_w = place.frame.size_hw
            left = ", in which they left a detection model" if known.detected_in == place.frame else ""
            return (
                f"They fit the {place.frame.name} of {old_w} columns and {old_h} rows from which the image of "
                f"{image_w:g} x {image_h:g} was made ({chain}){left}: what was done to the image was not done to them."
            )
        case "turned" | "turn left out" if place.frame is not None:
            return _of_the_turn(place, chain)
        case "one resize of two":
            return (
                f"The image was resized more than once ({chain}), and only one of the ratios reached the boxes: both "
                f"are needed, a further factor of {place.ratio:.4g}."
            )
        case "resized twice":
            return f"The image was resized by {1 / place.ratio:.4g} ({chain}), the boxes by that twice."
        case "resized the wrong way":
            return f"The image was resized ({chain}), and the boxes the other way: divided instead of multiplied."
        case "squeezed":
            return (
                f"The image was cropped or padded on its way ({chain}); the boxes were scaled as if all of the "
                "photograph had been squeezed into it."
            )
        case "one ratio for both":
            return (
                f"The image was squeezed ({chain}), width and height by different ratios, which changes its aspect "
                "ratio; the boxes were scaled by one of them, so that x or y is off."
            )
        case "padded size":
            return (
                "Part of the image is padding, of one colour, and boxes lie in it: they are fractions of the "
                "photograph times the size of the padded image, of which the picture fills only a part."
            )
        case "bars left out":
            return "The image has bars of one colour (a letterbox); the boxes begin as if the picture began at 0."
        case "parts of the image":
            parts = f"parts of the image, {place.ratio:g} to each side"
            of = "percents of the image" if place.ratio == 100 else parts
            return f"They run from 0 to {place.ratio:g}: {of}, as annotation tools and language models give them."
        case "sides swapped":
            return (
                "Width and height are swapped: x was multiplied by the height of the image and y by its width, or "
                "the image was resized to (width, height) instead of (height, width)."
            )
        case "mosaic" if known.mosaic is not None:
            height, width = known.mosaic.tile_hw
            return (
                f"The image is a mosaic of tiles of {width} x {height}. The boxes of tiles to the right were moved by "
                f"the tile's height and those below by its width: {abs(width - height)} px off."
            )
        case "another size":
            return f"They would fit about {place.ratio:.2g} times as large: boxes of another size of this image."
        case "window":
            return "They fit a crop of a larger picture whose corner was not subtracted."
        case "no frame":
            return "They are far outside this image in every frame that was tried: scaled, reordered, of another size."
        case "clipped to the wrong side":
            side = min(image_h, image_w)
            return f"Several end at exactly {side:g}, the shorter side of the image, along the longer one."
    return ""


def _of_the_turn(place: Place, chain: str) -> str:
    """What was seen of a picture whose file says that it is to be turned."""
    upright = place.frame is None or place.frame.parent is None
    old_h, old_w = (0, 0) if place.frame is None else place.frame.size_hw
    size = (
        f", {old_w} columns and {old_h} rows"
        if place.name == "turned"
        else (", with every step but the rotation applied")
    )
    if upright:
        return (
            f"They fit the upright picture{size}; its file has an EXIF rotation, and the network got it as stored "
            f"({chain})."
        )
    return f"They fit the picture as its file stores it{size}; the network got it upright, as EXIF says ({chain})."


def _of_the_order(known: Evidence, explanation: Explanation) -> str:
    order = explanation.order
    if order.code is None:
        return ""
    inverted = int((known.sides < 0).any(1).sum())
    ends = f"{inverted} of {len(known.sides)} boxes are inverted ({_first_inverted(known)}). " if inverted else ""
    return ends + _ORDERS.get(order.name, f"Read as {order.name} all have an area and fit.")


def _first_inverted(known: Evidence) -> str:
    row = int((known.sides < 0).any(1).nonzero()[0])
    return f"boxes[{row}] = [" + ", ".join(f"{value:g}" for value in known.boxes_xyxy[row].tolist()) + "]"
