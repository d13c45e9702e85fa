"""What a watch sees around a call: detections, tokens, pooled features, padding; and the nearest that is none of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

import roialign
from roialign.doctor.bars import Picture, pictures_in
from roialign.doctor.images import SeenImages
from roialign.doctor.surroundings import Surroundings, Tokens
from roialign.doctor.watch import watching
from roialign.geometry import Frame
from roialign.ops.calls import RoICall

NET = nn.Conv2d(3, 8, 16, stride=16)
BOXES = torch.tensor([[1.0, 1.0, 90.0, 90.0]])


@pytest.fixture
def seen() -> Iterator[SeenImages]:
    images = SeenImages()
    with images.watching(), torch.no_grad():
        yield images


def around(seen: SeenImages, features: Tensor, boxes: Tensor = BOXES) -> Surroundings:
    call = RoICall(features, pad(boxes, (1, 0)), (2, 2), 1 / 16, 2, True)
    return seen.with_detections(seen.of(call), call) or Surroundings()


class Detector(nn.Module):
    """Finds the same boxes in each image, in its pixels or as fractions of it."""

    def __init__(self, boxes: Tensor) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"boxes": self.boxes.clone(), "scores": torch.rand(len(self.boxes))} for _ in images]


FOUND = torch.tensor([[10.0, 20.0, 110.0, 140.0], [300.5, 200.25, 620.0, 460.0], [0.0, 0.0, 50.0, 60.0]])


def test_boxes_that_left_a_detector_are_in_the_frame_of_its_image(seen: SeenImages) -> None:
    photo = torch.rand(3, 480, 640)
    boxes = Detector(FOUND)([photo])[0]["boxes"]
    features = NET(interpolate(photo[None], (240, 320)))
    for some in (boxes, boxes[1:], boxes[torch.tensor([2, 0])], torch.cat([boxes[:1], boxes[2:]])):
        known = around(seen, features, some)
        (detected,), (entered,) = known.detected_in, known.frames
        assert detected is not None
        assert entered is not None
        assert detected.map_to(entered).scale_yx == (0.5, 0.5)


NOT_THESE: dict[str, Tensor] = {
    "scaled": FOUND * 0.5,
    "one of them moved": FOUND + torch.tensor([[0.0], [0.0], [1.0]]),
    "some more": torch.cat([FOUND, torch.tensor([[5.0, 5.0, 9.0, 9.0]])]),
    "clipped": FOUND.clamp(max=320),
    "nowhere": torch.zeros(1, 4),
    "none": FOUND[:0],
}


@pytest.mark.parametrize("name", NOT_THESE)
def test_other_boxes_are_not_those_of_the_detector(seen: SeenImages, name: str) -> None:
    photo = torch.rand(3, 480, 640)
    Detector(torch.cat([FOUND, torch.zeros(1, 4)]))([photo])
    assert around(seen, NET(photo[None]), NOT_THESE[name]).detected_in == ()


def test_boxes_that_were_changed_in_place_are_no_more_those_of_the_detector(seen: SeenImages) -> None:
    photo = torch.rand(3, 480, 640)
    boxes = Detector(FOUND)([photo])[0]["boxes"]
    boxes *= 0.5
    assert around(seen, NET(photo[None]), boxes).detected_in == ()


def test_fractions_have_no_frame(seen: SeenImages) -> None:
    photo = torch.rand(3, 480, 640)
    boxes = Detector(FOUND / 640)([photo])[0]["boxes"]
    assert around(seen, NET(photo[None]), boxes).detected_in == ()


def test_a_photograph_that_was_loaded_twice(seen: SeenImages) -> None:
    boxes = Detector(FOUND)([torch.rand(3, 480, 640)])[0]["boxes"]
    known = around(seen, NET(interpolate(torch.rand(1, 3, 480, 640), (240, 320))), boxes)
    (detected,), (entered,) = known.detected_in, known.frames
    assert detected is not None
    assert entered is not None
    assert detected.is_connected(entered)
    known = around(seen, NET(interpolate(torch.rand(1, 3, 300, 400), (240, 320))), boxes)
    (detected,), (entered,) = known.detected_in, known.frames
    assert detected is not None
    assert entered is not None
    assert not detected.is_connected(entered), "a photograph of another size"


@pytest.mark.parametrize("scaled", [False, True])
def test_torchvisions_detector_and_its_pooler(scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    detection = pytest.importorskip("torchvision", reason="its detectors are watched").models.detection
    torch.manual_seed(0)
    options: Any = {"weights": None, "weights_backbone": None, "box_score_thresh": 0.0, "box_detections_per_img": 20}
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(**options).eval()
    known: list[Surroundings | None] = []
    original = SeenImages.with_detections

    def noted(images: SeenImages, seen: Any, call: RoICall) -> Surroundings | None:
        known.append(original(images, seen, call))
        return known[-1]

    monkeypatch.setattr(SeenImages, "with_detections", noted)
    photos = [torch.rand(3, 480, 640), torch.rand(3, 600, 400)]
    with torch.no_grad(), roialign.watch():
        found = [one["boxes"] for one in model(photos)]
        assert all(len(boxes) for boxes in found)
        images, _ = model.transform(photos)
        features = model.backbone(images.tensors)
        known.clear()
        scales = [
            torch.tensor([new / old for new, old in zip(size, photo.shape[1:], strict=True)][::-1] * 2)
            for size, photo in zip(images.image_sizes, photos, strict=True)
        ]
        boxes = [some * scale for some, scale in zip(found, scales, strict=True)] if scaled else found
        model.roi_heads.box_roi_pool(features, boxes, images.image_sizes)
    assert known
    for one in known:
        assert one is not None
        assert [frame.root.size_hw for frame in one.frames if frame] == [(480, 640), (600, 400)]
        assert [frame.chain[1].size_hw for frame in one.frames if frame] == images.image_sizes
        if scaled:
            assert one.detected_in == ()
        else:
            pairs = list(zip(one.detected_in, one.frames, strict=True))
            assert all(d is not None and f is not None and d.parent is None and d.is_connected(f) for d, f in pairs)


class Patches(nn.Module):
    """Tokens of patches of 16, with some of another kind before them."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 16, stride=16)
        self.extra = nn.Parameter(torch.randn(1, extra, 24))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.extra.expand(len(images), -1, -1), patches], 1)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("first", [0, 1, 5])
def test_which_token_is_the_first_cell(seen: SeenImages, first: int, copied: bool) -> None:
    tokens = Patches(5)(torch.rand(2, 3, 128, 160))
    taken = tokens[:, first : first + 80]
    map_2d = (
        taken.transpose(1, 2).contiguous().view(2, 24, 8, 10) if copied else taken.transpose(1, 2).unflatten(2, (8, 10))
    )
    assert (map_2d.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()) is not copied
    assert around(seen, map_2d).tokens == Tokens(85, first)
    if copied:
        del tokens, taken
        assert around(seen, map_2d).tokens == Tokens(85, first), "the tokens need not be kept"


@pytest.mark.parametrize("copied", [False, True])
def test_a_reshape_without_a_transpose(seen: SeenImages, copied: bool) -> None:
    tokens = Patches(1)(torch.rand(2, 3, 128, 160))[:, 1:]
    map_2d = tokens.reshape(2, 24, 8, 10) if copied else tokens[:1].view(1, 24, 8, 10)
    assert around(seen, map_2d).tokens == Tokens(81, 1, transposed=False)
    whole = Patches(0)(torch.rand(1, 3, 128, 160)).contiguous()
    assert around(seen, nn.Identity()(whole).view(1, 24, 8, 10)).tokens == Tokens(80, 0, transposed=False)


def test_maps_that_are_not_made_of_tokens(seen: SeenImages) -> None:
    patches = Patches(5)
    tokens = patches(torch.rand(1, 3, 128, 160))
    copied = tokens[:, 5:].transpose(1, 2).contiguous().view(1, 24, 8, 10)
    assert around(seen, copied).tokens == Tokens(85, 5)
    others = {
        "a map": torch.rand(1, 24, 8, 10),
        "of other values": copied + 1,
        "in another order": copied.flip(3),
        "of a part": copied[:, :12].clone(),
        "of another type": copied.double(),
    }
    for name, other in others.items():
        assert around(seen, other).tokens is None, name
    same = torch.zeros(1, 85, 24)
    nn.Identity()(same)
    copied = same[:, 5:].transpose(1, 2).contiguous().view(1, 24, 8, 10)
    assert around(seen, copied).tokens is None, "any may be the first"


def pooled_twice(first: Any, second: Any) -> list[bool]:
    """Whether the features of each call were pooled before."""
    known: list[bool] = []
    images = torch.rand(1, 3, 64, 64)
    rois = torch.tensor([[0.0, 4.0, 4.0, 60.0, 60.0]] * 3)
    original = SeenImages.of

    def noted(self: SeenImages, call: RoICall) -> Any:
        found = original(self, call)
        known.append(found.around is not None and found.around.pooled_before)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeenImages, "of", noted)
        with watching(lambda diagnosis: None), roialign.set_policy("ignore"):
            second(first(images, rois), rois)
    return known


def test_features_that_were_pooled_before() -> None:
    ops = pytest.importorskip("torchvision.ops", reason="its operators are watched")
    pools = {
        "torchvision roi_align": lambda x, rois: ops.roi_align(x, rois, 14, 1.0),
        "torchvision roi_pool": lambda x, rois: ops.roi_pool(x, rois, 14, 1.0),
        "roi_align": lambda x, rois: roialign.roi_align(x, rois, 14, 1.0),
        "roi_pool": lambda x, rois: roialign.roi_pool(x, rois, 14, 1.0),
    }
    for name, first in pools.items():
        for second in pools.values():
            assert pooled_twice(first, second) == [False, True], name
    pool = pools["roi_align"]
    assert pooled_twice(lambda x, rois: pool(x, rois)[1:].reshape(1, 6, 14, 14), pool) == [False, True]
    for made in (nn.Conv2d(3, 8, 3), nn.ReLU(), torch.clone):
        assert pooled_twice(lambda x, rois, made=made: made(pool(x, rois)), pool) == [False, False]
    assert pooled_twice(lambda x, rois: (pool(x, rois), x)[1], pool) == [False, False]


def test_padding_on_any_side_but_not_all() -> None:
    """Sides are (left, right, top, bottom)."""
    photo = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    padded = [(0, 0, 0, 20), (0, 30, 0, 0), (0, 30, 0, 20), (12, 0, 0, 0), (0, 0, 9, 0), (12, 0, 9, 0), (0, 7, 9, 0)]
    padded += [(10, 10, 0, 0), (0, 0, 7, 8), (0, 1000, 0, 700)]
    for sides in padded:
        for value in (0.0, 114 / 255):
            left, top = sides[::2]
            image = pad(photo, sides, value=value)
            expected = Picture(left, top, left + 80, top + 60)
            assert pictures_in(image[None]) == (expected,), sides
            mean, deviation = torch.tensor([[[0.4]], [[0.5]], [[0.6]]]), torch.tensor([[[0.2]], [[0.3]], [[0.1]]])
            assert pictures_in(((image - mean) / deviation)[None]) == (expected,), sides


def test_what_is_not_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(3, 60, 80, generator=generator)
    page = torch.ones(3, 100, 80)
    page[:, 10:50, 10:70] = (torch.rand(40, 60, generator=generator) > 0.5).float()  # its lower half is empty
    night = photo.clone()
    night[:, :20] = torch.rand(3, 20, 80, generator=generator) / 255
    one_row = pad(photo, (0, 0, 0, 1))
    not_even = pad(photo, (0, 0, 10, 30))
    two_colours = torch.cat([torch.zeros(3, 10, 80), photo, torch.ones(3, 10, 80)], 1)
    one_channel = photo.clone()
    one_channel[0, 40:] = 0
    partly = photo.clone()
    partly[:, 40:, :79] = 0
    framed, three_sides = pad(photo, (5, 5, 5, 5)), pad(photo, (5, 5, 5, 0))
    constant = torch.zeros(3, 60, 80)
    for image in (
        photo,
        page,
        night,
        one_row,
        not_even,
        two_colours,
        one_channel,
        partly,
        framed,
        three_sides,
        constant,
    ):
        assert pictures_in(image[None]) == (None,)
    assert pictures_in(torch.rand(2, 3, 4, 4)) == (None, None)


def test_the_pictures_of_a_batch_of_several_sizes(seen: SeenImages) -> None:
    sizes = [(240, 320), (416, 256), (96, 128)]
    batch = torch.zeros(3, 3, 416, 320)
    for image, (height, width) in zip(batch, sizes, strict=True):
        image[:, :height, :width] = torch.rand(3, height, width)
    known = around(seen, NET(batch))
    assert known.pictures == (Picture(0, 0, 320, 240), Picture(0, 0, 256, 416), Picture(0, 0, 128, 96))
    assert known.images is not None
    assert known.images.data_ptr() == batch.data_ptr()
    batch[:] = torch.rand(3, 3, 416, 320)
    assert around(seen, NET(batch)).pictures == ()


class Two(nn.Module):
    """Two networks, each with an image of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.coarse(one), self.fine(other)


def test_two_networks_of_two_images(seen: SeenImages) -> None:
    maps = Two()(torch.rand(1, 3, 448, 448), torch.rand(1, 3, 224, 224))
    for features, size_hw, stride in zip(maps, [(448, 448), (224, 224)], [16.0, 8.0], strict=True):
        known = seen.of(RoICall(features, pad(BOXES, (1, 0)), (2, 2), 1 / 16, 2, True))
        assert known.image_size_hw == size_hw
        assert known.grid is not None
        assert known.grid.stride_yx == (stride, stride)


def test_an_image_that_is_given_by_name(seen: SeenImages) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NET

        def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"features": interpolate(self.net(pixel_values), scale_factor=2)}

    features = Named()(pixel_values=torch.rand(1, 3, 128, 160))["features"]
    known = seen.of(RoICall(features, pad(BOXES, (1, 0)), (2, 2), 1 / 16, 2, True))
    assert known.image_size_hw == (128, 160)
    assert known.grid is not None
    assert known.grid.stride_yx == (8.0, 8.0)


def test_nothing_happened(seen: SeenImages) -> None:
    assert around(seen, torch.rand(1, 8, 10, 10)) == Surroundings()
    known = around(seen, NET(torch.rand(1, 3, 160, 160)))
    assert known == Surroundings(images=known.images)
    assert Frame.image((160, 160)) not in known.frames
