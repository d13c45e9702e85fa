"""The frames of images: what was done to them between the photograph and the network, and what ends the trail."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from roialign.doctor.images import SeenImages
from roialign.doctor.surroundings import Mosaic, Surroundings
from roialign.geometry import Frame
from roialign.ops.calls import RoICall

NET = nn.Conv2d(3, 8, 16, stride=16)
MEAN = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)


@pytest.fixture
def seen() -> Iterator[SeenImages]:
    images = SeenImages()
    with images.watching(), torch.no_grad():
        yield images


def around(seen: SeenImages, features: Tensor) -> Surroundings:
    known = seen.of(RoICall(features, torch.tensor([[0.0, 1.0, 1.0, 9.0, 9.0]]), (2, 2), 1 / 16, 2, True)).around
    return known if known is not None else Surroundings()


def frames(seen: SeenImages, batch: Tensor) -> tuple[Frame | None, ...]:
    return around(seen, NET(batch)).frames


def photo(height: int = 480, width: int = 640, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width)


def normalized(image: Tensor) -> Tensor:
    return (image - MEAN) / 0.2


ROOT = Frame.image((480, 640), id="photo")
DEEDS: dict[str, tuple[Callable[[Tensor], Tensor], Frame]] = {
    "resized": (lambda x: interpolate(x, (240, 400)), ROOT.resize((240, 400))),
    "bilinear": (lambda x: interpolate(x, (240, 400), mode="bilinear", antialias=True), ROOT.resize((240, 400))),
    "bicubic": (lambda x: interpolate(x, scale_factor=0.5, mode="bicubic"), ROOT.resize((240, 320))),
    "area": (lambda x: interpolate(x, (160, 160), mode="area"), ROOT.resize((160, 160))),
    "averaged": (lambda x: nn.functional.avg_pool2d(x, 2), ROOT.resize((240, 320))),
    "averaged by a module": (lambda x: nn.AvgPool2d((2, 4))(x), ROOT.resize((240, 160))),
    "twice": (lambda x: interpolate(interpolate(x, (100, 100)), (80, 96)), ROOT.resize((100, 100)).resize((80, 96))),
    "padded": (lambda x: pad(x, (1, 2, 3, 4)), ROOT.pad(1, 3, 2, 4)),
    "cropped by padding": (lambda x: pad(x, (-8, 0, -16, 0)), ROOT.pad(-8, -16, 0, 0)),
    "torch.flip": (lambda x: torch.flip(x, [2, 3]), ROOT.flip_vertical().flip_horizontal()),
    "flip": (lambda x: x.flip(-1), ROOT.flip_horizontal()),
    "letterboxed": (
        lambda x: pad(interpolate(x, (480, 640)), (0, 0, 80, 80), value=0.5),
        ROOT.resize((480, 640)).pad(0, 80, 0, 80),
    ),
    "window": (lambda x: x[..., 100:, 200:520], ROOT.crop(100, 200, 380, 320)),
    "window of a crop": (lambda x: x[..., 100:, 200:][..., 20:200, 30:300], ROOT.crop(120, 230, 180, 270)),
    "stacked": (lambda x: torch.stack([x[0].flip(2)]), ROOT.flip_horizontal()),
}


@pytest.mark.parametrize("name", DEEDS)
@pytest.mark.parametrize("copied", [False, True])
def test_what_was_done_is_a_chain_of_frames(seen: SeenImages, name: str, copied: bool) -> None:
    do, expected = DEEDS[name]
    made = do(photo())
    if copied and ("window" in name or "module" in name):
        return  # no function was seen, or inside a network, that a size could be known by
    (frame,) = frames(seen, normalized(made) if copied else made)
    assert frame is not None
    assert frame.root.size_hw == (480, 640)
    assert frame.size_hw == expected.size_hw
    assert frame.root.map_to(frame) == ROOT.map_to(expected)


def test_corners_that_are_aligned_and_scales_that_are_kept(seen: SeenImages) -> None:
    (frame,) = frames(seen, interpolate(photo(101, 51), (201, 101), mode="bilinear", align_corners=True))
    assert frame is not None
    assert frame.root.map_to(frame).scale_yx == (2.0, 2.0)
    assert frame.root.map_to(frame).shift_yx == (-0.5, -0.5)
    (frame,) = frames(seen, interpolate(photo(101, 51), scale_factor=1.5, mode="bilinear"))
    assert frame is not None
    assert frame.root.map_to(frame).scale_yx == (1.5, 1.5)


def test_each_image_of_a_batch_has_its_own(seen: SeenImages) -> None:
    photos = [photo(480, 640), photo(300, 200), photo(100, 100)]
    resized = [interpolate(one, (224, 224)) for one in photos]
    for batch in (torch.cat(resized), torch.stack([one[0] for one in resized]), torch.cat(resized)[1:]):
        found = frames(seen, batch)
        sizes = [frame.root.size_hw for frame in found if frame]
        assert sizes == [(480, 640), (300, 200), (100, 100)][-len(batch) :]
    copies = [normalized(interpolate(one, (224, 224)))[0] for one in photos]
    found = frames(seen, torch.stack(copies))
    assert [frame.root.size_hw for frame in found if frame] == [(480, 640), (300, 200), (100, 100)]


def test_windows_of_one_photograph_are_of_it(seen: SeenImages) -> None:
    whole = photo(448, 448)
    corners = [(x, y) for y in (0, 192) for x in (0, 192)]
    found = frames(seen, torch.cat([whole[..., y : y + 256, x : x + 256] for x, y in corners]))
    assert len({frame.id for frame in found if frame}) == 1
    assert [frame.map_to(frame.root).shift_yx for frame in found if frame] == [(y, x) for x, y in corners]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_corner_of_a_window_is_read_off_its_memory(seen: SeenImages, channels_last: bool) -> None:
    batch = photo(320, 480, 3)
    batch = batch.contiguous(memory_format=torch.channels_last) if channels_last else batch
    for index, top, left in ((0, 64, 32), (2, 17, 0), (1, 0, 5)):
        (frame,) = frames(seen, batch[index : index + 1, :, top : top + 160, left : left + 160])
        assert frame is not None
        assert frame.root.size_hw == (320, 480)
        assert frame.map_to(frame.root).shift_yx == (top, left)


def test_numpy_gives_a_window_without_its_corner(seen: SeenImages) -> None:
    numpy = pytest.importorskip("numpy")
    whole = numpy.random.default_rng(0).random((320, 480, 3), dtype="float32")
    assert frames(seen, torch.from_numpy(whole[40:, 60:]).permute(2, 0, 1)[None]) == ()
    planes = numpy.ascontiguousarray(whole.transpose(2, 0, 1))
    assert frames(seen, torch.from_numpy(planes[:, 40:, 60:])[None]) == ()
    for batch in (torch.from_numpy(whole).permute(2, 0, 1)[None], torch.from_numpy(planes)[None]):
        (frame,) = frames(seen, batch[..., 40:, 60:])
        assert frame is not None
        assert frame.map_to(frame.root).shift_yx == (40, 60)


def rotated(image: Tensor) -> Tensor:
    turn = torch.tensor([[[0.9, -0.4, 0.0], [0.4, 0.9, 0.0]]])
    return grid_sample(image, affine_grid(turn, list(image.shape), align_corners=False), align_corners=False)


NOT_FOLLOWED: dict[str, Callable[[], Tensor]] = {
    "nothing": photo,
    "of another size": lambda: (interpolate(photo(), (224, 224)), photo(224, 240))[1],
    "rotated": lambda: rotated(interpolate(photo(), (224, 224))),
    "rotated and copied": lambda: normalized(rotated(interpolate(photo(), (224, 224)))),
    "two of this size": lambda: [normalized(interpolate(photo(size), (224, 224))) for size in (300, 400)].pop(),
    "turned by 90 degrees": lambda: normalized(torch.rot90(interpolate(photo(), (224, 224)), 1, [2, 3])),
    "of other channels": lambda: (interpolate(photo()[:, :1], (224, 224)), photo(224, 224))[1],
    "the batch reversed": lambda: torch.cat([interpolate(photo(size), (224, 224)) for size in (300, 400)]).flip(0),
    "averaged as it overlaps": lambda: nn.functional.avg_pool2d(photo(), 3, 2, 1),
    "strided": lambda: photo()[..., ::2, ::2],
    "transposed": lambda: interpolate(photo(), (224, 224)).transpose(2, 3),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_what_cannot_be_stated_has_no_frame(seen: SeenImages, name: str) -> None:
    found = frames(seen, NOT_FOLLOWED[name]())
    assert all(frame is None for frame in found)


def test_a_size_is_used_once(seen: SeenImages) -> None:
    """A photograph that happens to have the size to which another was resized was not resized."""
    for _ in range(2):
        resized = interpolate(photo(), (224, 224))
        copy = normalized(resized)
        (frame,) = frames(seen, copy)
        assert frame is not None
        assert frames(seen, copy) == (frame,), "the same once more, for another network"
        assert frames(seen, photo(224, 224)) == ()


def test_what_was_made_on_the_way_does_not_pile_up(seen: SeenImages) -> None:
    for _ in range(3):
        copy = normalized(interpolate(photo(), (240, 320)))
        (frame,) = frames(seen, normalized(pad(copy, (0, 0, 0, 80))))
        assert frame is not None
        assert [step.name for step in frame.chain] == ["photograph", "resize", "pad"]


def test_a_buffer_that_is_written_to_again(seen: SeenImages) -> None:
    buffer = torch.zeros(1, 3, 224, 224)
    for size_hw in ((480, 640), (100, 300)):
        buffer.copy_(interpolate(photo(*size_hw), (224, 224)))
        (frame,) = frames(seen, buffer)
        assert frame is not None
        assert frame.root.size_hw == size_hw
    buffer.copy_(photo(224, 224))
    assert frames(seen, buffer) == ()


def test_augmentation_and_both_ways_at_once(seen: SeenImages) -> None:
    """The image before a flip counts as long as it exists: it may be what entered."""

    def augmented(image: Tensor) -> Tensor:
        image = interpolate(image, (224, 224))
        image = image.flip(3)
        return normalized(image)

    (frame,) = frames(seen, augmented(photo()))
    assert frame is not None
    assert [step.name for step in frame.chain] == ["photograph", "resize", "flip horizontally"]
    image = interpolate(photo(), (224, 224))
    mirrored = image.flip(3)
    assert frames(seen, torch.cat([normalized(mirrored), normalized(image)])) in ((), (None, None))


def test_images_inside_a_network_are_not_known_by_size(seen: SeenImages) -> None:
    class Resizes(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return NET(interpolate(image, (224, 224)))

    Resizes()(photo())
    assert frames(seen, photo(224, 224)) == ()


def test_mosaics(seen: SeenImages) -> None:
    tiles = [photo(120, 160) for _ in range(4)]
    rows = [torch.cat(tiles[:2], 3), torch.cat(tiles[2:], dim=-1)]
    mosaic = torch.cat(rows, 2)
    assert around(seen, NET(mosaic)).mosaic == Mosaic((120, 160), 2, 2)
    assert around(seen, NET(normalized(mosaic))).mosaic is None, "the size was used up"
    mosaic = torch.cat([torch.cat(tiles[:2], 3), torch.cat(tiles[2:], 3)], 2)
    assert around(seen, NET(normalized(mosaic))).mosaic == Mosaic((120, 160), 2, 2)
    assert around(seen, NET(interpolate(mosaic, (480, 640)))).mosaic == Mosaic((240, 320), 2, 2)
    assert around(seen, NET(torch.cat(tiles[:3], 2))).mosaic == Mosaic((120, 160), 3, 1)
    uneven = torch.cat([photo(120, 160), photo(120, 80)], 3)
    for other in (uneven, torch.cat(tiles), torch.stack([one[0] for one in tiles])):
        assert around(seen, NET(other)).mosaic is None


def test_torchvisions_transforms_of_tensors_and_of_pil(seen: SeenImages) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="its transforms are followed")
    from PIL import Image
    from torchvision.transforms import v2

    tensor = (photo()[0] * 255).to(torch.uint8)
    image = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    ends = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]
    flipped = v2.Compose([v2.Resize((256, 320)), v2.RandomHorizontalFlip(1.0), *ends])
    expected = ROOT.resize((256, 320)).flip_horizontal()
    for given in (tensor, v2.ToImage()(image)):
        (frame,) = frames(seen, flipped(given).as_subclass(Tensor)[None])
        assert frame is not None
        assert frame.root.map_to(frame) == ROOT.map_to(expected)
    cropped = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    (frame,) = frames(seen, normalized(cropped(image))[None])
    assert frame is not None
    assert frame.root.map_to(frame) == ROOT.map_to(ROOT.resize((256, 341)).crop(16, 58, 224, 224))
    for method, orientation in ((Image.Transpose.ROTATE_270, 6), (Image.Transpose.ROTATE_90, 8)):
        (frame,) = frames(seen, normalized(cropped(image.transpose(method)))[None])
        assert frame is not None
        turned = ROOT.exif_transpose(orientation)
        assert frame.root.map_to(frame) == ROOT.map_to(turned.resize((341, 256)).crop(58, 16, 224, 224))
    turned = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.RandomRotation((9, 9)), transforms.ToTensor()]
    )
    assert frames(seen, turned(image)[None]) in ((), (None,))


def test_nothing_is_held(seen: SeenImages) -> None:
    import weakref

    held = []
    for _ in range(5):
        batch = interpolate(photo(64, 64), (96, 96))
        held.append(weakref.ref(batch))
        torch.cat([batch, batch], 3)
        del batch
    assert all(one() is None for one in held)
