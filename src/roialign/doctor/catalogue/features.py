"""RA3xx: features."""

from __future__ import annotations

from roialign.doctor.catalogue.entry import AT_16, ONE_BOX, STRIDE_16, Entry

ENTRIES = (
    Entry(
        "RA301",
        "the feature map itself is zero there",
        "warning",
        "The RoIs are on the map, but every channel of every cell that they read is zero. The boxes are fine. The "
        "cause is a dead ReLU, weights that were not loaded, an input that was not normalized, or memory that was "
        "never written.",
        "Look at the map before pooling: features.abs().amax(dim=(0, 2, 3)).",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(torch.zeros(1, 8, 64, 64), boxes, 7, spatial_scale=1 / 16)",
        AT_16,
    ),
    Entry(
        "RA302",
        "NaN or infinite features",
        "error",
        "The feature map has values that are not finite, and RoIs that read one become NaN or infinite.",
        "Find the layer that made them. In float16 it is often an overflow.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features / 0, boxes, 7, spatial_scale=1 / 16)",
        AT_16,
    ),
    Entry(
        "RA303",
        "channels last, read as channels first",
        "error",
        "The features are [N, H, W, C], as in Swin transformers and TensorFlow. Read as [N, C, H, W], rows of the map "
        "are taken for channels and channels for columns, and every number comes from another place.",
        "Put the channels first: features.permute(0, 3, 1, 2).",
        "features = torch.rand(1, 40, 64, 256)  # of an image 640 high, 1024 wide: stride 16\n"
        f"{ONE_BOX}\nimage_size = (640, 1024)",
        AT_16,
        "roi_align(features.permute(0, 3, 1, 2), boxes, 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA304",
        "height and width of the map swapped",
        "error",
        "The map is [N, C, W, H]: transposed on the way, or made from tokens with the sizes in the wrong order. x of "
        "a box is then read down the image and y across it.",
        "Swap them back: features.transpose(2, 3). For tokens, pass the height before the width to reshape or "
        "unflatten.",
        "features = torch.rand(1, 8, 64, 40)  # of an image 640 high, 1024 wide: stride 16\n"
        "boxes = [torch.tensor([[700.0, 100.0, 900.0, 200.0]])]\nimage_size = (640, 1024)",
        AT_16,
        "roi_align(features.transpose(2, 3), boxes, 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA305",
        "an output that is not the expected map",
        "error",
        "A transformer's tokens were not turned into a grid: they are in one row, the class token is among them, "
        "register tokens were taken for patches, tokens were reshaped without transposing them with the channels, or "
        "they belong to another image size than the backbone was traced with. Read as a map, cells come from other "
        "places.",
        "Drop the class token and the register tokens, then tokens.transpose(1, 2).unflatten(2, (H, W)). "
        "roialign.trace(backbone, image_size=(H, W)) does it for you, at the size of the images.",
        "tokens = torch.rand(1, 1 + 24 * 32, 8)  # a class token and 24 x 32 patches of a 384 x 512 image\n"
        f"{ONE_BOX}\nimage_size = (384, 512)",
        "roi_align(tokens.transpose(1, 2)[:, :, None], boxes, 7, spatial_scale=1 / 16)",
        "roi_align(tokens[:, 1:].transpose(1, 2).unflatten(2, (24, 32)), boxes, 7, spatial_scale=1 / 16)",
    ),
    Entry(
        "RA306",
        "not a feature map [N, C, H, W]",
        "error",
        "The features need four axes, batch first, and at least one row and one column. Three axes are an image "
        "without a batch axis, or the tokens of a transformer.",
        "Use features[None], or tokens.transpose(1, 2).unflatten(2, (H, W)) after dropping the class token.",
        f"{STRIDE_16}\n{ONE_BOX}",
        "roi_align(features[0], boxes, 7, spatial_scale=1 / 16)",
        AT_16,
    ),
    Entry(
        "RA307",
        "not images",
        "error",
        "An image is a tensor [C, H, W], an array [H, W, C] or a PIL image, of uint8 or floats. Images of one call "
        "have the same number of channels, and measuring on images needs several of them.",
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
        "The module does not run on an image of this size, or returns no map of the image, only a classifier's scores "
        "or pooled features.",
        "Pass the part of the model that ends with feature maps, and a size that it takes.",
        "backbone = torch.nn.Conv2d(3, 8, 3)",
        "trace(torch.nn.Sequential(backbone, torch.nn.Linear(7, 7)), image_size=(64, 64))",
        "trace(backbone, image_size=(64, 64))",
        raised=True,
    ),
    Entry(
        "RA309",
        "masks that do not match the boxes",
        "error",
        "Masks are one tensor [K, h, w], or [K, 1, h, w], with one mask per box, bool or floating point. In an "
        "extraction within outlines: no part of the box lies within its outline.",
        "Select the mask of each box before the call; Mask R-CNN predicts one per class.",
        f"{STRIDE_16}\n{ONE_BOX}\nmasks = torch.ones(2, 1024, 1024, dtype=torch.bool)",
        "masked_roi_align(features, boxes, masks, 7, spatial_scale=1 / 16)",
        "masked_roi_align(features, boxes, masks[:1], 7, spatial_scale=1 / 16)",
        raised=True,
    ),
    Entry(
        "RA310",
        "features that were pooled already",
        "error",
        "The features are the output of an earlier RoI call: one small map [C, h, w] per box, where one per image was "
        "expected. Boxes of an image read the pooled features of the box at that image's batch index.",
        "Pool from the backbone's map. To pool within RoIs, pass one list of boxes per RoI, in cells of its bins.",
        f"{STRIDE_16}\nboxes = [torch.tensor([[20.0, 20.0, 100.0, 100.0], [64.0, 40.0, 160.0, 200.0]])]",
        "roi_align(roi_align(features, boxes, 14, spatial_scale=1 / 16), boxes, 7, spatial_scale=1 / 16)",
        AT_16,
        watched=True,
    ),
    Entry(
        "RA311",
        "the features of the backbone are not in the order of the image",
        "error",
        "A cell of the map has the contents of another: the module's windows were not put back in place, its rows are "
        "permuted, its halves swapped. No spatial_scale is right for such a map, and every box reads features from "
        "other places. roialign.trace refuses the map and says which cell is where.",
        "Put the cells in order with the line of the finding, or with `scrambled` of the trace or its error: "
        "scrambled[name].in_order(features). It is a bug in the backbone: report it.",
        "class Exchanged(torch.nn.Conv2d):\n"
        "    def forward(self, image):\n"
        "        return super().forward(image).roll(2, dims=3)  # its halves\n\n"
        "backbone = Exchanged(3, 8, 16, stride=16)\n"
        "boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]])]",
        "roi_align(backbone(torch.rand(1, 3, 64, 64)), boxes, 7, spatial_scale=1 / 16)",
        "roi_align(backbone(torch.rand(1, 3, 64, 64)).roll(2, dims=3), boxes, 7, spatial_scale=1 / 16)",
        watched=True,
    ),
    Entry(
        "RA312",
        "features that depend on what else is in the batch",
        "warning",
        "Images of several sizes were padded to the largest of them. Convolutions carry the padding's values into the "
        "cells near it, so boxes there get other features in another batch, and not those of the image alone. With "
        "attention or squeeze-and-excitation all boxes do. Detection models were trained this way and cope with it. "
        "In a search by features a box may not find itself again. The doctor reports padded batches in which at least "
        "a quarter of the boxes is affected, outside of training and of torchvision's detectors.",
        'Run images of one size together and others apart: RegionExtractor(backbone), without batch="pad". Or use '
        "only boxes whose padding_distance is at least 0.5 receptive fields.",
        "backbone = torch.nn.Conv2d(3, 8, 16, stride=8, padding=4)\n"
        "images = [torch.rand(3, 64, 64), torch.rand(3, 160, 160)]\n"
        "boxes = [torch.tensor([[20.0, 20.0, 62.0, 60.0]])] * 2",
        'RegionExtractor(backbone, batch="pad")(images, boxes)',
        "RegionExtractor(backbone)(images, boxes)",
        watched=True,
    ),
)
