"""RegionExtractor by name, and with classifiers as they are; weights are not downloaded: what asks for them is."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from roialign import RegionExtractor
from roialign.integrations import named
from roialign.integrations.models import ModelError

BOXES = [torch.tensor([[10.0, 10.0, 60.0, 80.0], [0.0, 20.0, 40.0, 60.0]])]


def pooled(extractor: RegionExtractor, size: tuple[int, int] = (101, 83)) -> torch.Size:
    with torch.no_grad():
        return extractor([torch.rand(3, *size)], BOXES).features.shape


def test_timm_by_name_at_any_size() -> None:
    pytest.importorskip("timm")
    extractor = RegionExtractor("timm/resnet10t", 3, pretrained=False)
    assert not extractor.training or not extractor.backbone.training
    assert extractor.mean is not None
    assert extractor.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert pooled(extractor) == (2, 512, 3, 3)
    vit = RegionExtractor("timm/vit_tiny_patch16_224", 3, pretrained=False, mean=[0.1] * 3)
    assert pooled(vit) == (2, 192, 3, 3)
    assert vit.mean is not None
    assert vit.mean.flatten().tolist() == pytest.approx([0.1] * 3)


def test_torchvision_by_name() -> None:
    pytest.importorskip("torchvision")
    extractor = RegionExtractor("torchvision/resnet18", 3, pretrained=False)
    assert pooled(extractor) == (2, 512, 3, 3)
    assert list(extractor.trace((64, 64))) == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert extractor.std is not None
    assert extractor.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_classifiers_are_run_up_to_their_maps() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    classifier = timm.create_model("resnet10t").eval()
    image = torch.rand(1, 3, 64, 96)
    extractor = RegionExtractor(classifier, 3)
    assert pooled(extractor) == (2, 512, 3, 3)
    assert torch.equal(extractor.backbone(image), classifier.forward_features(image))
    assert pooled(RegionExtractor(torchvision.models.resnet18(), 3)) == (2, 512, 3, 3)
    module = nn.Conv2d(3, 8, 4, 4)
    assert RegionExtractor(module, 3).backbone is module


def test_trained_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    asked: list[dict[str, Any]] = []

    def make(name: str, **options: Any) -> nn.Module:
        asked.append(options)
        return nn.Conv2d(3, 8, 4, 4)

    monkeypatch.setattr(timm, "create_model", make)
    monkeypatch.setattr(torchvision.models, "get_model", make)
    for pretrained in (True, False):
        assert not RegionExtractor("timm/resnet50", pretrained=pretrained).backbone.training
        RegionExtractor("torchvision/resnet50", pretrained=pretrained)
    assert asked == [
        {"pretrained": True, "features_only": True},
        {"weights": "DEFAULT"},
        {"pretrained": False, "features_only": True},
        {"weights": None},
    ]


def test_transformers_are_asked_for_weights_and_for_what_they_were_normalised_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def kind(name: str, made: Any, **more: Any) -> Any:
        def from_pretrained(model: str) -> Any:
            asked.append((name, model))
            return made

        return SimpleNamespace(from_pretrained=from_pretrained, **more)

    fake = SimpleNamespace(
        AutoConfig=kind("config", object()),
        AutoBackbone=kind("backbone", None, _model_mapping={}),
        AutoModel=kind("model", nn.Conv2d(3, 8, 4, 4)),
        AutoImageProcessor=kind("processor", SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3)),
    )
    monkeypatch.setattr(named.importlib, "import_module", lambda name: fake)
    built = named.libraries.build("transformers/some/model", True)
    assert asked == [(part, "some/model") for part in ("config", "model", "processor")]
    assert (built.mean, built.std) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("model", ["resnet50", "timm/resnet5O", "torchvision/resnet5O"])
def test_names_that_no_library_has(model: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match="resnet50"):
        RegionExtractor(model, pretrained=True)
