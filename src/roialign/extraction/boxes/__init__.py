"""Boxes of images, in any of the forms that annotations come in."""

from roialign.extraction.boxes.matching import Matching as Matching
from roialign.extraction.boxes.opening import Form as Form
from roialign.extraction.boxes.opening import OpenBoxes as OpenBoxes
from roialign.extraction.boxes.opening import open_boxes as open_boxes
