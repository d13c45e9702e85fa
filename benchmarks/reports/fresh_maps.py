"""Fresh reports, written after the doctor was last tuned: maps, levels, columns, and healthy programs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import roi_align

from .program import Program, fault, healthy, unseen
from .scenes import Tokens, coins, objects, photo, resized, resnet, seeded


@fault(
    "detectron2#2831",
    "where a map is not zero: the first and the last row and column of nonzero are taken for corners",
    "RA203",
    says=r"y first|y1, ?x1|\[2, ?1, ?4, ?3\]|2, ?1, ?4, ?3|\[1, ?0, ?3, ?2\]",
    right="boxes[:, [0, 2, 1, 4, 3]]: columns are x",
)
def rows_for_x() -> Program:
    model = nn.Identity()
    image = torch.zeros(1, 1, 117, 117)
    image[:, :, 53:89, 88:102] = 100

    def run(right: bool = False) -> Tensor:
        features = model(image)
        places = features.nonzero()[:, 2:]
        boxes = torch.cat([torch.zeros(1, dtype=torch.long), places.amin(0), places.amax(0)])[None].float()
        if right:
            boxes = boxes[:, [0, 2, 1, 4, 3]]
        return roi_align(features, boxes, 7, 1.0, 1)

    return Program(model, run)


@fault(
    "Bongard-HOI#10",
    "the encoder ends with an average over the whole map: boxes are pooled from a single cell",
    *("RA3", "RA106", "RA1(?!01)"),
    says=r"averag|1 ?x ?1\b|one cell|single cell|only cell|global|whole image",
    right="the map before the average",
)
def averaged_away() -> Program:
    model = nn.Sequential(resnet("layer4"), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def run(right: bool = False) -> Tensor:
        images = photo(256, 384, 2)
        features = model[0](images) if right else model(images)
        if features.dim() != 4:
            features = features[..., None, None]
        boxes = [objects(256, 384, 5, seed=seed) for seed in range(2)]
        return roi_align(features, boxes, 7, 1 / 32, aligned=True)

    return Program(model, run, comparable=False)


class _Encoder(nn.Module):
    """The encoder of a DETR; its projected map [N, C, H, W] is reshaped to tokens [N, cells, C] as it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet("layer4")
        self.projection = nn.Conv2d(512, 64, 1)
        self.encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)

    def forward(self, images: Tensor, right: bool = False) -> Tensor:
        projected = self.projection(self.body(images))
        cells = projected.flatten(2).transpose(1, 2) if right else projected.reshape(len(images), -1, 64)
        tokens: Tensor = self.encoder(cells)
        return tokens


@fault(
    "TensorRT-Model-Connect#1181",
    "a DETR's projected map is reshaped to tokens without a transpose, before its encoder",
    *("RA305", "RA3"),
    says="order|token|reshap|permut|transpos|flatten",
    right="flatten(2).transpose(1, 2)",
)
def tokens_of_mixed_cells() -> Program:
    model = seeded(_Encoder)
    image, drawn = coins(480, 640)

    def run(right: bool = False) -> Tensor:
        features = model(image, right).transpose(1, 2).reshape(1, 64, 15, 20)
        boxes = [drawn]
        return roi_align(features, boxes, 7, 1 / 32, aligned=True)

    return Program(model, run, comparable=False)


@fault(
    "nnDetection#142",
    "boxes of a volume are z, y, z, y, x, x and are read as x, y, x, y, z, z: slices are chosen by x",
    *("RA206", "RA207", "RA217"),
    right="slices by columns 0 and 2, boxes of columns [4, 1, 5, 3]",
)
def slices_chosen_by_x() -> Program:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 2, 2)))
    x1, y1, x2, y2 = objects(192, 192, 8, least=0.1, most=0.3).unbind(1)
    z1 = torch.arange(8.0) * 2
    found = torch.stack([z1, y1, z1 + 4, y2, x1, x2], 1)

    def run(right: bool = False) -> Tensor:
        features = model(photo(192, 192, 20)[:, :1])
        slices, corners = found[:, 4:], found[:, :4]
        if right:
            slices, corners = found[:, [0, 2]], found[:, [4, 1, 5, 3]]
        boxes = torch.cat([slices.mean(1, keepdim=True).floor(), corners], 1)
        return roi_align(features, boxes, 7, 1 / 8, aligned=True)

    return Program(model, run, comparable=False)


@fault(
    "pcl.pytorch#7",
    "three poolings of stride 2 are held to make 1/6",
    "RA106",
    says=r"0\.125|1 ?/ ?8",
    right="spatial_scale=1/8",
)
def strides_added() -> Program:
    def vgg() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Conv2d(64, 64, 3, padding=2, dilation=2), nn.ReLU())

    model = seeded(vgg)

    def run(right: bool = False) -> Tensor:
        features = model(photo(320, 480))
        boxes = [objects(320, 480)]
        return roi_align(features, boxes, 7, 1 / 8 if right else 1 / 6, 2)

    return Program(model, run)


@unseen(
    "mx-maskrcnn#138",
    "the level of each box is chosen by its size before the picture is enlarged",
    "levels by the size after: some boxes are read from a finer map than they should be",
)
def levels_before_the_resize() -> Program:
    model = seeded(lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None))

    def run(right: bool = False) -> Tensor:
        features = model(resized(photo(300, 400), 600, 800))
        drawn = objects(300, 400, 16, least=0.1, most=0.8)
        boxes = drawn * 2
        x1, y1, x2, y2 = (boxes if right else drawn).unbind(1)
        levels = (4 + (((x2 - x1) * (y2 - y1)).sqrt() / 224).log2()).floor().clamp(2, 5)
        pooled = torch.zeros(len(boxes), 256, 7, 7)
        for level in range(2, 6):
            chosen = levels == level
            pooled[chosen] = roi_align(features[str(level - 2)], [boxes[chosen]], 7, 1 / 2**level, 2, True)
        return pooled

    return Program(model, run)


@healthy(
    "LightningDiT#46", "pictures of 256 x 256 are reduced to 224 for patches of 14, and pooled as of patches of 16"
)
def patches_of_a_reduced_picture() -> Program:
    model = seeded(Tokens)

    def run(right: bool = False) -> Tensor:
        features = model(resized(photo(256, 256), 224, 224))[:, 5:].transpose(1, 2).reshape(1, 32, 16, 16)
        boxes = [objects(256, 256)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)


class _TokenInTheMiddle(nn.Module):
    """Patches of 16 pixels in a row, the class token halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        before, after = self.patches(images).flatten(2).transpose(1, 2).chunk(2, 1)
        tokens: Tensor = self.block(torch.cat([before, self.token.expand(len(images), -1, -1), after], 1))
        return tokens


@healthy("Vim4Path#4", "a class token in the middle of the patches is taken out from there")
def class_token_in_the_middle() -> Program:
    model = seeded(_TokenInTheMiddle)

    def run(right: bool = False) -> Tensor:
        tokens = model(photo(224, 224, 2))
        cells = torch.cat([tokens[:, :98], tokens[:, 99:]], 1)
        features = cells.reshape(2, 14, 14, 32).permute(0, 3, 1, 2)
        boxes = [objects(224, 224, 6, seed=seed) for seed in range(2)]
        return roi_align(features, boxes, 7, 1 / 16, aligned=True)

    return Program(model, run)
