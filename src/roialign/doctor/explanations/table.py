"""All that is tuned in how explanations are weighed: how common each is, and how healthy boxes look.

Fitted on the fault benchmark with seeds 0 to 3 and on the reports called given and fitted; measured on seed 8, on a
fresh seed and on the reports called kept and fresh (docs/doctor.md).
"""

from __future__ import annotations

SURE = 20.0
"""Odds against "nothing is wrong" from which on a finding is an error; below it is a warning."""

LIKELY = 2.0
"""Odds from which on there is one at all."""

ONLY = 0.6
"""Weight of other frames of the same code up to which a fix is proposed."""

# How common it is that ... given the scale that was passed and the stride that the map has. Only ratios matter.
SCALE_FITS = 0.7  # the scale is the inverse of the stride, and the boxes are in pixels of the image
IN_CELLS = 0.2  # spatial_scale=1 and boxes in cells
OWN_UNITS = 0.02  # a scale of another unit than pixels: metres, pixels of a resized copy
RATIO_OF_SIZES = 0.2  # cells / pixels where that is not the inverse of the stride
LEFT_AT_ONE = 0.12  # RA101
NEAR_ONE = 0.12  # RA106: a map nearly as large as the image, taken for one as large
SCALED_TWICE = 0.02  # RA102
FRACTIONS = 0.03  # RA103
INVERSE = 0.1  # RA104, where the scale is a stride
WRONG_STRIDE = 0.15  # RA106, where the scale is not the inverse of the stride
OTHER_STRIDE = 0.04  # RA106, where nothing is known of the stride but that the scale is the inverse of a common one
OFFSET_IGNORED = 0.6  # RA108: a structural offset of more than a cell
OFFSET_TAKEN_OFF = (0.06, 0.01)  # ... or taken into account by hand, with aligned=False and True
SEEN_FRAME, BETWEEN = 0.04, 0.012  # RA107: the photograph's frame, or one that was seen on the way to the network
TURNED_FILE = 0.04  # RA218: where a file was opened that says that its picture is to be turned
PARTLY_RESIZED = 0.01  # ... with some of its resizes, or all of them twice
PADDED_SIZE = 0.01  # fractions of the photograph times the size of the padded image
BARS_LEFT_OUT = 0.02
PARTS = 0.008  # of the image: percents, thousandths of a page, 1024 bins
SIDES_EXCHANGED = 0.008  # fractions: x times the height, and y times the width
ON_ITS_SIDE = 8.0  # how much commoner that is where a resize was seen to turn a landscape into a portrait
IN_PROPORTION = 0.01  # one ratio for both sides of an image that was squeezed, or its crop and padding left out
MOSAIC = 0.01
LARGER, SMALLER = 0.025, 0.006  # a frame that was not seen: a larger copy of the image, or a smaller one
UNSEEN = 0.25  # ... where others were seen
WINDOW = 0.01  # a window of a larger picture, whose corner was not subtracted
NO_FRAME = 0.003  # RA209: coordinates of something else, far beyond the image

Y_FIRST, XYWH, CXCYWH = 0.03, 0.03, 0.012
CORNERS_ADDED = 0.003
HALF_ITS_SIZE = 0.001  # the corner taken for the centre, or the centre for the corner
EXCHANGED = 0.004  # of x, of y, or of both
MIRRORED = 0.002
TURNED = 0.0015  # by 90 degrees, as a camera's orientation flag says
CORNER_HALVED = 0.0005  # (x + w) / 2 for a centre
ENDS_TOGETHER, AROUND = 0.0015, 0.002  # x1, x2, y1, y2; top, right, bottom, left
FROM_THE_BOTTOM = 0.006
FROM_THE_BOTTOM_UNSORTED = 0.006
WRONG_CLIP = 0.003

TWO_FAULTS = 0.4  # how much rarer two faults are together than if each knew nothing of the other

# Programs whose healthy boxes lie ... and the shares of boxes that are inside, overhang, and are centred outside.
PLACEMENTS = (
    (0.77, 0.985, 0.012, 0.003),  # within the image
    (0.18, 0.60, 0.385, 0.015),  # with context around, or cut into tiles
    (0.03, 0.70, 0.15, 0.15),  # strays
    (0.02, 0.35, 0.30, 0.35),  # anchors, before they are clipped
)
REGULAR = (1.0, 0.4, 0.35, 0.25)  # ... of boxes of a few sizes
PLACED_BOXES = 10  # more boxes of one program are no further evidence: what moves one moves its neighbours
VISIBLE = 0.6  # of a side: less is not overhanging but beyond
OVERHANG = 0.03  # of the content: what is reached beyond by less is inside
FAR = 3.0  # log-likelihood lost for each size of the image that a box is centred beyond it ...
NOT_FAR = 0.3  # ... by more than this
MOST_LOST_FAR = 8.0

INVERTED = ((0.985, 0.0), (0.012, 0.03), (0.003, 0.3))  # programs, and the share of inverted boxes in them

EMPTY = ((0.97, 0.0), (0.03, 0.1))

CROWDING = 0.4  # of the log-likelihood counts: things stand together
CROWDED_BOXES = 4  # more boxes of one program are no further evidence of its scale
MOST_CROWDED = (4.0, 2.0)  # log-likelihood lost at most, and for each of these boxes
RELATIVE_SIZE, SIZE_SPREAD = 0.16, 1.1  # of boxes, the root of their area, and the scale of its logarithm
LEAST_CELLS, LEAST_PX, BELOW = 0.5, 4.0, 1.5  # median longer side, and log-likelihood lost for each halving below

PADDED_PX = 48.0  # that an image may be smaller than its tensor, to make a side divisible
CLIPPED_ELSEWHERE = 0.1  # several boxes end at one number that is no border of the image
TOUCHING = (1.2, 4.0)  # gained for each doubling of the sides that lie exactly on the border, and at most
WHOLE_NUMBERS = 1.2  # lost where whole numbers would not have survived the resize that was seen
DETECTED = 7.0  # gained by the frame that the very boxes were seen in
WITNESS = 0.85  # of what a picture says counts: its edges are alike where boxes are moved along them
DRAWN = 0.5  # programs whose boxes are drawn around things, so that the picture tells
MOST_BELIEVED = 4.0  # of earlier calls of the same line

RATIOS = tuple(round(0.2 * 25 ** (step / 22), 4) for step in range(23))
