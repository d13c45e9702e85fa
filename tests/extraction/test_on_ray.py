"""The engine ray on a cluster of this machine: the rows of the local engine, with an actor killed in mid-run, too."""

import json
import os
import re
import signal

import numpy as np
import pytest
from torch import nn

from roialign import extraction
from roialign.extraction import extract
from roialign.extraction import ray as engine

from .kills import content
from .scenes import backbone_file, collection, picture
from .test_resuming import ROOT
from .test_stage import boxes_xyxy, file_of

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    environment = {"PYTHONPATH": os.pathsep.join([os.path.abspath("src"), os.path.abspath(".")])}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": environment},
    )
    yield
    ray.shutdown()


def run(folder, name, **options):
    boxes = folder / "boxes.json"
    defaults = {"workers": 1, "images_per_part": 3, "batch_size": 2, "quiet": True, "command": "the same"}
    return extract(
        folder / "photos", boxes=boxes, backbone=backbone_file(folder), out=folder / name, **{**defaults, **options}
    )


@pytest.mark.rare
def test_within_outlines_too(tmp_path, cluster):
    boxes = collection(tmp_path, 6)
    record = json.loads(boxes.read_text())
    for annotation in record["annotations"]:
        x, y, width, height = annotation["bbox"]
        across, down = x + width / 2, y + height / 2
        annotation["segmentation"] = [[across, y, x + width, down, across, y + height, x, down]]
    boxes.write_text(json.dumps(record))
    local = run(tmp_path, "local", masked=True)
    run(tmp_path, "ray", engine="ray", workers=2, masked=True)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert 0.3 < local[0].columns["mask_share"] < 0.7


@pytest.mark.rare  # Ray takes a minute to start
def test_ray_and_local_make_the_same_rows(tmp_path, cluster, monkeypatch):
    collection(tmp_path, 24)
    run(tmp_path, "local")
    run(tmp_path, "ray", engine="ray", workers=2)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    give, given = engine._give, []

    def give_and_kill(actor, parts, doing):
        given.append(actor)
        give(actor, parts, doing)
        if len(given) == 2:
            os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)

    monkeypatch.setattr(engine, "_give", give_and_kill)
    monkeypatch.setattr(engine.Actor, "pid", lambda self: os.getpid(), raising=False)
    run(tmp_path, "killed", engine="ray", workers=1)
    assert len(given) == 9
    assert content(tmp_path / "killed") == content(tmp_path / "local")


@pytest.mark.rare
def test_a_dataset_of_ray_gets_features(tmp_path, cluster):
    counts = (3, 0, 2)
    rows = [
        {"image": file_of(number), "boxes_xyxy": boxes_xyxy(number, count).tolist(), "id": number}
        for number, count in enumerate(counts)
    ]
    rows.append({"image": b"no image", "boxes_xyxy": [[0.0, 0.0, 9.0, 9.0]], "id": 3})
    options = {"backbone": backbone_file(tmp_path), "dtype": "float16", "output_size": 2, "reduce": "none"}
    dataset = ray.data.from_items(rows, override_num_blocks=2)
    dataset = dataset.map_batches(
        extraction.EmbedRegions, fn_constructor_kwargs=options, batch_size=1, concurrency=2, num_cpus=0.5
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    here = extraction.EmbedRegions(**options)
    for row, given in zip(found, rows, strict=True):
        expected = here({name: [value] for name, value in given.items()})
        assert np.array_equal(row["features"], expected["features"][0], equal_nan=True)
        assert row["features"].shape == (len(given["boxes_xyxy"]), 8, 2, 2)
        assert row["features"].dtype == np.float16
        assert list(row["levels"]) == expected["levels"][0]
        assert row["error"] == expected["error"][0]


@pytest.mark.rare
def test_the_block_of_the_page_runs(tmp_path, cluster, capsys):
    for number in range(4):
        picture(number, (480, 640)).save(tmp_path / f"{number}.jpg")
    (block,) = re.findall(
        r"```py\n(import ray.*?)```", (ROOT / "docs/extraction.md").read_text(encoding="utf-8"), re.DOTALL
    )
    backbone = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Conv2d(8, 16, 2, stride=2))
    exec(block, {"photos": tmp_path, "backbone": backbone, "extraction": extraction})
    assert capsys.readouterr().out.splitlines()[-1:] == re.findall(r"print\(.*\)  # (.*)", block)
