"""Folders of VOC's and COCO's form, and the views that a training takes of their photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("hotcoco", reason="needs the extra `detection`")

from examples.detection.data import Photo, Photos, read
from examples.detection.draws import Draws, Steps, View

from .scenes import CLASSES, scene, write_coco, write_voc

SPLITS = {"train": range(5), "test": range(5, 7)}


@pytest.fixture(params=["voc", "coco"])
def folder(request: Any, tmp_path: Path) -> Path:
    return {"voc": write_voc, "coco": write_coco}[request.param](tmp_path / request.param, SPLITS)


def test_boxes_and_labels_are_those_that_were_drawn(folder: Path) -> None:
    photos = read(folder, "test")
    assert photos.classes == CLASSES
    assert len(photos) == 2
    for photo, seed in zip(photos, SPLITS["test"], strict=True):
        _, things = scene(seed)
        assert photo.boxes_xyxy.tolist() == [list(map(float, box)) for _, box in things]
        assert [CLASSES[label - 1] for label in photo.labels.tolist()] == [name for name, _ in things]
        assert photo.pixels().shape == (3, *photo.size_hw) == (3, 80, 112)


def test_masks_of_polygons_and_of_run_lengths_fill_their_boxes(tmp_path: Path) -> None:
    for photo in read(write_coco(tmp_path, SPLITS), "train"):
        masks = photo.masks()
        assert masks is not None
        for mask, (left, top, right, bottom) in zip(masks, photo.boxes_xyxy.int().tolist(), strict=True):
            assert int(mask.sum()) == int(mask[top:bottom, left:right].sum()) == (right - left) * (bottom - top)


def test_classes_of_the_training_keep_their_labels(folder: Path) -> None:
    reversed_classes = read(folder, "test", CLASSES[::-1])
    assert [CLASSES[2 - int(label)] for label in reversed_classes.photos[0].labels] == [name for name, _ in scene(5)[1]]
    only = read(folder, "train", ["square"])
    assert {int(label) for photo in only for label in photo.labels} == {1}
    assert len(only.left_out) == sum(name == "disc" for seed in SPLITS["train"] for name, _ in scene(seed)[1])


def test_marks_that_are_no_boxes_are_left_out_and_said(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, SPLITS)
    page = folder / "Annotations" / "0.xml"
    point = "<xmin>7</xmin><ymin>9</ymin><xmax>7</xmax><ymax>9</ymax>"
    thing = f"<object><name>disc</name><bndbox>{point}</bndbox></object></annotation>"
    page.write_text(page.read_text().replace("</annotation>", thing))
    photos = read(folder, "train")
    assert photos.left_out == ["0: disc [7.0, 9.0, 7.0, 9.0]"]
    assert len(photos.photos[0].labels) == 2


def test_a_folder_of_neither_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has neither"):
        read(tmp_path, "train")
    with pytest.raises(SystemExit, match=r"expected a split of .*, test or train; got val"):
        read(write_voc(tmp_path / "voc", SPLITS), "val")


def _where_red_or_blue(image: Tensor) -> Tensor:
    return (image.amax(0) - image.amin(0)) > 0.25


@pytest.mark.parametrize("number", range(12))
def test_boxes_and_masks_follow_their_things_through_any_view(tmp_path: Path, number: int) -> None:
    photos = read(write_coco(tmp_path, {"train": range(4)}), "train")
    view = View((96, 128), any_way_up=True, light=0)
    image, target = Draws(photos, view, seed=3)[number]
    assert image.shape == (3, 96, 128)
    assert target["masks"].shape == (len(target["boxes"]), 96, 128)
    seen = _where_red_or_blue(image)
    for box, mask in zip(target["boxes"].round().int().tolist(), target["masks"].bool(), strict=True):
        left, top, right, bottom = box
        inside = torch.zeros_like(seen)
        inside[top:bottom, left:right] = True
        assert float((inside & mask).sum() / (inside | mask).sum()) > 0.85
        assert float((seen & inside).sum() / inside.sum()) > 0.6  # a disc fills 0.79 of its box


def test_each_epoch_shows_each_photograph_once_and_in_another_order(tmp_path: Path) -> None:
    photos = read(write_voc(tmp_path, SPLITS), "train")
    order: list[Path] = []

    class Plain(View):
        def of(self, photo: Photo, draws: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            order.append(photo.path)
            return torch.rand((), generator=draws), {}

    draws = Draws(photos, Plain((8, 8)), seed=0)
    values = [float(draws[number][0]) for number in range(15)]
    epochs = order[:5], order[5:10], order[10:]
    assert all(sorted(epoch) == sorted(photo.path for photo in photos) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(values)) == 15
    assert [float(draws[number][0]) for number in (14, 3)] == [values[14], values[3]]


def test_processes_share_each_batch() -> None:
    alone = list(Steps(3, 6, batch=4))
    shared = [list(Steps(3, 6, batch=4, rank=rank, world=2)) for rank in range(2)]
    assert alone == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert [sorted(one + other) for one, other in zip(*shared, strict=True)] == alone


def test_crowds_are_not_learnt(tmp_path: Path) -> None:
    (photo,) = read(write_voc(tmp_path, {"train": range(1)}), "train")
    crowded = Photo(photo.path, photo.size_hw, photo.boxes_xyxy, photo.labels, torch.tensor([True, False]))
    _, target = Draws(Photos([crowded], CLASSES), View((80, 112), zoom=(1, 1)), seed=0)[0]
    assert target["labels"].tolist() == photo.labels[1:].tolist()
