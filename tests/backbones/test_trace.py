"""trace: names, layouts, notes, messages, and that it leaves the backbone as it was."""

from __future__ import annotations

import collections
import json
import logging
import random
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from roialign import FeatureGrid
from roialign.backbones import trace
from roialign.errors import FeatureMapError, MapNameError, TraceError


class Pyramid(nn.Module):
    """Strides 2 and 4 with batch norm, dropout and a class score, under nested names."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.stage = nn.Conv2d(8, 16, 3, 2, 1)
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        self.last = fine = self.stem(image)
        coarse = self.stage(fine)
        score = coarse.mean((2, 3))
        return collections.OrderedDict(maps=[fine, coarse], last=coarse.permute(0, 2, 3, 1), score=score, none=None)


class SamePadding(nn.Conv2d):
    """TensorFlow's padding: what is odd goes to the bottom and the right."""

    def forward(self, image):
        pads = []
        for size in (image.shape[3], image.shape[2]):
            total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(image, pads))


def test_maps_by_nested_names_in_order():
    traced = trace(Pyramid(), (64, 96), measured=False)
    assert list(traced) == ["maps.0", "maps.1", "last"]
    assert len(traced) == 3
    grid = traced["maps.1"]
    assert (grid.size_hw, grid.stride_yx, grid.offset_yx) == ((16, 24), (4, 4), (2, 2))
    assert (grid.structural_offset_yx, grid.receptive_field_hw, grid.channels) == ((0.5, 0.5), (7, 7), 16)
    assert grid.offset_range_yx == ((0.5, 0.5), (0.5, 0.5))
    assert grid.calibrated_offset_yx is None
    assert traced.layouts["last"].kind == "NHWC"
    assert traced.left_out == {"score": "it has shape [N, 16]: no rows and columns"}


def test_all_methods_agree():
    traced = trace(Pyramid(), (64, 96))
    for name, stride in (("maps.0", 2), ("maps.1", 4), ("last", 4)):
        methods = traced.methods[name]
        assert methods["structure"] == {"stride_yx": (stride, stride), "offset_yx": (0.5, 0.5)}
        assert methods["shapes"] == {"stride_yx": (stride, stride)}
        assert methods["measured"]["stride_yx"] == pytest.approx((stride, stride), abs=1e-3)
        assert methods["measured"]["offset_yx"] == pytest.approx((0.5, 0.5), abs=1e-3)
    assert traced.notes == ()


def test_a_method_that_disagrees_is_noted(monkeypatch):
    from roialign.backbones import measure

    wrong = measure.Measured((4.0, 4.0), (2.5, 0.5), (7, 7))
    monkeypatch.setattr(measure, "measure", lambda *args: {"0": wrong})
    traced = trace(nn.Conv2d(3, 8, 7, 4, 3), (32, 32))
    assert traced.notes == ("The gradient disagrees with the structure: 0: stride 4, offset 2.5, 0.5.",)


def test_as_maps_turns_outputs_into_maps():
    backbone = Pyramid().eval()
    traced = trace(backbone, (64, 96), measured=False)
    with torch.no_grad():
        outputs = backbone(torch.rand(2, 3, 32, 64))
    maps = traced.as_maps(outputs)
    assert list(maps) == list(traced)
    assert torch.equal(maps["maps.1"], maps["last"])
    assert maps["last"].shape == (2, 16, 8, 16)
    assert maps["last"].data_ptr() == outputs["last"].data_ptr()


def test_as_maps_under_compile():
    backbone = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2))
    traced = trace(backbone, (32, 48), measured=False)
    read = torch.compile(lambda image: traced.as_maps(backbone(image))["0"], fullgraph=True, backend="eager")
    image = torch.rand(2, 3, 32, 48)
    assert torch.equal(read(image), backbone[0](image))


def test_as_maps_of_other_outputs():
    traced = trace(nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2)), (32, 48), measured=False)
    with pytest.raises(FeatureMapError, match=r"RA305: expected 0 \+ 4 x 6 tokens in dimension 2; got shape .* Trace"):
        traced.as_maps(torch.rand(2, 8, 30))
    with pytest.raises(FeatureMapError, match=r"RA305: expected a tensor at the output; got dict"):
        traced.as_maps({})


@pytest.mark.parametrize("training", [True, False])
def test_the_backbone_is_left_as_it_was(training):
    backbone = Pyramid().train(training)
    backbone.stem[1].eval()
    seen = []
    backbone.stage.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    before = {name: (id(value), value.clone()) for name, value in backbone.state_dict(keep_vars=True).items()}
    modes = [module.training for module in backbone.modules()]
    states = torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()
    trace(backbone, (32, 48))
    after = backbone.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert [module.training for module in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), torch.is_grad_enabled()) == states[1:]
    assert backbone.calls == 0
    assert not hasattr(backbone, "last")
    assert (16, 8, 12) in [shape[1:] for shape in seen]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_dtype(dtype):
    assert trace(Pyramid().to(dtype), (32, 32), measured=False)["last"].stride_yx == (4, 4)


def test_modules_without_memory():
    with torch.device("meta"):
        backbone = Pyramid()
    assert trace(backbone, (32, 32), measured=False)["last"].stride_yx == (4, 4)


def test_a_compiled_backbone():
    assert list(trace(torch.compile(Pyramid()), (32, 32), measured=False)) == ["maps.0", "maps.1", "last"]


def test_channels_are_those_of_the_first_convolution_or_as_told():
    assert trace(Pyramid(1), (32, 32), measured=False)["last"].channels == 16
    assert trace(nn.AvgPool2d(2), (32, 32), channels=5, measured=False)["0"].channels == 5


def test_the_choice_of_offset():
    traced = trace(Pyramid(), (32, 32), offset="structural", measured=False)
    assert traced.offset == "structural"
    assert traced["last"].offset_yx == (0.5, 0.5)
    assert traced.with_offset("convention")["last"].offset_yx == (2, 2)
    with pytest.raises(FeatureMapError, match=r"RA111: expected a grid with a calibrated offset; .*roialign.calibrate"):
        traced.with_offset("calibrated")
    for kind in ("centre", "x", None, float("nan"), ["convention"]):
        for known in (traced, traced["last"]):
            with pytest.raises(FeatureMapError, match=r"^RA111: .*convention.*structural.*calibrated.*; got "):
                known.with_offset(kind)
    with pytest.raises(FeatureMapError, match=r"RA111: .*roialign.trace"):
        FeatureGrid((2, 2), (4.0, 4.0)).with_offset("structural")


def test_same_padding_depends_on_the_size():
    backbone = nn.Sequential(SamePadding(3, 8, 3, 2), SamePadding(8, 8, 3, 2))
    even, odd = trace(backbone, (64, 64)), trace(backbone, (65, 65))
    assert even["0"].structural_offset_yx == (3.5, 3.5)
    assert odd["0"].structural_offset_yx == (0.5, 0.5)
    assert any(note.startswith("The offset depends on the image size") and "65 x 65" in note for note in even.notes)


def test_sizes_that_are_no_multiple_of_the_stride():
    traced = trace(Pyramid(), (64, 97), measured=False)
    assert traced["maps.1"].stride_yx == (4, 4)
    assert traced.notes == (
        "The image's size is not a multiple of the stride: maps.0: 97 pixels, 49 cells of 2; "
        "maps.1, last: 97 pixels, 25 cells of 4.",
    )


def test_strides_that_are_no_power_of_two():
    traced = trace(nn.Conv2d(3, 8, 14, 14), (224, 224), measured=False)
    assert traced.notes == ("torchvision's MultiScaleRoIAlign would infer another stride: 0: 16.",)


def test_a_backbone_for_one_size():
    class OneSize(nn.Conv2d):
        def forward(self, image):
            if image.shape[2] != 32:
                raise ValueError("only 32")
            return super().forward(image)

    traced = trace(OneSize(3, 8, 4, 4), (32, 32))
    assert traced["0"].stride_yx == (4, 4)
    assert "takes no other image size (ValueError: only 32)" in traced.notes[0]


def test_sizes_that_are_multiples_of_256_alone():
    class Blocks(nn.Conv2d):
        def forward(self, image):
            assert not any(size % 256 for size in image.shape[2:])
            return super().forward(image)

    traced = trace(Blocks(3, 8, 4, 4), (256, 512), measured=False)
    assert traced.methods["0"]["shapes"] == {"stride_yx": (4, 4)}
    assert traced.notes == ()


class Unknown(nn.Module):
    """Patches of 4 pixels, then an operator that there is no rule for, in a module of its own."""

    class Last(nn.Module):
        def __init__(self, operator) -> None:
            super().__init__()
            self.operator, self.offsets = operator, nn.Conv2d(8, 18, 3, 1, 1)

        def forward(self, x):
            return self.operator(self, x)

    def __init__(self, operator, channels_last: bool) -> None:
        super().__init__()
        self.patches, self.last, self.channels_last = nn.Conv2d(3, 8, 4, 4), self.Last(operator), channels_last

    def forward(self, image):
        maps = self.last(self.patches(image))
        return maps.permute(0, 2, 3, 1) if self.channels_last else maps


def warped(module, x):
    grid = functional.affine_grid(torch.eye(2, 3).to(x)[None].expand(len(x), -1, -1), list(x.shape), False)
    return functional.grid_sample(x, grid, align_corners=False)


def deformed(module, x):
    from torchvision.ops import deform_conv2d

    return deform_conv2d(x, module.offsets(x), torch.ones(8, 8, 3, 3).to(x), padding=1)


UNKNOWN = {
    "grid_sampler_2d": warped,
    "deform_conv2d": deformed,
    "sort": lambda module, x: x.sort(1).values,
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("operator", UNKNOWN)
def test_where_the_structure_is_unknown_the_other_methods_serve(operator, channels_last):
    backbone = Unknown(UNKNOWN[operator], channels_last)
    traced = trace(backbone, (32, 48))
    grid = traced["0"]
    assert (grid.size_hw, grid.stride_yx, grid.structural_offset_yx, grid.channels) == ((8, 12), (4, 4), None, 8)
    assert re.fullmatch(
        rf"The structure is unknown.*: 0: there is no rule for \w+\.{operator}\.\w+ in last\.", traced.notes[0]
    )
    assert "chooses by content" in traced.methods["0"]["measured"]
    assert traced.as_maps(backbone(torch.rand(1, 3, 32, 48)))["0"].shape == (1, 8, 8, 12)
    assert "?" in str(traced)


def test_where_the_gradient_leads_through_it_gives_the_offset():
    traced = trace(Unknown(lambda module, x: functional.channel_shuffle(x, 2), True), (32, 48))
    assert traced["0"].structural_offset_yx == (2, 2)
    assert "channel_shuffle.default in last" in traced.notes[0]


def test_nothing_on_stderr_where_no_other_size_fits(caplog):
    class OneSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.places = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 8, 8, 12))

        def forward(self, image):
            return self.patches(image) + self.places

    traced = trace(OneSize(), (32, 48), measured=False)
    assert "takes no other image size" in traced.notes[0]
    assert caplog.records == []
    logging.getLogger("torch._subclasses.fake_tensor").error("said outside of a trace")
    assert len(caplog.records) == 1


def test_the_table():
    text = str(trace(Pyramid(), (64, 96), measured=False))
    assert max(map(len, text.splitlines())) <= 80
    assert "Pyramid, image 64 x 96; offset in use: convention (half a stride)" in text
    row = next(line for line in text.splitlines() if line.startswith("maps.1"))
    assert row.split() == ["maps.1", "16", "x", "24", "4", "0.5", "7", "1/4", "+1.5", "-0.5"]
    assert "- left out: score: it has shape [N, 16]: no rows and columns." in text


def test_the_table_stays_narrow_with_long_names():
    class Long(nn.Conv2d):
        def forward(self, image):
            return {f"a_very_long_name_of_an_output_that_goes_on_and_on_{n}": super(Long, self).forward(image)
                    for n in range(2)}  # fmt: skip

    text = str(trace(Long(3, 4, (3, 5), (2, 4), (1, 0)), (640, 961), measured=False))
    assert max(map(len, text.splitlines())) <= 80
    assert "goes_on_and_on_1" in text.replace("..", "_") or "on_1" in text
    assert "none fits" in text


def test_as_json():
    content = json.loads(json.dumps(trace(Pyramid(), (64, 96)).to_dict()))
    assert content["image_size_hw"] == [64, 96]
    assert content["maps"]["last"]["structural_offset_yx"] == [0.5, 0.5]
    assert content["maps"]["last"]["layout"]["kind"] == "NHWC"
    assert set(content["maps"]["last"]["methods"]) == {"structure", "shapes", "measured"}
    assert "score" in content["left_out"]


BAD = [
    (lambda: trace("resnet50", (224, 224)), r"RA308: expected a torch.nn.Module .*; got str"),
    (lambda: trace(Pyramid(), 224), r"RA308: expected image_size=\(height, width\) of positive integers; got 224"),
    (lambda: trace(Pyramid(), (224, 0)), r"RA308: .*got \(224, 0\)"),
    (
        lambda: trace(Pyramid(), (32, 32), channels=4),
        r"RA308: expected a backbone that runs on an image \[N, 4, 32, 32\]",
    ),
    (lambda: trace(nn.Linear(3, 3), (32, 32)), r"RA308: expected a backbone that runs on an image"),
    (lambda: trace(nn.AdaptiveAvgPool2d(1), (32, 32)), r"RA308: .* whole image was mixed.*features_only=True"),
    (lambda: trace(nn.LazyConv2d(8, 3), (32, 32)), r"RA308: .*run lazy modules once first"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_messages(call, message):
    with pytest.raises(TraceError, match=message):
        call()


def test_no_such_map():
    with pytest.raises(MapNameError, match=r"^RA401: .*one of maps.0, maps.1, last; no map is called 'c5'\.$"):
        trace(Pyramid(), (32, 32), measured=False)["c5"]


def test_a_notebook_shows_the_table_and_what_was_said():
    traced = trace(Pyramid(), (32, 48), measured=False)
    shown = traced._repr_html_()
    rows = [re.findall(r"<td [^>]*>(.*?)</td>", row) for row in re.findall(r"<tr [^>]*>(.*?)</tr>", shown)]
    assert rows[1:3] == [
        ["maps.0", "16 x 24", "2", "0.5", "3", "1/2", "+0.5", "-0.5"],
        ["maps.1", "8 x 12", "4", "0.5", "7", "1/4", "+1.5", "-0.5"],
    ]
    assert "Pyramid, image 32 x 48; offset in use: convention (half a stride)" in shown
    assert "- left out: score: it has shape [N, 16]: no rows and columns." in shown


def test_a_notebook_is_not_flooded_and_names_stay_text():
    name = '<script>alert(1)</script>"' * 1000
    traced = trace(Pyramid(), (32, 48), measured=False)
    fields = {part: dict.fromkeys(range(500), getattr(traced, part)["last"]) for part in ("grids", "whole_image")}
    fields = {part: {f"{name}{key}"[-600:]: value for key, value in by_key.items()} for part, by_key in fields.items()}
    shown = replace(traced, backbone=name, notes=(name,) * 100, **fields)._repr_html_()
    assert "<script" not in shown
    assert "and 480 more" in shown
    assert len(shown) < 100_000


COST = """
import resource, time
import torch, torchvision
import roialign
model = torchvision.models.get_model("resnet50", weights=None)
body = torchvision.models._utils.IntermediateLayerGetter(model, {f"layer{i}": f"c{i + 1}" for i in range(1, 5)})
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
traced = roialign.trace(body, (800, 1344))
seconds = time.process_time() - begin
megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert traced["c5"].stride_yx == (32, 32)
print(seconds, megabytes)
"""


def test_resnet50_at_full_size_takes_three_seconds_and_200_megabytes_at_most():
    """All three methods, the first call of a process; in processor time, for the machine may be busy."""
    pytest.importorskip("torchvision")
    child = subprocess.run([sys.executable, "-c", COST], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, child.stdout.split())
    assert seconds < 3
    assert megabytes < 200
