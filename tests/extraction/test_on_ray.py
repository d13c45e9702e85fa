"""The engine ray on a cluster of this machine: the rows of the local engine, with an actor killed in mid-run, too."""

import os
import signal

import pytest

from roialign.extraction import extract
from roialign.extraction import ray as engine

from .kills import content
from .scenes import backbone_file, collection

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
