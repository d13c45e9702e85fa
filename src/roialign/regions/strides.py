"""The stride of a feature map from its size and the image's. TorchScript takes these functions, too."""

import math
from typing import List, Tuple  # noqa: UP035  TorchScript knows these names


def infer_stride_yx(image_hw: Tuple[int, int], map_hw: Tuple[int, int]) -> Tuple[float, float]:  # noqa: UP006
    """The strides of a map of this size, of a batch whose largest image has that size before padding.

    A stride fits an axis where the cells cover the image and, beyond it, no more than what padding to multiples of
    32 adds. torchvision's power of two is taken if it fits one axis and covers the other, as on a fixed canvas;
    then a whole number that fits both axes; then for each axis what fits it.

    Powers and whole numbers are found by comparing sizes: compiled code is then for all sizes of these strides.
    """
    (image_h, image_w), (cells_h, cells_w) = image_hw, map_hw
    power = power_of_two(image_h, cells_h)
    fits = _fits(power, image_h, cells_h) or _fits(power, image_w, cells_w)
    if fits and _covers(power, image_h, cells_h) and _covers(power, image_w, cells_w):
        return power, power
    for whole in (_whole(image_h, cells_h), _whole(image_w, cells_w)):
        if _fits(whole, image_h, cells_h) and _fits(whole, image_w, cells_w):
            return whole, whole
    return _stride_of_axis(image_h, cells_h), _stride_of_axis(image_w, cells_w)


def power_of_two(image: int, cells: int) -> float:
    """The one whose logarithm is nearest to that of image / cells."""
    power, root = 1.0, math.sqrt(2.0)
    while image > cells * power * root:
        power *= 2.0
    while image < cells * power / root:
        power /= 2.0
    return power


def ascending(numbers: List[float]) -> List[int]:  # noqa: UP006
    """Their indices in order, by comparisons alone: a compiler may not know the numbers, and sorts none of them."""
    order: List[int] = []  # noqa: UP006
    for index, number in enumerate(numbers):
        place = 0
        for lower in order:
            if numbers[lower] <= number:
                place += 1
        order.insert(place, index)
    return order


def _stride_of_axis(image: int, cells: int) -> float:
    for stride in (power_of_two(image, cells), _whole(image, cells)):
        if _fits(stride, image, cells):
            return stride
    return image / cells


def _whole(image: int, cells: int) -> float:
    """The whole number of at least 1 that is nearest to image / cells; of two the even one."""
    whole = max(1, int(power_of_two(image, cells)))
    while _is_nearer(whole + 1, whole, image, cells):
        whole += 1
    while whole > 1 and _is_nearer(whole - 1, whole, image, cells):
        whole -= 1
    return float(whole)


def _is_nearer(one: int, other: int, image: int, cells: int) -> bool:
    """Whether image / cells is nearer to the first of two neighbouring whole numbers; in the middle to the even one."""
    middle = (one + other) * cells
    return (2 * image - middle) * (one - other) > 0 or (2 * image == middle and one % 2 == 0)


def _covers(stride: float, image: int, cells: int) -> bool:
    return cells * stride - image > -stride  # cells that would be cut are dropped by some networks


def _fits(stride: float, image: int, cells: int) -> bool:
    padding = 32  # torchvision's transform pads batches to multiples of it
    return _covers(stride, image, cells) and cells * stride - image < padding + stride
