"""RA2xx: boxes."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import AT_16, NON_SQUARE, ONE_BOX, STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA201",
        "x, y, width, height read as two corners",
        "error",
        "The boxes are in COCO's format: a corner and a size. Read as two corners, a box ends at its own width and "
        "height, often before it begins.",
        "Convert: x2 = x + width, y2 = y + height.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 100.0, 100.0], [64.0, 640.0, 96.0, 160.0]])]",
        AT_16,
        "roi_align(features, [torch.cat([boxes[0][:, :2], boxes[0][:, :2] + boxes[0][:, 2:]], 1)], 7, "
        "spatial_scale=1 / 16)",
    ),
    Entry(
        "RA202",
        "centre x, centre y, width, height read as two corners",
        "error",
        "The boxes are in the format of YOLO and DETR: a centre and a size. Read as two corners, a box begins at its "
        "own centre and ends at its width and height, often before it begins.",
        "Convert: x1 = cx - width / 2, x2 = cx + width / 2, and the same for y.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[960.0, 300.0, 120.0, 100.0], [640.0, 900.0, 100.0, 240.0]])]",
        AT_16,
        "roi_align(features, [torch.cat([boxes[0][:, :2] - boxes[0][:, 2:] / 2, boxes[0][:, :2] + boxes[0][:, 2:] / 2]"
        ", 1)], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA203",
        "y first: y1, x1, y2, x2 read as x1, y1, x2, y2",
        "error",
        "The boxes have rows before columns, as in TensorFlow and NumPy code. On a non-square image some of them are "
        "then beyond its shorter side. On a square one only the picture reveals the mistake.",
        "Swap the columns: boxes[:, [1, 0, 3, 2]].",
        f"{NON_SQUARE}\nboxes = [torch.tensor([[100.0, 700.0, 200.0, 900.0], [300.0, 40.0, 600.0, 400.0]])]",
        AT_16,
        "roi_align(features, [boxes[0][:, [1, 0, 3, 2]]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA204",
        "empty or inverted boxes",
        "warning",
        "A box with x2 <= x1 or y2 <= y1 has no area. roi_align follows torchvision: with aligned=False it pools one "
        "cell at the first corner, with aligned=True a point, a flipped region or zeros.",
        "Find out what the numbers are before reordering them. x2 < x1 in every box means swapped columns. y2 < y1 in "
        "every box means that y is measured from the bottom (PDF, maps, mathematics), and sorted corners would then "
        "silently be in the wrong place. Boxes without an object may stay if you mask what is pooled for them. Boxes "
        "of four zeros are taken for such and not reported beside others.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]] * 3 + [[500.0, 500.0, 500.0, 600.0]])]",
        AT_16,
        "roi_align(features, [boxes[0][:3]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA205",
        "coordinates that are NaN, infinite or astronomically large",
        "error",
        "Such a box has no samples to read. torchvision returns zeros for it or crashes, depending on sampling_ratio. "
        "Finite boxes are refused, too, where adaptive sampling would take more than 2 ** 24 samples along one axis "
        "of a bin.",
        "Find what made them: a division by zero, an exploding regression, uninitialised memory, a missing object. "
        "Where rows have to stay, give them numbers, boxes.nan_to_num(), and mask what is pooled for them.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0], [float('nan'), 0.0, 9.0, 9.0]])]",
        AT_16,
        "roi_align(features, [boxes[0][:1]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA206",
        "batch index out of range or not whole",
        "error",
        "Column 0 of boxes [K, 5] is the position of the image in the batch, counted from 0. torchvision does not "
        "check it and reads out of bounds.",
        "Number the images from 0, or pass a list with one tensor of boxes per image.",
        f"{STRIDE_16}\nboxes = torch.tensor([[1.0, 300.0, 300.0, 400.0, 400.0]])",
        AT_16,
        "roi_align(features, [boxes[:, 1:]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA207",
        "batch index missing or in the wrong column",
        "error",
        "A tensor of boxes needs five columns, the first of which is the batch index. Four columns are boxes without "
        "one. With an index, or a score, in the last column, x1 is taken for the batch index.",
        "Pass boxes of one image as a list, [boxes], or put the index first.",
        f"{STRIDE_16}\nboxes = torch.tensor([[300.0, 300.0, 400.0, 400.0]])",
        AT_16,
        "roi_align(features, [boxes], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA208",
        "more lists of boxes than images",
        "error",
        "In a list the position is the batch index, so a list longer than the batch refers to images that do not "
        "exist. torchvision reads out of bounds there.",
        "Pass one tensor per image, and torch.empty(0, 4) for an image without boxes.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]])]",
        AT_16,
        "roi_align(features, [torch.cat(boxes)], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA209",
        "boxes outside the image, in any frame",
        "error",
        "These boxes are mostly or wholly beyond the image, and none of the scales, orders and formats of coordinates "
        "that were tried puts them on the map. Samples off the map are zeros.",
        "Find out where they come from before you clip or drop any: that some fit proves nothing. Where the rows have "
        "to stay, mask what is pooled for them.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]] * 9 + [[-90.0, -90.0, -50.0, -50.0]])]",
        AT_16,
        "roi_align(features, [boxes[0][:9]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA210",
        "boxes that are not rows of coordinates",
        "error",
        "Boxes are a tensor [K, 5] or a list or tuple of tensors [L, 4], one per image. NumPy arrays, nested lists "
        "and other shapes are not accepted.",
        "Use torch.from_numpy(boxes), boxes.reshape(-1, 5), or [boxes].",
        f"{STRIDE_16}\nboxes = torch.tensor([0.0, 300.0, 300.0, 400.0, 400.0])",
        AT_16,
        "roi_align(features, boxes[None], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA211",
        "corners converted to corners once too often",
        "error",
        "The boxes were corners already, x1, y1, x2, y2. They were taken for x, y, width, height, and x1 and y1 were "
        "added to x2 and y2 once more. Boxes are larger the further they are from the top left.",
        "Remove the conversion. For boxes that went through it, subtract x1 and y1 from the last two columns.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[600.0, 100.0, 1240.0, 240.0], [500.0, 700.0, 1080.0, 1480.0]])]",
        AT_16,
        "roi_align(features, [torch.cat([boxes[0][:, :2], boxes[0][:, 2:] - boxes[0][:, :2]], 1)], 7, "
        "spatial_scale=1 / 16)",
    ),
    Entry(
        "RA212",
        "coordinates measured from the other edge",
        "error",
        "y is measured from the bottom, as in PDF files, hOCR, maps and mathematics, or x from the right, so the "
        "boxes are upside down or mirrored. Or the image was flipped and the boxes were not. The numbers fit the "
        "image, but the features come from another place.",
        "Subtract y from the height (x from the width), and swap y1 and y2 (x1 and x2) so that y1 < y2.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[100.0, 900.0, 300.0, 800.0], [400.0, 500.0, 800.0, 250.0]])]",
        AT_16,
        "roi_align(features, [boxes[0] * torch.tensor([1, -1, 1, -1]) + torch.tensor([0, 1024, 0, 1024])], 7, "
        "spatial_scale=1 / 16)",
    ),
    Entry(
        "RA213",
        "boxes clipped to the wrong side of the image",
        "error",
        "Along the longer side of the image several boxes end at exactly the length of the shorter one: x was clipped "
        "to the height, or y to the width. What was cut off cannot be recovered.",
        "Clip x to the width and y to the height: boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height).",
        "features = torch.rand(1, 8, 60, 30)  # of an image 960 high, 480 wide: stride 16\n"
        "boxes = [torch.tensor([[30.0, 40.0, 130.0, 300.0], [200.0, 300.0, 400.0, 480.0], [50.0, 480.0, 90.0, 480.0], "
        "[300.0, 480.0, 460.0, 480.0], [20.0, 480.0, 160.0, 480.0], [250.0, 390.0, 340.0, 480.0]])]",
        AT_16,
        "roi_align(features, [torch.tensor([[30.0, 40.0, 130.0, 300.0], [200.0, 300.0, 400.0, 620.0], "
        "[50.0, 610.0, 90.0, 800.0], [300.0, 500.0, 460.0, 760.0], [20.0, 700.0, 160.0, 900.0], "
        "[250.0, 390.0, 340.0, 540.0]])], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA214",
        "rotated boxes passed to an operator for upright ones",
        "error",
        "The five columns are centre x, centre y, width, height and an angle, as detectors of rotated objects return "
        "them. An operator for upright boxes takes the first for the batch index and the angle for y2. Setting the "
        "first column to zero only silences it: the box is then centre y, width, height, angle.",
        "Call roi_align_rotated, which takes a list with one tensor [L, 5] per image, or rows [K, 6] with the batch "
        "index first. Its angle is in degrees, counter-clockwise.",
        f"{STRIDE_16}\nboxes = torch.tensor([[300.0, 400.0, 200.0, 80.0, 0.52], [640.5, 500.0, 90.0, 60.0, -1.31]])",
        AT_16,
        "roi_align_rotated(features, [torch.cat([boxes[:, :4], boxes[:, 4:].rad2deg()], 1)], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA215",
        "fewer lists of boxes than images",
        "warning",
        "In a list the position is the batch index, so no box is pooled from the last images of this batch. This may "
        "be intended. Often one list was made for the whole batch, and all boxes are read from its first image.",
        "Pass one tensor per image, and torch.empty(0, 4) for an image without boxes.",
        f"features = torch.rand(2, 8, 64, 64)  # of two 1024 x 1024 images: stride 16\n{ONE_BOX}",
        AT_16,
        "roi_align(features, [boxes[0], torch.empty(0, 4)], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA216",
        "boxes off by half their size",
        "error",
        "When corners were computed, the corner of each box was taken for its centre, or its centre for its corner: "
        "all are off by half their width and half their height. The features look fine but come from another place.",
        "Convert once, from what the numbers are: centre - size / 2 and centre + size / 2, or corner, corner + size.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[-90.0, -150.0, 110.0, 150.0], [-100.0, 140.0, 100.0, 460.0], "
        "[250.0, -140.0, 550.0, 140.0], [-80.0, -60.0, 80.0, 60.0], [724.0, 350.0, 924.0, 650.0]])]",
        AT_16,
        "roi_align(features, [boxes[0] + (boxes[0][:, 2:] - boxes[0][:, :2]).repeat(1, 2) / 2], 7, "
        "spatial_scale=1 / 16)",
    ),
    Entry(
        "RA217",
        "the four numbers in another order",
        "error",
        "Both x come first and then both y (x1, x2, y1, y2), as in array slices, or edges go around: top, right, "
        "bottom, left, as in CSS and face_recognition. The operator takes x1, y1, x2, y2.",
        "Reorder the columns: boxes[:, [0, 2, 1, 3]], or boxes[:, [3, 0, 1, 2]] for top, right, bottom, left.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[100.0, 300.0, 600.0, 900.0], [500.0, 640.0, 80.0, 200.0], "
        "[700.0, 900.0, 300.0, 420.0]])]",
        AT_16,
        "roi_align(features, [boxes[0][:, [0, 2, 1, 3]]], 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA218",
        "boxes and pixels rotated differently (EXIF orientation)",
        "error",
        "Cameras store a picture as the sensor was held and say in EXIF how to turn it. Viewers, annotation tools and "
        "OpenCV turn it. PIL, torchvision's decode_image and what is built on them do so only if asked. The boxes "
        "belong to one picture and the features to the other: rotated by 90 degrees, by 180, or mirrored. This is "
        "found if PIL was seen opening the file. It is also reported for boxes of the upright picture where the "
        "network saw the stored one.",
        "Make every picture upright when loading it: image = PIL.ImageOps.exif_transpose(image). Convert boxes of the "
        "stored picture with stored.map_to(stored.exif_transpose(orientation)).boxes(boxes), stored = "
        "Frame.image(...). RegionExtractor reads files and PIL images upright.",
        "import io\nfrom PIL import Image, ImageOps\nfile, exif = io.BytesIO(), Image.Exif()\n"
        "exif[0x0112] = 6  # to be turned by 90 degrees, clockwise\n"
        'Image.effect_noise((640, 320), 60).convert("RGB").save(file, "jpeg", exif=exif)\n'
        "photo = ImageOps.exif_transpose(Image.open(file))\n"
        "pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(1, 640, 320, 3)\n"
        "features = torch.nn.Conv2d(3, 8, 16, stride=16)(pixels.permute(0, 3, 1, 2) / 255)\n"
        "boxes = [torch.tensor([[20.0, 30.0, 220.0, 300.0], [190.0, 40.0, 420.0, 200.0], [240.0, 5.0, 380.0, 90.0]])]",
        AT_16,
        "upright = [torch.stack([320 - b[:, 3], b[:, 0], 320 - b[:, 1], b[:, 2]], 1) for b in boxes]\n"
        "roi_align(features, upright, 7, spatial_scale=1 / 16)",
        watched=True,
    ),
)
