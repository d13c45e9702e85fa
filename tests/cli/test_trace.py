"""`roialign trace`: what it prints, in 80 columns, and what it says of models that it does not know."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from roialign.cli.app import app
from roialign.integrations.models import ModelError, load_backbone

NET = """
from torch import nn
def lopsided():
    return nn.Sequential(nn.ZeroPad2d((3, 5, 1, 7)), nn.AvgPool2d(8))
def net():
    return nn.Sequential(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
broken = 3
def none():
    return None
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


def test_timm_models_give_their_features():
    pytest.importorskip("timm")
    content = json.loads(call("timm/resnet18", "--size", "64x96", "--json").output)
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [2, 4, 8, 16, 32]


def test_transformers_models_from_their_type():
    pytest.importorskip("transformers")
    content = json.loads(call("transformers/resnet", "--size", "64x96", "--json").output)
    assert [grid["stride_yx"][0] for grid in content["maps"].values()] == [4, 8, 16, 32]


BAD = [
    (["resnet50"], r"expected torchvision/NAME.*Is it torchvision/resnet50 or timm/resnet50"),
    (["nowhere.py:net"], r"there is no file nowhere.py"),
    (["{net}", "--size", "big"], r"expected --size HEIGHTxWIDTH, such as 800x1344; got 'big'"),
    (["{net}", "--offset", "centre"], r"expected --offset convention, structural, calibrated; got 'centre'"),
    (["{net}s"], r"has no 'nets'; near: net"),
    (["{file}:none"], r"expected .*:none to return a torch.nn.Module; got NoneType"),
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
