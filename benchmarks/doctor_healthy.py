"""Healthy programs only, of the kinds that a doctor is most easily mistaken about. No fault is made in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

import roialign

from .doctor_pipelines import Scene, as_rows, boxes_of, fit_short, letterbox, moved, resized

Draw = Callable[[], Scene]
"""Draws a photograph with boxes in it."""
_LEAST_SIDE_PX = 8


@dataclass(frozen=True)
class Call:
    """A healthy call of `roi_align`: its arguments, and whose it is."""

    features: Tensor
    boxes: list[Tensor] | Tensor
    spatial_scale: float
    aligned: bool = False
    sampling_ratio: int = -1
    output_size: int | tuple[int, int] = 7
    library: str = "torchvision"

    def arguments(self) -> dict[str, Any]:
        """What `roialign.diagnose` is given."""
        return {"input": self.features} | {name: value for name, value in vars(self).items() if name in _ARGUMENTS}

    def make(self) -> Tensor:
        operator = roialign.roi_align if self.library == "roialign" else torchvision.ops.roi_align
        pooled: Tensor = operator(
            self.features, self.boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )
        return pooled


_ARGUMENTS = ("boxes", "output_size", "spatial_scale", "sampling_ratio", "aligned")


@dataclass(frozen=True)
class Healthy:
    """A program that is right, as a generator of the calls that it is about to make."""

    name: str
    model: nn.Module | None
    """What `roialign.watch` is given; None where no network makes the features."""
    calls: Callable[[Draw, random.Random], Iterator[Call]]


def healthy_programs() -> list[Healthy]:
    """All of them, with random weights of a fixed seed."""
    torch.manual_seed(0)
    trunks = {8: _resnet(6), 16: _resnet(7)}
    return [*_offsets(), *_batches(trunks), *_augmentations(trunks), *_boxes(trunks), *_grids(trunks)]


def view(scene: Scene, short: int) -> tuple[Tensor, Tensor]:
    """The photograph [1, 3, H, W], its shorter side resized to `short`, and its boxes in it, if they are not tiny."""
    image, to_frame = fit_short(scene, short, 1)
    boxes = moved(scene.boxes_xyxy, to_frame)
    large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= _LEAST_SIDE_PX
    return image, boxes[large] if bool(large.any()) else _whole_image(image)


def unpadded_stem() -> tuple[nn.Module, float, int]:
    """A backbone without padding, the centre of its cell 0 in pixels, and its stride."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 9, 2), nn.ReLU(), nn.Conv2d(16, 24, 9, 2), nn.ReLU()]
    return nn.Sequential(*layers).eval(), 12.5, 4


def inception_stem() -> tuple[nn.Module, float, int]:
    """Inception-v3 up to Mixed_5b, the centre of its cell 0 in pixels, and its stride."""
    whole = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    names = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    parts = [getattr(whole, name) for name in (*names, "maxpool2", "Mixed_5b")]
    return nn.Sequential(*parts).eval(), 13.5, 8


def valid_resnet() -> tuple[nn.Module, float, int]:
    """ResNet-18 up to layer2 with a stem that is not padded."""
    resnet = torchvision.models.resnet18(weights=None).eval()
    resnet.conv1.padding = (0, 0)
    resnet.maxpool.padding = 0
    return nn.Sequential(*list(resnet.children())[:6]), 5.5, 8


def seen_by(boxes_xyxy: Tensor, image: Tensor, offset: float) -> Tensor:
    """The boxes that are not centred in the margin that a network without padding does not see; or one that is not."""
    height, width = image.shape[2:]
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    seen = ((centres >= offset) & (centres <= centres.new_tensor([width, height]) - offset)).all(1)
    return boxes_xyxy[seen] if bool(seen.any()) else _whole_image(image) * 0.5 + offset


def vit_with_registers() -> Any:
    return timm.create_model("vit_small_patch14_reg4_dinov2", dynamic_img_size=True, num_classes=0, depth=2).eval()


def batch_of(images: Sequence[Tensor], size_hw: tuple[int, int] | None = None) -> Tensor:
    """The images [1, 3, H, W] with zeros below and to the right of them, in one batch."""
    height, width = size_hw or (max(one.shape[2] for one in images), max(one.shape[3] for one in images))
    return torch.cat([pad(one, (0, width - one.shape[3], 0, height - one.shape[2])) for one in images])


def mirrored(boxes_xyxy: Tensor, width: float) -> Tensor:
    return boxes_xyxy.new_tensor([width, 0, width, 0]) + boxes_xyxy[:, [2, 1, 0, 3]] * boxes_xyxy.new_tensor(
        [-1, 1, -1, 1]
    )


def _resnet(children: int) -> nn.Sequential:
    return nn.Sequential(*list(torchvision.models.resnet18(weights=None).eval().children())[:children])


def _whole_image(image: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0.0, image.shape[3], image.shape[2]]])


def _given(boxes: list[Tensor], rng: random.Random) -> list[Tensor] | Tensor:
    return boxes if rng.random() < 0.5 else as_rows(boxes)


def _cut(boxes_xyxy: Tensor, corner_xy: tuple[float, float], size_hw: tuple[int, int]) -> Tensor:
    """The boxes that are centred in a window, in its pixels, and cut off at its edges."""
    (x, y), (height, width) = corner_xy, size_hw
    boxes = boxes_xyxy - boxes_xyxy.new_tensor([x, y, x, y])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centres >= 0).all(1) & (centres < centres.new_tensor([width, height])).all(1)
    return boxes[inside].clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def _offsets() -> Iterator[Healthy]:
    """The structural offset taken off by hand, in each way that people write it."""
    for name, (model, offset, stride) in {
        "unpadded stem": unpadded_stem(),
        "Inception-v3": inception_stem(),
        "ResNet-18, stem not padded": valid_resnet(),
    }.items():

        def calls(
            draw: Draw, rng: random.Random, model: nn.Module = model, offset: float = offset, stride: int = stride
        ) -> Iterator[Call]:
            image, boxes = view(draw(), rng.choice([200, 240, 299]))
            boxes = seen_by(boxes, image, offset)
            library = rng.choice(["torchvision", "roialign"])
            features = model(image)
            yield Call(features, [(boxes - offset) / stride], 1.0, library=library)
            yield Call(features, [boxes - offset], 1 / stride, sampling_ratio=2, library=library)
            yield Call(features, [boxes + stride / 2 - offset], 1 / stride, True, library=library)

        yield Healthy(f"{name}, offset taken off", model, calls)


def _batches(trunks: dict[int, nn.Sequential]) -> Iterator[Healthy]:
    trunk = trunks[16]

    def mixed(draw: Draw, rng: random.Random) -> Iterator[Call]:
        shown = [view(draw(), rng.randrange(120, 260)) for _ in range(rng.randint(2, 4))]
        features = trunk(batch_of([image for image, _ in shown]))
        yield Call(features, _given([boxes for _, boxes in shown], rng), 1 / 16, rng.random() < 0.5)

    def far_edges(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """The longer side resized to the batch's, as SAM and OWLv2 do."""
        side, images, boxes = 16 * rng.randint(14, 20), [], []
        for _ in range(rng.randint(1, 2)):
            scene = draw()
            scale = side / max(scene.size_hw)
            images.append(resized(scene, (round(scene.size_hw[0] * scale), round(scene.size_hw[1] * scale))))
            boxes.append(scene.boxes_xyxy * scale)
        yield Call(trunk(batch_of(images, (side, side))), _given(boxes, rng), 1 / 16, True, library="roialign")

    def letterboxed(draw: Draw, rng: random.Random) -> Iterator[Call]:
        size_hw = (32 * rng.randint(6, 10), 32 * rng.randint(6, 10))
        scenes = [draw() for _ in range(rng.randint(1, 3))]
        fitted = [letterbox(scene, size_hw) for scene in scenes]
        boxes = [moved(scene.boxes_xyxy, to_frame) for scene, (_, to_frame) in zip(scenes, fitted, strict=True)]
        yield Call(trunk(torch.cat([image for image, _ in fitted])), _given(boxes, rng), 1 / 16, sampling_ratio=2)

    def several(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """Images of one size, as of a film; one of them may have no boxes."""
        size_hw = (rng.randrange(160, 260), rng.randrange(160, 340))
        scenes = [draw() for _ in range(rng.randint(2, 5))]
        boxes = [boxes_of(size_hw, rng.choice([1, 3, 8]), rng) for _ in scenes]
        boxes[rng.randrange(len(boxes))] = torch.empty(0, 4) if rng.random() < 0.3 else boxes_of(size_hw, 2, rng)
        yield Call(trunk(torch.cat([resized(scene, size_hw) for scene in scenes])), _given(boxes, rng), 1 / 16, True)

    yield Healthy("mixed sizes in one batch", trunk, mixed)
    yield Healthy("padded at the far edges", trunk, far_edges)
    yield Healthy("letterboxed batch", trunk, letterboxed)
    yield Healthy("several images", trunk, several)


def _augmentations(trunks: dict[int, nn.Sequential]) -> Iterator[Healthy]:
    trunk, fine = trunks[16], trunks[8]

    def test_time(draw: Draw, rng: random.Random) -> Iterator[Call]:
        image, boxes = view(draw(), rng.randrange(180, 280))
        height, width = image.shape[2:]
        upside_down = boxes.new_tensor([0, height, 0, height]) + boxes[:, [0, 3, 2, 1]] * boxes.new_tensor([1, -1] * 2)
        larger = interpolate(image, scale_factor=1.5, mode="bilinear")
        grown = boxes * boxes.new_tensor([larger.shape[3] / width, larger.shape[2] / height] * 2)
        shown = [(image, boxes), (image.flip(3), mirrored(boxes, width)), (image.flip(2), upside_down), (larger, grown)]
        for seen, some in shown:
            yield Call(trunk(seen), [some], 1 / 16, True)

    def crops(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """A window of the photograph, as it is or resized."""
        image, boxes = view(draw(), 320)
        height, width = rng.randrange(160, 300), rng.randrange(160, 300)
        x, y = rng.randint(0, image.shape[3] - width), rng.randint(0, image.shape[2] - height)
        window, some = image[..., y : y + height, x : x + width], _cut(boxes, (x, y), (height, width))
        if rng.random() < 0.5:
            window = interpolate(window, (256, 256), mode="bilinear", antialias=True)
            some = some * some.new_tensor([256 / width, 256 / height] * 2)
        yield Call(trunk(window), _given([some], rng), 1 / 16, library=rng.choice(["torchvision", "roialign"]))

    def tiles(draw: Draw, rng: random.Random) -> Iterator[Call]:
        scene = draw()
        size_hw = (256, 320)
        image, boxes = resized(scene, size_hw), boxes_of(size_hw, 30, rng)
        corners = [(x, y) for y in (0, 96) for x in (0, 160)]
        batch = torch.cat([image[..., y : y + 160, x : x + 160] for x, y in corners])
        yield Call(fine(batch), _given([_cut(boxes, corner, (160, 160)) for corner in corners], rng), 1 / 8, True)

    def mosaics(draw: Draw, rng: random.Random) -> Iterator[Call]:
        height, width = rng.randrange(96, 180), rng.randrange(96, 180)
        parts = [resized(draw(), (height, width)) for _ in range(4)]
        image = torch.cat([torch.cat(parts[:2], 3), torch.cat(parts[2:], 3)], 2)
        corners = torch.tensor([[0.0, 0], [width, 0], [0, height], [width, height]])
        boxes = [boxes_of((height, width), rng.choice([1, 3, 6]), rng) + corner.repeat(2) for corner in corners]
        yield Call(fine(image), [torch.cat(boxes)], 1 / 8, True)

    yield Healthy("mirrored, upside down, 1.5 times", trunk, test_time)
    yield Healthy("crops", trunk, crops)
    yield Healthy("tiles", fine, tiles)
    yield Healthy("mosaics", fine, mosaics)


def _boxes(trunks: dict[int, nn.Sequential]) -> Iterator[Healthy]:
    """Boxes other than those around things."""
    trunk, fine = trunks[16], trunks[8]

    def context(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """Enlarged and not clipped, and the whole image as one more."""
        image, boxes = view(draw(), rng.randrange(200, 320))
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * 0.75
        boxes = torch.cat([torch.cat([centres - halves, centres + halves], 1), _whole_image(image)])
        yield Call(trunk(image), _given([boxes], rng), 1 / 16, True)

    def anchors(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """Three sizes at every fourth cell, over the border too."""
        image, _ = view(draw(), rng.randrange(180, 260))
        features = fine(image)
        y, x = torch.meshgrid(*(torch.arange(0, cells, 4) * 8.0 for cells in features.shape[2:]), indexing="ij")
        centres = torch.stack([x, y], 2).reshape(-1, 2)
        halves = [centres.new_tensor([side, side / aspect]) / 2 for side in (32, 64, 128) for aspect in (0.5, 1, 2)]
        yield Call(features, [torch.cat([torch.cat([centres - half, centres + half], 1) for half in halves])], 1 / 8)

    def windows(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """A dense grid of squares, side by side or overlapping."""
        image, _ = view(draw(), rng.randrange(200, 320))
        height, width = image.shape[2:]
        side = rng.choice([32, 48, 64])
        step = rng.choice([side // 2, side])
        corners = [(x, y) for y in range(0, height - side + 1, step) for x in range(0, width - side + 1, step)]
        boxes = torch.tensor([[x, y, x + side, y + side] for x, y in corners], dtype=torch.float32)
        yield Call(trunk(image), _given([boxes], rng), 1 / 16, library=rng.choice(["torchvision", "roialign"]))

    def proposals(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """True boxes shaken, and as many again from anywhere, clipped."""
        image, boxes = view(draw(), rng.randrange(200, 320))
        size_hw = (int(image.shape[2]), int(image.shape[3]))
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        noise = torch.tensor([[rng.gauss(0, 0.15) for _ in range(4)] for _ in range(4 * len(boxes))])
        found = torch.cat([boxes.repeat(4, 1) + noise * sides.repeat(4, 1), boxes_of(size_hw, 4 * len(boxes), rng)])
        found = found.clamp(min=0).minimum(found.new_tensor([size_hw[1], size_hw[0]] * 2))
        yield Call(trunk(image), [found[((found[:, 2:] - found[:, :2]) > 4).all(1)]], 1 / 16, sampling_ratio=2)

    def placeholders(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """As many rows for each image, those without a box all zero, which the program masks later."""
        shown = [view(draw(), 224) for _ in range(2)]
        most = max(len(boxes) for _, boxes in shown) + rng.randint(1, 8)
        boxes = [pad(some, (0, 0, 0, most - len(some))) for _, some in shown]
        yield Call(trunk(batch_of([image for image, _ in shown])), _given(boxes, rng), 1 / 16, True)

    def single(draw: Draw, rng: random.Random) -> Iterator[Call]:
        image, boxes = view(draw(), rng.randrange(200, 320))
        features = trunk(image)
        for some in (boxes[:1], _whole_image(image)):
            yield Call(features, _given([some], rng), 1 / 16, rng.random() < 0.5)

    def text(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """Lines of text: long, and thinner than a cell or two."""
        image, _ = view(draw(), 300)
        height, width = image.shape[2:]
        ends = [rng.uniform(0.5, 0.95) * width for _ in range(0, height - 60, 24)]
        lines = [[20.0, 30 + 24.0 * row, end, 44 + 24.0 * row] for row, end in enumerate(ends)]
        yield Call(trunk(image), [torch.tensor(lines)], 1 / 16, True, output_size=(2, 40))

    yield Healthy("boxes with context", trunk, context)
    yield Healthy("anchors", fine, anchors)
    yield Healthy("dense windows", trunk, windows)
    yield Healthy("proposals", trunk, proposals)
    yield Healthy("rows of zeros", trunk, placeholders)
    yield Healthy("one box", trunk, single)
    yield Healthy("lines of text", trunk, text)


def _grids(trunks: dict[int, nn.Sequential]) -> Iterator[Healthy]:
    """Maps of other kinds, and boxes that fit them."""
    trunk, fine = trunks[16], trunks[8]
    vit = vit_with_registers()
    birdseye = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 2, 2)).eval()

    def registers(draw: Draw, rng: random.Random) -> Iterator[Call]:
        rows, columns = rng.randint(12, 18), rng.randint(12, 18)
        scene = draw()
        image, to_frame = letterbox(scene, (14 * rows, 14 * columns))
        tokens = vit.forward_features(image)[:, 5:]
        features = tokens.transpose(1, 2).reshape(1, -1, rows, columns)
        yield Call(features, [moved(scene.boxes_xyxy, to_frame)], 1 / 14, True)

    def enlarged(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """The map resized to the image, or to more than it."""
        image, boxes = view(draw(), rng.randrange(160, 220))
        factor = rng.choice([1.0, 0.5, 2.0])
        size = [round(side * factor) for side in image.shape[2:]]
        features = interpolate(fine(image)[:, :32], size, mode="bilinear")
        exact = boxes * boxes.new_tensor([size[1] / image.shape[3], size[0] / image.shape[2]] * 2) / factor
        yield Call(features, [exact], factor, True, sampling_ratio=2)

    def lidar(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """A map from above of cells of 0.8 m, x from -40 to 40 m and y from 0 to 70.4 m."""
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        features = birdseye(torch.rand(1, 4, 176, 200, generator=generator))
        metres = boxes_of((704, 800), rng.choice([5, 12, 25]), rng) / 10 - torch.tensor([40.0, 0.0, 40.0, 0.0])
        yield Call(features, [metres + torch.tensor([40.0, 0.0, 40.0, 0.0])], 1 / 0.8, True)

    def cells(draw: Draw, rng: random.Random) -> Iterator[Call]:
        image, boxes = view(draw(), rng.randrange(200, 320))
        features = trunk(image)
        yield Call(features, [boxes / 16], 1.0, True, library="roialign")
        yield Call(features, [boxes / 16 - 0.5], 1.0, sampling_ratio=2)

    def no_image(draw: Draw, rng: random.Random) -> Iterator[Call]:
        """A head that is tried out on random features, in cells or at a stride."""
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        stride = rng.choice([1, 8, 16])
        rows, columns = rng.choice([(7, 7), (14, 14), (16, 16), (20, 30)])
        features = torch.rand(2, 8, rows, columns, generator=generator)
        ends = torch.rand(2, 3, 2, 2, generator=generator).sort(2).values * torch.tensor([columns, rows]) * stride
        yield Call(features, _given([some.flatten(1) for some in ends], rng), 1 / stride, True)

    yield Healthy("ViT with registers", vit, registers)
    yield Healthy("map resized to the image", fine, enlarged)
    yield Healthy("bird's-eye map in metres", birdseye, lidar)
    yield Healthy("boxes in cells", trunk, cells)
    yield Healthy("a head without an image", None, no_image)
