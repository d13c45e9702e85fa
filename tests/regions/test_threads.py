"""An extractor traces its backbone while other threads run it."""

import threading

import torch
from torch import nn

from roialign.regions import RegionExtractor


def test_what_other_threads_run_meanwhile_is_not_disturbed() -> None:
    layers = [layer for _ in range(20) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))]
    backbone, image = nn.Sequential(*layers).eval(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected = backbone(image)
    ended, wrong = threading.Event(), list[str]()

    def run() -> None:
        while not ended.is_set() and not wrong:
            try:
                with torch.no_grad():
                    found = backbone(image)
                if type(found) is not torch.Tensor or not torch.equal(found, expected):
                    wrong.append(repr(found))
            except Exception as error:
                wrong.append(repr(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        extractor = RegionExtractor(backbone, 2)
        for side in range(32, 37):
            assert extractor.trace((side, side))["0"].size_hw == (side, side)
    finally:
        ended.set()
        thread.join()
    assert wrong == []
