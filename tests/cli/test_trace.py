"""`roialign trace`: what it prints, in 80 columns, and what it says of models that it does not know."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from roialign.backbones.trace import trace
from roialign.cli.app import app
from roialign.integrations.models import ModelError, load_backbone
from roialign.integrations.models.common import Middle

NET = """
from torch import nn
def lopsided():
    return nn.Sequential(nn.ZeroPad2d((3, 5, 1, 7)), nn.AvgPool2d(8))
def net():
    return nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
number = 3
def none():
    return None
def build(cfg):
    return nn.Identity()
def raises():
    return {}["key"]
def leaves():
    raise SystemExit("bye")
def lacks():
    import no_such_package
class Failing(nn.Module):
    def forward(self, image):
        return image.view(1, 2, 3)
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NET)
    return f"{path}:net"


def call(*arguments):
    return CliRunner().invoke(app, ["trace", *arguments])


def test_a_callable_of_a_file(net):
    result = call(net, "--size", "64x96")
    assert result.exit_code == 0, result.output
    assert "Sequential, image 64 x 96; offset in use: convention" in result.output
    assert "16 x 24" in result.output


def test_layers(net):
    result = call(net, "--size", "64x96", "--layers", "--offset", "structural")
    assert max(map(len, result.output.splitlines())) <= 80
    assert "offset in use: structural" in result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["0", "convolution", "7", "2", "3", "2", "0.5", "7"] in lines
    assert ["2", "max_pool2d", "3", "2", "1", "4", "0.5", "11"] in lines


def test_json(net):
    content = json.loads(call(net, "--size", "64", "--json", "--layers").output)
    assert content["maps"]["0"]["stride_yx"] == [4, 4]
    assert [layer["module"] for layer in content["layers"]] == ["0", "2"]


def test_torchvision_models_give_a_map_of_each_size():
    pytest.importorskip("torchvision")
    content = json.loads(call("torchvision/resnet18", "--size", "64x96", "--json").output)
    assert list(content["maps"]) == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "strides"), [("r3d_18", [2, 4, 8, 16]), ("raft_small", [8]), ("ssdlite320_mobilenet_v3_large", None)]
)
def test_video_flow_and_detection(name, strides):
    pytest.importorskip("torchvision")
    result = trace(load_backbone(f"torchvision/{name}", (64, 96)), (64, 96), measured=False)
    found = [grid.stride_yx[0] for grid in result.values()]
    assert found == strides or (strides is None and found[:2] == [16, 32])


def test_tokens_of_video_at_one_time():
    tokens, size_thw = torch.arange(1 + 2 * 3 * 4).float().view(1, -1, 1), (2, 3, 4)
    stages = torch.nn.Identity()
    stages.forward = lambda image: {"block": (tokens, size_thw)}
    assert Middle(stages, 1)(None)["block"].flatten().tolist() == list(range(13, 25))


def test_timm_models_give_their_features():
    pytest.importorskip("timm")
    content = json.loads(call("timm/resnet18", "--size", "64x96", "--json").output)
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [2, 4, 8, 16, 32]


def test_a_configuration_that_transformers_cannot_build_by_itself() -> None:
    """ConvNeXt's defaults are tuples where lists are wanted, in transformers 5.23."""
    pytest.importorskip("transformers")
    content = json.loads(call("transformers/convnext", "--size", "64", "--json").output)
    assert [grid["stride_yx"] for grid in content["maps"].values()] == [[n, n] for n in (4.0, 8.0, 16.0, 32.0)]


def test_transformers_models_from_their_type():
    pytest.importorskip("transformers")
    content = json.loads(call("transformers/resnet", "--size", "64x96", "--json").output)
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [4, 8, 16, 32]


def test_a_file_that_cannot_be_read_as_python(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import torch\ndef net(:\n    pass\n")
    result = call(f"{path}:net")
    assert result.exit_code == 2
    assert "broken.py raised SyntaxError in line 2" in " ".join(result.output.split())
    assert "without a callable. Type its name" in " ".join(call(str(path)).output.split())


def test_a_file_finds_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("from torch import nn\ndef inner(): return nn.Conv2d(3, 8, 4, 4)\n")
    path = tmp_path / "outer.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_it import inner as net\n"
        "@dataclass\nclass Options:\n    width: int = 3\n"
    )
    assert call(f"{path}:net", "--size", "64").exit_code == 0


def test_a_defect_of_ours_is_said_to_be_one(net, monkeypatch):
    def fails(*args, **kwargs):
        raise KeyError("rule")

    monkeypatch.setattr("roialign.cli.trace.trace", fails)
    result = call(net)
    assert result.exit_code == 2
    assert re.search("could not be traced: KeyError: 'rule', in .* please report it", " ".join(result.output.split()))


def test_the_vision_tower_and_the_encoder_of_larger_models(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    clip = transformers.CLIPConfig(text_config=small, vision_config={**small, "patch_size": 16, "image_size": 64})
    clip.save_pretrained(tmp_path / "clip")
    content = json.loads(call(f"transformers/{tmp_path}/clip/config.json", "--size", "64", "--json").output)
    assert content["maps"]["last_hidden_state"]["stride_yx"] == [16, 16]
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    detr = transformers.DetrConfig(
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    detr.save_pretrained(tmp_path / "detr")
    content = json.loads(call(f"transformers/{tmp_path}/detr/config.json", "--size", "64x96", "--json").output)
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [8, 8]
    assert list(content["maps"]) == ["backbone.0", "encoder.last_hidden_state"]


BAD = [
    (["resnet50"], r"expected torchvision/NAME.*Is it torchvision/resnet50 or timm/resnet50"),
    (["nowhere.py:net"], r"there is no file nowhere.py"),
    (["{net}", "--size", "big"], r"expected --size HEIGHTxWIDTH, such as 800x1344; got 'big'"),
    (["{net}", "--offset", "centre"], r"expected --offset convention, structural, calibrated; got 'centre'"),
    (["{net}s"], r"has no 'nets'; near: net"),
    (["{file}:none"], r"expected .*:none to return a torch.nn.Module; got NoneType"),
    (["{file}"], r"expected path.py:callable; got .*nets.py without a callable. Such as .*nets.py:lopsided"),
    (
        ["{file}:build"],
        r"expected a callable that needs no arguments; .*:build needs cfg. Pass them in your own function",
    ),
    (["{file}:number"], r"expected .*:number to be a torch.nn.Module or a function that returns one; got int"),
    (["{file}:raises"], r"nets.py:raises raised KeyError in line 13: 'key'"),
    (["{file}:leaves"], r"nets.py:leaves raised SystemExit in line 15: bye"),
    (["{file}:lacks"], r"nets.py:lacks raised ModuleNotFoundError in line 17: No module named 'no_such_package'"),
    (["{file}:Failing"], r"RA308: expected a backbone that runs on .* It was raised in .*nets.py, line 20"),
    (["torchvision"], r"expected torchvision/NAME.*Is it torchvision/resnet18 or another"),
    (["timm/vit_tiny_patch16_224.none"], r"Invalid pretrained tag .*; it has vit_tiny_patch16_224.augreg"),
    (["transformers/bert"], r"expected a configuration of a model that takes an image .* takes input_ids"),
    (["transformers/siglip2"], r"takes an image .* and nothing else; .* also needs pixel_attention_mask"),
    (["transformers/videomae"], r"transformers/videomae takes clips of 16 frames"),
    (["torchvision/maxvit_t", "--size", "225x224"], r"torchvision/maxvit_t cannot be built for 225 x 224|does not run"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_messages(arguments, message, net):
    given = [argument.format(net=net, file=net.removesuffix(":net")) for argument in arguments]
    result = call(*given)
    assert result.exit_code == 2
    assert max(map(len, result.output.splitlines())) <= 80 or "/" in result.output  # paths are not broken
    assert re.search(message, " ".join(result.output.split())), result.output


@pytest.mark.parametrize(
    ("model", "near"),
    [("torchvision/resnt50", "resnet50"), ("timm/resnet5", "resnet50"), ("transformers/swim", "swin")],
)
def test_near_names(model, near):
    pytest.importorskip(model.partition("/")[0])
    with pytest.raises(ModelError, match=near):
        load_backbone(model)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install timm"):
        load_backbone("timm/resnet50")


def test_calibrates_on_a_folder_of_images(net, tmp_path):
    folder, plot = tmp_path / "photos", tmp_path / "agreement.svg"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(5):
        pixels = (torch.rand(12, 12, 3, generator=generator) * 255).to(torch.uint8)
        Image.fromarray(pixels.numpy()).resize((96, 96), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
    model = net.replace(":net", ":lopsided")
    options = "--size", "96x96", "--calibrate", str(folder), "--plot", str(plot), "--mean", "0.5", "--std", "0.25"
    shown = call(model, *options)
    assert shown.exit_code == 0, shown.output
    assert "by mirror agreement: 5 images of 96 x 96" in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    assert plot.read_text().startswith("<svg")
    calibrated = call(model, *options, "--json", "--offset", "calibrated")
    assert json.loads(calibrated.stdout)["maps"]["0"]["offset_yx"] == pytest.approx([3, 1], abs=0.5)
    refused = call(model, "--calibrate", str(tmp_path / "none"))
    assert refused.exit_code == 2
    assert "RA307: expected a folder" in refused.output
    refused = call(model, "--calibrate", str(folder), "--mean", "grey")
    assert refused.exit_code == 2
    assert "expected --mean as one number or three" in refused.output
