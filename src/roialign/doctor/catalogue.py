"""The RA codes: what each means, an example, and the fix.

`roialign explain`, the reports and the page of codes in the docs are made from this table. A code, once
published, keeps its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_STRIDE_16 = "features = torch.rand(1, 8, 64, 64)  # of a 1024 x 1024 image: stride 16"
_OBLONG = "features = torch.rand(1, 8, 40, 64)  # of an image 640 high, 1024 wide: stride 16"
_PHOTO = "photo = Frame.image((480, 640))"
_ONE_BOX = "boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]"
_AT_16 = "roi_align(features, boxes, 7, spatial_scale=1 / 16)"


@dataclass(frozen=True)
class Entry:
    """One code of the catalogue; `setup`, then `wrong` or `right`, is a program that runs.

    `raised` codes come as errors only, from frames, boxes, grids and levels; a call of `roi_align` cannot have them.
    """

    code: str
    title: str
    severity: Literal["error", "warning"]
    meaning: str
    fix: str
    setup: str
    wrong: str
    right: str
    raised: bool = False

    @property
    def example(self) -> str:
        """The faulty call and the right one, as a program."""
        return f"{self.setup}\n{self.wrong}  # {self.code}\n{self.right}  # right"


_ENTRIES = (
    Entry(
        "RA101",
        "boxes in image pixels, spatial_scale left at 1",
        "error",
        "The boxes are in pixels of the image, but the feature map has only one cell for every stride x stride "
        "pixels. With spatial_scale=1.0 pixel 300 is read at cell 300 of a map that may have only 64 of them. Off the "
        "map every sample is zero, and so is the RoI.",
        "Pass spatial_scale=1 / stride, where stride is the product of the strides of all down-sampling layers "
        "between the image and this map; or divide the boxes by it.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features, boxes, 7)",
        _AT_16,
    ),
    Entry(
        "RA102",
        "boxes scaled twice",
        "error",
        "The boxes were already divided by the stride, and spatial_scale divides them again. All RoIs then read the "
        "first few cells of the map, at its top left; the numbers look fine and belong to another place.",
        "Scale once: either divide the boxes and leave spatial_scale at 1.0, or keep them in pixels and pass "
        "spatial_scale=1 / stride.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [64.0, 640.0, 160.0, 800.0]]) / 16]",
        _AT_16,
        "roi_align(features, boxes, 7, spatial_scale=1.0)",
    ),
    Entry(
        "RA103",
        "normalised boxes, between 0 and 1",
        "error",
        "The boxes are fractions of the image's width and height, as many models return them. Read as pixels they "
        "all lie within the first pixel, so every RoI reads the same corner of the map.",
        "Multiply x by the image's width and y by its height.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.1, 0.6, 0.2, 0.9]])]",
        _AT_16,
        "roi_align(features, [boxes[0] * 1024], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA104",
        "the stride passed where its inverse belongs",
        "error",
        "spatial_scale multiplies the boxes. Passed the stride, 16, it sends pixel 300 to cell 4800, far off the map; "
        "what belongs there is 1 / 16.",
        "Pass spatial_scale=1 / stride.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features, boxes, 7, spatial_scale=16.0)",
        _AT_16,
    ),
    Entry(
        "RA105",
        "spatial_scale is zero, negative or not finite",
        "error",
        "No such scale takes boxes to a map. Zero usually comes from an integer division (1 // 16), NaN from sizes "
        "that were not known yet.",
        "Pass spatial_scale=1 / stride, with a true division.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features, boxes, 7, spatial_scale=1 // 16)",
        _AT_16,
    ),
    Entry(
        "RA106",
        "wrong stride for this feature map",
        "error",
        "spatial_scale is the inverse of another stride than the map has: the nominal stride of a dilated backbone, "
        "16 for a transformer with patches of 14, the stride of another level. The RoIs drift the further from the "
        "top left they lie.",
        "Take the stride from the backbone, not from habit: image size / map size, before rounding. "
        "roialign.diagnose(..., image_size=(H, W)) computes it.",
        "features = torch.rand(1, 8, 37, 37)  # of a 518 x 518 image: patches of 14\n"
        "boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [14.0, 28.0, 500.0, 140.0]])]\n"
        "image_size = (518, 518)",
        "roi_align(features, boxes, 7, spatial_scale=1 / 16)",
        "roi_align(features, boxes, 7, spatial_scale=1 / 14)",
    ),
    Entry(
        "RA107",
        "boxes in another image frame",
        "error",
        "The boxes are in pixels of the photograph, but the backbone saw a resized, cropped or padded copy. "
        "spatial_scale is right for that copy only.",
        "Do to the boxes what was done to the image: multiply by new size / old size, add the padding, subtract the "
        "corner of the crop.",
        "features = torch.rand(1, 8, 25, 25)  # of a 400 x 400 copy of a 1600 x 1600 photograph\n"
        "boxes = [torch.tensor([[1200.0, 1100.0, 1500.0, 1300.0], [800.0, 900.0, 1000.0, 1200.0]])]\n"
        "image_size = (400, 400)",
        _AT_16,
        "roi_align(features, [boxes[0] * 400 / 1600], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA109",
        "coordinates lost in half precision",
        "error",
        "float16 has 11 significant bits and bfloat16 8, so whole pixels are skipped beyond 2048 and 256. Boxes in "
        "them are moved by up to several pixels, each by another amount.",
        "Keep boxes in float32 from the beginning, also beside half features: Boxes(values, frame).",
        f"{_PHOTO}\nvalues = torch.tensor([[300.0, 301.0, 401.0, 399.0]])",
        "Boxes(values.bfloat16(), photo)",
        "Boxes(values, photo)",
        raised=True,
    ),
    Entry(
        "RA110",
        "height and width need different scales",
        "error",
        "The map is coarser along one axis than along the other, as after a resize that does not keep the aspect "
        "ratio. A single spatial_scale fits one axis and shifts the other.",
        "Divide the boxes by the stride of each axis yourself and leave spatial_scale at 1.0.",
        "features = torch.rand(1, 8, 16, 8)  # of a 256 x 512 image: strides 16 and 64\n"
        "boxes = [torch.tensor([[10.0, 20.0, 400.0, 200.0]])]\nimage_size = (256, 512)",
        _AT_16,
        "roi_align(features, [boxes[0] / torch.tensor([64.0, 16.0, 64.0, 16.0])], 7, spatial_scale=1.0)",
    ),
    Entry(
        "RA111",
        "an offset that is not known",
        "error",
        "A grid always knows its conventional offset, the structural one if it was traced, the calibrated one if it "
        "was measured on images. This one was asked for an offset that it has not got.",
        "Take the grid from roialign.trace(backbone, image_size), or from roialign.calibrate(backbone, images).",
        "grid = FeatureGrid(size_hw=(50, 84), stride_yx=(16.0, 16.0))",
        'grid.with_offset("structural")',
        'grid.with_offset("convention")',
        raised=True,
    ),
    Entry(
        "RA201",
        "x, y, width, height read as two corners",
        "error",
        "The boxes are in COCO's format: a corner and a size. Read as two corners, a box ends at its own width and "
        "height, often before it begins.",
        "Convert: x2 = x + width, y2 = y + height.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 100.0, 100.0], [64.0, 640.0, 96.0, 160.0]])]",
        _AT_16,
        "roi_align(features, [torch.cat([boxes[0][:, :2], boxes[0][:, :2] + boxes[0][:, 2:]], 1)], 7, "
        "spatial_scale=1 / 16)",
    ),
    Entry(
        "RA203",
        "y first: y1, x1, y2, x2 read as x1, y1, x2, y2",
        "error",
        "The boxes hold rows before columns, as TensorFlow and NumPy code does. On an oblong image some of them then "
        "lie beyond its shorter side; on a square one nothing gives the mistake away but the picture.",
        "Swap the columns: boxes[:, [1, 0, 3, 2]].",
        f"{_OBLONG}\nboxes = [torch.tensor([[100.0, 700.0, 200.0, 900.0], [300.0, 40.0, 600.0, 400.0]])]",
        _AT_16,
        "roi_align(features, [boxes[0][:, [1, 0, 3, 2]]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA204",
        "boxes that are empty or end before they begin",
        "warning",
        "A box with x2 <= x1 or y2 <= y1 has no area. roi_align follows torchvision: with aligned=False it pools one "
        "cell at the first corner, with aligned=True a point, a flipped region or zeros.",
        "Put the corners in order, or drop boxes without an area before pooling.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]] * 3 + [[500.0, 500.0, 500.0, 600.0]])]",
        _AT_16,
        "roi_align(features, [boxes[0][:3]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA205",
        "coordinates that are NaN, infinite or astronomically large",
        "error",
        "Such a box has no samples that could be read. torchvision returns zeros for it or crashes, depending on "
        "sampling_ratio. Finite boxes are refused too where adaptive sampling would take more than 2 ** 24 samples "
        "along one axis of a bin.",
        "Find what made them: a division by zero, an exploding regression, uninitialised memory. Or drop them: "
        "boxes[boxes.isfinite().all(dim=1)].",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [float('nan'), 0.0, 9.0, 9.0]])]",
        _AT_16,
        "roi_align(features, [boxes[0][:1]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA206",
        "image index out of range or not whole",
        "error",
        "Column 0 of boxes [K, 5] is the position of the image in the batch, counted from 0. torchvision does not "
        "look at it and reads foreign memory.",
        "Number the images from 0, or pass a list with one tensor of boxes for each image.",
        f"{_STRIDE_16}\nboxes = torch.tensor([[1.0, 300.0, 300.0, 400.0, 400.0]])",
        _AT_16,
        "roi_align(features, [boxes[:, 1:]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA207",
        "image index missing or in the wrong column",
        "error",
        "A tensor of boxes needs five columns, the first of which is the image's index. Four columns are boxes "
        "without one; an index in the last column makes x1 the image.",
        "Pass boxes of one image as a list, [boxes], or put the index first.",
        f"{_STRIDE_16}\nboxes = torch.tensor([[300.0, 300.0, 400.0, 400.0]])",
        _AT_16,
        "roi_align(features, [boxes], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA208",
        "more lists of boxes than images",
        "error",
        "In a list the position is the image's index, so a list longer than the batch names images that do not "
        "exist. torchvision reads foreign memory there.",
        "Pass one tensor for each image; torch.empty(0, 4) for an image without boxes.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]])]",
        _AT_16,
        "roi_align(features, [torch.cat(boxes)], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA209",
        "boxes outside the image, in any frame",
        "error",
        "These boxes lie mostly or wholly beyond the image, and no scale, order or format of coordinates would put "
        "them on the map. What lies off the map is pooled as zeros.",
        "Clip boxes to the image and drop those that are left without an area; find out where they come from.",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]] * 9 + [[-90.0, -90.0, -50.0, -50.0]])]",
        _AT_16,
        "roi_align(features, [boxes[0][:9]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA210",
        "boxes that are not rows of coordinates",
        "error",
        "Boxes are a tensor [K, 5] or a list or tuple of tensors [L, 4], one for each image; not NumPy arrays, nested "
        "lists or other shapes.",
        "Use torch.from_numpy(boxes), boxes.reshape(-1, 5), or [boxes].",
        f"{_STRIDE_16}\nboxes = torch.tensor([0.0, 300.0, 300.0, 400.0, 400.0])",
        _AT_16,
        "roi_align(features, boxes[None], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA301",
        "the feature map itself is zero there",
        "warning",
        "The RoIs lie on the map, but every channel of every cell that they read is zero. The boxes are not at fault: "
        "a dead ReLU, weights that were not loaded, an input that was not normalised, or memory never written.",
        "Look at the map before pooling: features.abs().amax(dim=(0, 2, 3)).",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(torch.zeros(1, 8, 64, 64), boxes, 7, spatial_scale=1 / 16)",
        _AT_16,
    ),
    Entry(
        "RA302",
        "NaN or infinite features",
        "error",
        "The feature map holds values that are not finite, and RoIs that read one become NaN or infinite.",
        "Find the layer that made them; in float16 it is often an overflow.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features / 0, boxes, 7, spatial_scale=1 / 16)",
        _AT_16,
    ),
    Entry(
        "RA305",
        "an output that is not the map that it was taken for",
        "error",
        "The backbone returned another shape than it was traced with: tokens of another image size, with or without "
        "the class token, channels last instead of first. Read as the old shape, cells would come from other places.",
        "Trace the backbone as it is called, at the size of the images: roialign.trace(backbone, image_size=(H, W)).",
        "backbone = torch.nn.Conv2d(3, 8, 16, stride=16)\ntraced = trace(backbone, image_size=(64, 96))\n"
        "features = backbone(torch.rand(1, 3, 64, 96))",
        "traced.as_maps(features.flatten(2))",
        "traced.as_maps(features)",
        raised=True,
    ),
    Entry(
        "RA306",
        "not a feature map [N, C, H, W]",
        "error",
        "The features need four axes, batch first, and at least one row and one column. Three axes are an image "
        "without a batch axis, or the tokens of a transformer.",
        "Use features[None], or tokens.transpose(1, 2).unflatten(2, (H, W)) once the class token is dropped.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features[0], boxes, 7, spatial_scale=1 / 16)",
        _AT_16,
    ),
    Entry(
        "RA307",
        "not images",
        "error",
        "An image is a tensor [C, H, W], an array [H, W, C] or a PIL image, of uint8 or floats; images of one call "
        "have one number of channels, and a measurement on images needs several of them.",
        'Convert it: torch.from_numpy(array).permute(2, 0, 1), image.convert("RGB").',
        "extractor = RegionExtractor(torch.nn.Conv2d(3, 8, 4, stride=4), fit=lambda photo: photo.resize((64, 64)))\n"
        "image = torch.rand(3, 40, 60)\nboxes = torch.tensor([[4.0, 4.0, 40.0, 30.0]])",
        'extractor("photo.jpg", boxes)',
        "extractor(image, boxes)",
        raised=True,
    ),
    Entry(
        "RA308",
        "a backbone that cannot be traced",
        "error",
        "The module does not run on an image of this size, or nothing that it returns is a map of the image: a "
        "classifier's scores, pooled features.",
        "Pass the part of the model that ends with feature maps, and a size that it takes.",
        "backbone = torch.nn.Conv2d(3, 8, 3)",
        "trace(torch.nn.Sequential(backbone, torch.nn.Linear(7, 7)), image_size=(64, 64))",
        "trace(backbone, image_size=(64, 64))",
        raised=True,
    ),
    Entry(
        "RA401",
        "a level that there is not",
        "error",
        "Boxes are pooled from the map of their level, and each map needs a grid. A level without a map, or a map "
        "without a grid, would leave zeros.",
        "Give a grid for each map, under the names that the backbone gives them, and levels from 0 to one below their "
        "number; FPNLevels() chooses only among those that there are.",
        "grids = [FeatureGrid((32, 32), (8.0, 8.0)), FeatureGrid((16, 16), (16.0, 16.0))]\n"
        "features = [torch.rand(1, 8, 32, 32), torch.rand(1, 8, 16, 16)]\n"
        "boxes = [torch.tensor([[30.0, 30.0, 90.0, 70.0]])]",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([2]))",
        "pool_regions(features, boxes, 7, grids, levels=torch.tensor([1]))",
        raised=True,
    ),
    Entry(
        "RA505",
        "types or devices that do not fit together",
        "error",
        "Boxes must be floating point, on the device of the features and in their type; float32 boxes also go with "
        "float16 and bfloat16 features, which would lose coordinates otherwise.",
        "Convert the boxes: boxes.to(features.device, torch.float32).",
        f"{_STRIDE_16}\nboxes = [torch.tensor([[300, 300, 400, 400]])]",
        _AT_16,
        "roi_align(features, [boxes[0].float()], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA506",
        "output_size or sampling_ratio cannot be used",
        "error",
        "output_size is a whole number of at least 1, or a pair (height, width) of them. sampling_ratio is a whole "
        "number of at most 128; 0 or less lets the size of the box decide.",
        "Pass output_size=7 and sampling_ratio=2, or -1.",
        f"{_STRIDE_16}\n{_ONE_BOX}",
        "roi_align(features, boxes, (7, 7, 7), spatial_scale=1 / 16)",
        _AT_16,
    ),
)

CATALOGUE = {entry.code: entry for entry in _ENTRIES}
