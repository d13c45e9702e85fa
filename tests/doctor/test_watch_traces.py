"""The model, found by itself: what `watch(model)` knows, `watch()` knows; and what tracing must not do."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign
from roialign.doctor.images import SeenImages
from roialign.doctor.model import ModelGrids
from roialign.ops.calls import RoICall

ROIS = torch.tensor([[0.0, 20.0, 30.0, 120.0, 140.0]])


class Unpadded(nn.Sequential):
    """Stride 4, the first cell centred at 12.5 px: it loses its border."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 9, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 9, stride=2))
        self.runs = 0

    def forward(self, image: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(image)


def grid(seen: SeenImages, features: Tensor) -> roialign.FeatureGrid | None:
    return seen.of(RoICall(features, ROIS, (2, 2), 1 / 4, 2, True)).grid


def test_with_and_without_the_model_the_same_is_known() -> None:
    model = Unpadded()
    for given in (None, model):
        seen = SeenImages(given)
        with seen.watching(), torch.no_grad():
            found = grid(seen, model(torch.rand(1, 3, 256, 320)))
        assert found is not None
        assert found.stride_yx == (4.0, 4.0)
        assert found.structural_offset_yx == (12.5, 12.5)
        assert found.size_hw == (58, 74)
    assert model.runs == 2, "traced on a twin"


def test_another_map_of_that_size_is_not_the_modules() -> None:
    model, seen = Unpadded(), SeenImages()
    with seen.watching(), torch.no_grad():
        model(torch.rand(1, 3, 256, 320))
        assert grid(seen, torch.rand(2, 8, 58, 74)) is None
        assert grid(seen, torch.rand(1, 8, 57, 74)) is None


class Branching(nn.Module):
    """Cannot be traced: it looks at the values of the image."""

    tried = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, image: Tensor) -> Tensor:
        type(self).tried += 1
        return self.net(image) if float(image.sum()) > -1 else image


def test_what_cannot_be_traced_is_tried_once_and_then_what_is_inside_it() -> None:
    model, seen = Branching(), SeenImages()
    with seen.watching(), torch.no_grad():
        for size in (128, 160, 192, 128):
            found = grid(seen, model(torch.rand(1, 3, size, size)))
            assert found is not None
            assert found.stride_yx == (16.0, 16.0)
    assert Branching.tried <= 6, "four runs, and those of one trace"


def test_prints_of_the_model_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    class Prints(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, 8, 16, stride=16)

        def forward(self, image: Tensor) -> Tensor:
            features: Tensor = self.net(image)
            print("shape", tuple(features.shape))
            return features

    seen = SeenImages()
    with seen.watching(), torch.no_grad():
        assert grid(seen, Prints()(torch.rand(1, 3, 128, 128))) is not None
    assert capsys.readouterr().out == "shape (1, 8, 8, 8)\n"


def test_other_threads_run_the_model_while_it_is_traced() -> None:
    model = Unpadded().train()
    image = torch.rand(1, 3, 64, 64)
    expected = nn.Sequential.forward(model, image)
    stop, wrong = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            output = nn.Sequential.forward(model, image)
            if type(output) is not Tensor or not torch.equal(output, expected) or not model.training:
                wrong.append(output)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for size in range(128, 160, 4):
            assert ModelGrids().of(model, (size, size), 3, (1, 8, 1, 1)) is None
    finally:
        stop.set()
        thread.join()
    assert wrong == []


def test_modules_that_speak_to_other_processes_are_not_run() -> None:
    ran: list[int] = []

    class Inner(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            ran.append(1)
            return nn.functional.avg_pool2d(image, 8)

    class Parallel(nn.Module):
        __module__ = "torch.nn.parallel.distributed"

        def __init__(self) -> None:
            super().__init__()
            self.module = Inner()

        def forward(self, image: Tensor) -> Any:
            return self.module(image)

    parallel = Parallel()
    assert ModelGrids().of(parallel, (64, 64), 3, (1, 3, 8, 8)) is None
    assert ran == []
    assert ModelGrids().of(parallel.module, (64, 64), 3, (1, 3, 8, 8)) is not None


def test_modules_are_not_held_for_long() -> None:
    seen, model = SeenImages(), Unpadded()
    reference = weakref.ref(model)
    with seen.watching(), torch.no_grad():
        assert grid(seen, model(torch.rand(1, 3, 128, 128))) is not None
        del model
        for _ in range(2):
            nn.Conv2d(3, 8, 16, stride=16)(torch.rand(1, 3, 64, 64))
        gc.collect()
    assert reference() is None


def test_a_module_whose_forward_was_replaced() -> None:
    model = Unpadded()
    original = model.forward
    model.forward = lambda image: original(image)[:, :4]  # type: ignore[method-assign]
    found = ModelGrids().of(model, (256, 256), 3, (1, 4, 58, 58))
    assert found is not None
    assert found.channels == 4
