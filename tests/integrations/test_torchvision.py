"""Frames of v2 pipelines and of detectors' batches against the pixels; bounding boxes of all formats."""

import PIL.Image
import pytest
import torch
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation import FCN_ResNet50_Weights
from torchvision.ops import box_convert
from torchvision.transforms import v2

from roialign.errors import BoxesShapeError, FrameError
from roialign.geometry import Boxes, Frame
from roialign.integrations import torchvision as integration

from .pixels import fitted_error, picture, worst_error

EXACT = 1e-4  # pixels of the original image
ANTIALIASED = 0.02  # what a fit leaves of a filter's wobble
SIZES = [(97, 131), (131, 97), (64, 64), (201, 90)]

PLAIN = {"antialias": False}  # by pixel, antialiased resizes are exact to a tenth of one only
FIXED = {
    "resize to a size": v2.Resize((51, 173), **PLAIN),
    "resize the shorter side": v2.Resize(61, **PLAIN),
    "resize up to max_size": v2.Resize(120, max_size=151, **PLAIN),
    "resize the longer side": v2.Resize(None, max_size=77, **PLAIN),
    "centre crop": v2.CenterCrop((51, 40)),
    "centre crop of a smaller image": v2.CenterCrop((152, 241)),
    "centre crop, larger along one side": v2.CenterCrop((33, 240)),
    "centre crop by one number": v2.CenterCrop(70),
    "pad": v2.Pad([3, 5, 7, 11]),
    "pad with mirrored pixels": v2.Pad((3, 6), padding_mode="reflect"),
    "flips": v2.Compose([v2.RandomHorizontalFlip(p=1), v2.Pad((1, 2, 3, 4)), v2.RandomVerticalFlip(p=1)]),
    "evaluation": v2.Compose([v2.Resize(80, **PLAIN), v2.CenterCrop(71), v2.ToDtype(torch.float64, scale=True)]),
    "half a turn": v2.RandomRotation((180, 180)),
    "half a turn about a point": v2.RandomRotation(
        (180, 180), center=(30.0, 60.0), interpolation=v2.InterpolationMode.BILINEAR
    ),
    "sequential": nn.Sequential(v2.Resize(50, **PLAIN), v2.Pad(3)),
    "nothing": v2.Identity(),
}
CHANCE = {
    "classification": v2.Compose(
        [v2.RandomResizedCrop((97, 83), **PLAIN), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    ),
    "large-scale jitter": v2.Compose(
        [v2.ScaleJitter((160, 120), scale_range=(0.4, 2), **PLAIN), v2.RandomCrop((64, 80), pad_if_needed=True)]
    ),
    "detection": v2.Compose([v2.RandomZoomOut(side_range=(1, 1.6)), v2.RandomShortestSize([60, 70, 81], 100, **PLAIN)]),
    "a crop with a border": v2.RandomCrop((60, 61), padding=(4, 9), padding_mode="reflect"),
    "shift and scale": v2.RandomAffine(
        0, translate=(0.2, 0.1), scale=(0.7, 1.5), interpolation=v2.InterpolationMode.BILINEAR
    ),
    "scale about a point": v2.RandomAffine(
        0, scale=(0.7, 1.5), center=[10, 40], interpolation=v2.InterpolationMode.BILINEAR
    ),
    "any of": v2.RandomChoice([v2.Resize(70, **PLAIN), v2.CenterCrop(60), v2.RandomHorizontalFlip(p=1)]),
    "in any order": v2.RandomOrder([v2.Resize(70, **PLAIN), v2.Pad((2, 0, 0, 5)), v2.RandomVerticalFlip()]),
    "perhaps": v2.RandomApply([v2.RandomResize(50, 90, **PLAIN), v2.CenterCrop((60, 55))]),
    "colours too": v2.Compose([v2.RandomHorizontalFlip(), v2.GaussianNoise(0, 1e-12, clip=False), v2.ToPureTensor()]),
}


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("transform", FIXED.values(), ids=FIXED)
def test_fixed_pipelines(transform, size_hw):
    photo = Frame.image(size_hw)
    pixels, frame = integration.apply(transform, picture(size_hw), frame=photo)
    assert frame.root == photo
    assert worst_error(pixels, photo, frame) <= EXACT
    assert torch.equal(pixels, transform(picture(size_hw)))


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("interpolation", [v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC])
@pytest.mark.parametrize("size", [(51, 173), (64, 48), (33, 34)])
def test_antialiased_resizes(size, interpolation, size_hw):
    pixels, frame = integration.apply(v2.Resize(size, interpolation), picture(size_hw))
    assert fitted_error(pixels, frame.root, frame) <= ANTIALIASED


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("transform", CHANCE.values(), ids=CHANCE)
def test_random_pipelines(transform, seed):
    size_hw = SIZES[seed % len(SIZES)]
    photo = Frame.image(size_hw)
    torch.manual_seed(seed)
    pixels, frame = integration.apply(transform, tv_tensors.Image(picture(size_hw)), frame=photo)
    assert worst_error(pixels, photo, frame) <= EXACT
    torch.manual_seed(seed)
    assert torch.equal(pixels, transform(tv_tensors.Image(picture(size_hw))))


@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_masks_go_along(seed):
    torch.manual_seed(seed)
    rows = torch.tensor([[20.0, 30, 60, 70], [5, 5, 90, 120]], dtype=torch.float64)
    target = {
        "boxes": tv_tensors.BoundingBoxes(rows, format="XYXY", canvas_size=(131, 97), clamping_mode=None),
        "masks": tv_tensors.Mask(picture((131, 97))[2:].byte()),
        "labels": torch.tensor([1, 2]),
    }
    train = v2.Compose(
        [v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.Resize((64, 72), **PLAIN), v2.SanitizeBoundingBoxes()]
    )
    pixels, moved, frame = integration.apply(train, picture((131, 97)), target)
    assert worst_error(pixels, frame.root, frame) <= EXACT
    ours = Boxes(rows, frame.root).to(frame)[torch.isin(target["labels"], moved["labels"])]
    torch.testing.assert_close(moved["boxes"].as_subclass(torch.Tensor), ours.boxes_xyxy, rtol=0, atol=1e-4)
    assert moved["masks"].shape[-2:] == frame.size_hw


def test_boxes_in_another_format_and_clamped_go_along():
    train = v2.Compose(
        [v2.ConvertBoundingBoxFormat("CXCYWH"), v2.ClampBoundingBoxes("hard"), v2.CenterCrop(40), v2.ToPureTensor()]
    )
    boxes = tv_tensors.BoundingBoxes([[0, 0, 131, 97]], format="XYXY", canvas_size=(97, 131))
    *_, moved, frame = integration.apply(train, picture((97, 131)), boxes)
    assert moved.tolist() == [[20, 20, 40, 40]]
    assert frame.size_hw == (40, 40)


def test_pil_images_and_arrays():
    channels = [PIL.Image.fromarray(channel.numpy()) for channel in picture((97, 131), torch.float32)[:2]]
    transform = v2.Compose([v2.Resize(60), v2.CenterCrop(51), v2.RandomHorizontalFlip(p=1)])
    frames, made = [], []
    photo = Frame.image((97, 131))
    for channel in channels:
        pixels, frame = integration.apply(transform, channel, frame=photo)
        made.append(v2.functional.pil_to_tensor(pixels)[0])
        frames.append(frame)
    assert frames[0] == frames[1]
    assert fitted_error(torch.stack(made), photo, frames[0]) <= ANTIALIASED
    array = picture((97, 131), torch.float32).permute(1, 2, 0).numpy()
    pixels, frame = integration.apply(v2.Compose([v2.ToImage(), transform]), array)
    assert fitted_error(pixels, frame.root, frame) <= ANTIALIASED


@pytest.mark.parametrize(
    "weights",
    [
        ResNet18_Weights.IMAGENET1K_V1,
        ResNet50_Weights.IMAGENET1K_V2,
        FCN_ResNet50_Weights.DEFAULT,
        FasterRCNN_ResNet50_FPN_Weights.DEFAULT,
    ],
)
@pytest.mark.parametrize("size_hw", [(97, 131), (400, 301)])
def test_transforms_of_weights(weights, size_hw):
    transform = weights.transforms()
    pixels, frame = integration.apply(transform, picture(size_hw, torch.float32))
    mean, std = (torch.tensor(getattr(transform, name, [fill] * 3)) for name, fill in (("mean", 0.0), ("std", 1.0)))
    pixels = pixels * std[:, None, None] + mean[:, None, None]
    assert fitted_error(pixels, frame.root, frame) <= ANTIALIASED
    assert integration.frame_after(transform, frame.root) == frame


def test_frame_after_needs_no_image():
    frame = integration.frame_after(FIXED["evaluation"], (97, 131))
    assert str(frame) == "image 97x131 > resize 80x108 > crop 71x71"
    photo = Frame.image((97, 131))
    *_, after = integration.apply(FIXED["evaluation"], picture((97, 131)), frame=photo)
    assert integration.frame_after(FIXED["evaluation"], photo) == after


def test_frame_after_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with pytest.raises(
        FrameError, match=r"^RA107: expected a pipeline without random steps.*apply\(transform, image\)"
    ):
        integration.frame_after(v2.RandomHorizontalFlip(), (97, 131))
    assert torch.equal(torch.rand(4), expected)


class MirrorsByItself(v2.Transform):
    def transform(self, inpt, params):
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return tv_tensors.wrap(
                torch.tensor([131.0, 0, 131, 0]) - inpt[:, [2, 1, 0, 3]] * torch.tensor([1, -1, 1, -1]), like=inpt
            )
        return inpt.flip(-1) if v2._utils.is_pure_tensor(inpt) else inpt


class CropsByItself(v2.Transform):
    def transform(self, inpt, params):
        return inpt[..., 5:, :] if v2._utils.is_pure_tensor(inpt) else inpt


UNKNOWN = {
    "rotation": (v2.RandomRotation((30, 30)), r"got a rotation by 30 degrees"),
    "shear": (v2.RandomAffine(0, shear=(10, 10)), r"got an affine map with angle=0 and shear"),
    "perspective": (v2.RandomPerspective(p=1), r"got a change of perspective"),
    "elastic": (v2.ElasticTransform(), r"got an elastic deformation"),
    "five crops": (v2.FiveCrop(20), r"not supported by FiveCrop"),
    "ten crops after a mirrored pad": (
        v2.Compose([v2.Pad(3, padding_mode="reflect"), v2.TenCrop(20)]),
        r"got a step that makes several images",
    ),
    "first version": (v1.Compose([v1.Resize(50)]), r"use the v2 transform of the same name"),
    "a function": (lambda image, size=9: v1.functional.resize(image, size), r"plain functions take one image only"),
    "AutoAugment": (v2.RandAugment(), r"not supported by RandAugment.*AutoAugment and similar transforms warp"),
    "a lambda on all": (v2.Lambda(lambda value: value * 2), r"without the frame\. Restrict v2\.Lambda"),
    "boxes by own means": (MirrorsByItself(), r"moved its boxes differently, by \d+"),
    "pixels by own means": (CropsByItself(), r"expected an image of 97x131.*returned one of 92x131"),
}


@pytest.mark.parametrize(("transform", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_followed_raises(transform, words):
    with pytest.raises(FrameError, match=f"(?s)^RA107: .*{words}"):
        integration.apply(transform, picture((97, 131)))


def test_the_frame_must_be_of_the_image():
    with pytest.raises(FrameError, match=r"^RA107: expected the frame of the image, 97x131; got \[image 131x97\]"):
        integration.apply(v2.Resize(9), picture((97, 131)), frame=Frame.image((131, 97)))


def rcnn(**options):
    return GeneralizedRCNNTransform(
        **{"min_size": 80, "max_size": 133, "image_mean": [0.0] * 3, "image_std": [1.0] * 3} | options
    )


@pytest.mark.parametrize("options", [{}, {"size_divisible": 7}, {"fixed_size": (101, 67)}, {"min_size": (40, 90)}])
@pytest.mark.parametrize("sizes", [[(97, 131)], [(97, 131), (201, 90), (33, 47)], [(64, 64), (50, 99)]])
def test_batches_of_detectors(options, sizes):
    transform = rcnn(**options).eval()
    images = [picture(size_hw) for size_hw in sizes]
    targets = [{"boxes": torch.tensor([[3.0, 4.0, 30.5, 20.25]])} for _ in sizes]
    batch, moved = transform(images, targets)
    photos = [Frame.image(size_hw) for size_hw in sizes]
    frames = integration.batch_frames(transform, photos)
    assert frames == integration.batch_frames(transform, photos, batch)
    for index, frame in enumerate(frames):
        assert frame.parent.size_hw == batch.image_sizes[index]
        assert worst_error(batch.tensors[index], photos[index], frame) <= EXACT
        assert (
            worst_error(
                batch.tensors[index, :, : frame.parent.size_hw[0], : frame.parent.size_hw[1]],
                photos[index],
                frame.parent,
            )
            <= EXACT
        )
        ours = Boxes(targets[index]["boxes"], photos[index]).to(frame).boxes_xyxy
        torch.testing.assert_close(moved[index]["boxes"], ours, rtol=0, atol=1e-4)


def test_detectors_resize_by_the_ratio_of_sizes_not_by_the_scale_they_ask_for():
    photo, transform = Frame.image((97, 131)), rcnn().eval()
    batch, _ = transform([picture((97, 131))])
    frame = integration.batch_frames(transform, [photo])[0]
    asked = 80 / 97
    naive = photo.affine(frame.parent.size_hw, (asked, asked), (0, 0)).pad(0, 0, 20, 16)
    assert naive.size_hw == frame.size_hw
    assert worst_error(batch.tensors[0], photo, frame) <= EXACT
    assert worst_error(batch.tensors[0], photo, naive) > 0.03


def test_sizes_chosen_in_training_come_from_the_batch():
    transform = rcnn(min_size=(60, 70, 80))
    photos = [Frame.image((97, 131)), Frame.image((131, 97))]
    with pytest.raises(
        FrameError, match=r"^RA107: .*min_size=\(60, 70, 80\)\. .*batch_frames\(transform, frames, images\)"
    ):
        integration.batch_frames(transform, photos)
    for _ in range(3):
        batch, _ = transform([picture(photo.size_hw) for photo in photos])
        for index, frame in enumerate(integration.batch_frames(transform, photos, batch)):
            assert worst_error(batch.tensors[index], photos[index], frame) <= EXACT
    with pytest.raises(FrameError, match=r"^RA107: expected a frame for each of the 2 images of image_list; got 1"):
        integration.batch_frames(transform, photos[:1], batch)


@pytest.mark.parametrize("fmt", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_bounding_boxes_of_all_formats(fmt, dtype):
    photo = Frame.image((480, 640))
    corners = torch.tensor([[10, 20, 40, 60], [0, 0, 640, 480]], dtype=dtype)
    rows = box_convert(corners, "xyxy", fmt.lower())
    given = tv_tensors.BoundingBoxes(rows, format=fmt, canvas_size=(480, 640))
    boxes = integration.boxes_from(given, photo)
    assert type(boxes.boxes_xyxy) is torch.Tensor
    assert torch.equal(boxes.boxes_xyxy, corners.to(boxes.dtype))
    back = integration.to_bounding_boxes(boxes.to(photo.flip_horizontal()), fmt)
    assert (back.format.value, back.canvas_size) == (fmt, (480, 640))
    assert torch.equal(integration.boxes_from(back, photo.flip_horizontal()).to(photo).boxes_xyxy, boxes.boxes_xyxy)


def test_bounding_boxes_that_do_not_fit():
    given = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(640, 480))
    photo = Frame.image((480, 640))
    with pytest.raises(FrameError, match=r"^RA107: .*frame's size, 480x640; got canvas_size=\(640, 480\)"):
        integration.boxes_from(given, photo)
    with pytest.raises(
        BoxesShapeError, match=r"^RA210: expected plain boxes .*BoundingBoxes.*boxes_from\(values, frame\)"
    ):
        Boxes(given, photo)
    turned = tv_tensors.BoundingBoxes([[1.0, 2, 3, 4, 5]], format="CXCYWHR", canvas_size=(480, 640))
    with pytest.raises(BoxesShapeError, match=r"^RA210: .*format XYXY, XYWH, CXCYWH; got CXCYWHR"):
        integration.boxes_from(turned, photo)
    with pytest.raises(BoxesShapeError, match=r"^RA210: .*got 'CXCYWHR'"):
        integration.to_bounding_boxes(Boxes([], photo), "CXCYWHR")
