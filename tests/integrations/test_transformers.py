"""Frames of transformers' image processors against the pixels that they make, with both of their backends."""

import doctest
import importlib
import sys
import types

import numpy as np
import pytest
import torch

from roialign.errors import FrameError
from roialign.geometry import Boxes, Frame
from roialign.integrations import transformers as integration

from .pixels import fitted_error, picture

transformers = pytest.importorskip("transformers", minversion="5", reason="needs transformers 5 or newer")

SIZES = [(97, 131), (131, 97), (90, 201)]
TORCHVISION = 0.02  # pixels of the original: what a fit leaves of an antialiasing filter's wobble
PIL = 0.2  # this backend rounds pixels to whole numbers: what a fit leaves of several pictures with noise
NOISY = 8

PROCESSORS = {
    "ViT": {"size": {"height": 64, "width": 48}},
    "CLIP": {"size": {"shortest_edge": 60}, "crop_size": {"height": 51, "width": 44}},
    "CLIP, larger crop": {"size": {"shortest_edge": 40}, "crop_size": {"height": 51, "width": 91}},
    "Bit": {"size": {"shortest_edge": 70}, "crop_size": {"height": 61, "width": 61}},
    "Siglip": {"size": {"height": 61, "width": 61}},
    "ConvNext": {"size": {"shortest_edge": 56}, "crop_pct": 0.875},
    "ConvNext, full size": {"size": {"shortest_edge": 384}},
    "OwlViT": {"size": {"height": 77, "width": 77}},
    "Owlv2": {"size": {"height": 96, "width": 96}, "do_rescale": True, "rescale_factor": 1.0},  # else it truncates
    "Detr": {"size": {"shortest_edge": 80, "longest_edge": 133}},
    "Detr, fixed": {"size": {"height": 80, "width": 70}, "pad_size": {"height": 90, "width": 96}},
    "Detr, within": {"size": {"max_height": 80, "max_width": 90}},
    "DeformableDetr": {"size": {"shortest_edge": 80, "longest_edge": 133}},
    "ConditionalDetr": {"size": {"shortest_edge": 80, "longest_edge": 133}},
    "GroundingDino": {"size": {"shortest_edge": 80, "longest_edge": 133}},
    "Yolos": {"size": {"shortest_edge": 80, "longest_edge": 133}},
    "RTDetr": {"size": {"height": 64, "width": 64}},
    "Sam": {"size": {"longest_edge": 128}, "pad_size": {"height": 128, "width": 128}},
    "Sam2": {"size": {"height": 128, "width": 128}},
    "Segformer": {"size": {"height": 64, "width": 48}},
    "Beit": {"size": {"height": 64, "width": 48}, "do_center_crop": True, "crop_size": {"height": 41, "width": 31}},
    "MobileNetV2": {"size": {"shortest_edge": 66}, "crop_size": {"height": 50, "width": 50}},
    "MobileViT": {
        "size": {"shortest_edge": 66},
        "crop_size": {"height": 50, "width": 50},
        "do_flip_channel_order": False,
    },
    "EfficientNet": {"size": {"height": 64, "width": 48}, "include_top": False},
    "DINOv3ViT": {"size": {"height": 64, "width": 48}},
    "Levit": {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    "ViT, padded": {"size": {"shortest_edge": 50, "longest_edge": 60}, "do_pad": True},
}
BACKENDS = ("", "Pil")
AS_THEY_ARE = {"do_normalize": False, "return_tensors": None}


def build(name, suffix, options):
    known = getattr(transformers, f"{name.partition(',')[0]}ImageProcessor{suffix}", None)
    if known is None:
        pytest.skip("has no such backend")
    try:
        return known(**({"do_rescale": False} | options))
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])


def process(processor, size_hw):
    """What the processor makes of a picture of coordinates, in pixels of the picture."""
    if processor.backend == "torchvision":
        options = AS_THEY_ARE | ({"return_tensors": "pt"} if "Detr" in type(processor).__name__ else {})
        return torch.as_tensor(processor([picture(size_hw, torch.float32)], **options)["pixel_values"][0])
    exact, options = picture(size_hw), AS_THEY_ARE | {"input_data_format": "channels_first"}
    total = torch.zeros(1, dtype=torch.float64)
    for _ in range(NOISY):
        noise = 8 * torch.rand(exact.shape) - 3.5  # right on average, before rounding and after
        made = processor([(exact + noise).floor().clamp(0, 255).to(torch.uint8).numpy()], **options)["pixel_values"][0]
        total = total + torch.as_tensor(np.asarray(made)).double()
    return total / NOISY


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("suffix", BACKENDS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_against_the_pixels(name, suffix, size_hw):
    if (name, suffix) == ("Owlv2", BACKENDS[-1]):
        pytest.importorskip("scipy", reason="transformers resizes with scipy there")
    processor = build(name, suffix, PROCESSORS[name])
    photo = Frame.image(size_hw)
    frame = integration.frame_after(processor, photo)
    assert frame.root == photo
    assert fitted_error(process(processor, size_hw), photo, frame) <= (PIL if suffix else TORCHVISION)


@pytest.mark.parametrize("suffix", BACKENDS)
@pytest.mark.parametrize("name", ["Detr", "Detr, fixed", "Sam"])
def test_a_batch_is_padded_to_its_largest(name, suffix):
    processor = build(name, suffix, PROCESSORS[name])
    frames = integration.frames_after(processor, SIZES)
    images = [picture(size_hw, torch.float32).to(torch.uint8) for size_hw in SIZES]
    batch = processor(images, input_data_format="channels_first", return_tensors="pt")
    assert {frame.size_hw for frame in frames} == {tuple(batch["pixel_values"].shape[-2:])}
    for index, frame in enumerate(frames):
        assert frame.root.size_hw == SIZES[index]
        if "pixel_mask" in batch:
            inner = frame.parent if frame.name == "pad" else frame
            assert int(batch["pixel_mask"][index].sum()) == inner.size_hw[0] * inner.size_hw[1]


def test_a_step_that_is_switched_off():
    options = {"do_resize": False, "crop_size": {"height": 51, "width": 44}}
    assert str(integration.frame_after(build("CLIP", "", options), (97, 131))) == "image 97x131 > crop 51x44"
    options = {"do_center_crop": False, "size": {"shortest_edge": 60}}
    assert str(integration.frame_after(build("CLIP", "", options), (97, 131))) == "image 97x131 > resize 60x81"


def test_a_processor_of_texts_and_images():
    inner = build("CLIP", "", {})
    both = types.SimpleNamespace(image_processor=inner)
    photo = Frame.image((97, 131))
    assert integration.frame_after(both, photo) == integration.frame_after(inner, photo)


def test_boxes_of_the_photo_in_what_dinov2_sees():
    processor = build("Bit", "", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}})
    photo = Frame.image((480, 640))
    frame = integration.frame_after(processor, photo)
    assert Boxes([[0, 0, 640, 480]], photo).to(frame).boxes_xyxy.tolist() == [[-58, -16, 283, 240]]


def test_what_is_not_known_is_refused():
    with pytest.raises(
        FrameError, match=r"^RA107: .*got Pix2StructImageProcessor, with its own _preprocess.*write the s"
    ):
        integration.frame_after(build("Pix2Struct", "", {}), (97, 131))
    with pytest.raises(FrameError, match=r"^RA107: .*got object, which is none"):
        integration.frame_after(object(), (97, 131))


def test_a_subclass_with_steps_of_its_own_is_refused():
    class Turning(transformers.ViTImageProcessor):
        def resize(self, image, *args, **kwargs):
            return super().resize(image.mT, *args, **kwargs)

    with pytest.raises(FrameError, match=r"got Turning, with its own resize"):
        integration.frame_after(Turning(), (97, 131))


def test_without_transformers_5_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.image_processing_backends", None)
    with pytest.raises(FrameError, match=r'^RA107: .*pip install "transformers>=5"'):
        integration.frame_after(build("ViT", "", {}), (97, 131))


def test_the_examples():
    finder = doctest.DocTestFinder()
    examples = [found for found in finder.find(importlib.import_module(integration.__name__)) if found.examples]
    assert len(examples) == 2
    for found in examples:
        for example in found.examples:  # skipped where transformers may be missing, as it is not here
            example.options.pop(doctest.SKIP)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found).failed == 0
