"""How well the doctor does: faults made at random in healthy programs, and healthy programs left as they are.

Run by `python -m benchmarks.doctor`, which writes benchmarks/results/doctor.md, .csv and .svg, and
the plot of the documentation.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from .doctor_alarms import Watched, section, watch_healthy, watch_pipeline, watch_whole
from .doctor_cases import Program, run_program
from .doctor_faults import FAULTS, Fault
from .doctor_healthy import Healthy, healthy_programs
from .doctor_more_faults import MORE_FAULTS
from .doctor_pipelines import BOX_COUNTS, Pipeline, pipelines
from .doctor_reliability import curve, draw, verdicts_weighed
from .doctor_report import as_csv, page
from .doctor_scenes import Album, album
from .doctor_special import special_pipelines
from .environment import environment
from .results import write_all

RESULTS = Path(__file__).parent / "results"
ASSETS = Path(__file__).parents[1] / "docs" / "assets"
_PROGRAMS = 301
_HEALTHY_CALLS = 2000
_TO_EACH_NEW_FAULT = 4  # programs
_STEP = 5  # from new fault to new fault, so that a few programs have faults of all kinds
_WHOLE = 4  # of each detector
_PHOTOGRAPHS = 4  # of each program
_CALLS_IN_A_ROUND = 60  # at least; a round is every healthy program once


@dataclass(frozen=True)
class _Job:
    """One program to run, as it is told to another process."""

    key: str
    """What its random numbers are drawn with."""
    name: str
    """Of the fault, or of the healthy program."""
    first_43: bool = False


@dataclass(frozen=True)
class _Held:
    """What a process builds once."""

    first: list[Pipeline]
    special: list[Pipeline]
    healthy: dict[str, Healthy]
    album: Album


_held: _Held | None = None


def faulty_programs(pool: Executor, programs: int, seed: int) -> tuple[list[Program], list[Program]]:
    """So many programs with one of the first 43 faults each, all kinds in turn, and in proportion of the new ones."""
    first = [_Job(f"{seed}/{index}", _in_turn(FAULTS, index).name, True) for index in range(programs)]
    new = max(1, round(len(MORE_FAULTS) * _TO_EACH_NEW_FAULT * programs / _PROGRAMS))
    jobs = first + [_Job(f"{seed}/new/{index}", _in_turn(MORE_FAULTS, _STEP * index).name) for index in range(new)]
    made = list(pool.map(_program, jobs, chunksize=1))
    return made[:programs], made[programs:]


def healthy_calls(pool: Executor, calls: int, seed: int) -> list[Watched]:
    """What is said of at least so many healthy calls, of all programs in turn."""
    found: list[Watched] = []
    names = pool.submit(_names_of_healthy).result()
    round_ = 0
    while sum(one.calls for one in found) < calls:
        jobs = [_Job(f"{seed}/healthy/{round_}/{name}", name) for name in names]
        missing = calls - sum(one.calls for one in found)
        if missing < _CALLS_IN_A_ROUND:
            jobs = random.Random(f"{seed}/{round_}").sample(jobs, min(len(jobs), missing))
        found += pool.map(_healthy, jobs, chunksize=1)
        round_ += 1
        print(f"{sum(one.calls for one in found)} healthy calls", file=sys.stderr, flush=True)
    return found


def whole_detectors(pool: Executor, seed: int) -> list[Watched]:
    """What is said of all calls of whole detectors."""
    names = pool.submit(_names_of_whole).result()
    return list(pool.map(_whole, [_Job(f"{seed}/whole/{index}", name) for name in names for index in range(_WHOLE)]))


def _in_turn(faults: Sequence[Fault], index: int) -> Fault:
    return faults[index % len(faults)]


def _begin(folder: Path | None) -> None:
    global _held
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    healthy = {one.name: one for one in healthy_programs()}
    _held = _Held(pipelines(), special_pipelines(), healthy, album(folder))


def _built() -> _Held:
    if _held is None:
        raise RuntimeError("nothing was built")
    return _held


def _names_of_healthy() -> list[str]:
    held = _built()
    return [*held.healthy, *(one.name for one in (*held.first, *held.special))]


def _names_of_whole() -> list[str]:
    return [one.name for one in _built().first if one.whole]


def _program(job: _Job) -> Program:
    held, rng = _built(), random.Random(job.key)
    fault = next(one for one in (FAULTS if job.first_43 else MORE_FAULTS) if one.name == job.name)
    pipeline = rng.choice([one for one in _open_to(job, held) if one.kind in fault.kinds and fault.only in one.name])
    made_with = rng.randrange(2**31)
    scene = held.album.scene if job.first_43 else held.album.any_scene
    if fault.picture and held.album.drawn:
        scene = held.album.drawn_scene
    scenes = [scene(pipeline.counts, rng, fault.square) for _ in range(_PHOTOGRAPHS)]
    program = run_program(pipeline, fault, scenes, made_with, rows=not job.first_43 and rng.random() < 0.5)
    print(f"{job.key}: {program.fault}, {pipeline.name}", file=sys.stderr, flush=True)
    return program


def _open_to(job: _Job, held: _Held) -> Iterator[Pipeline]:
    """The pipelines that faults are made in, for the first 43 always the same."""
    yield from held.first
    if not job.first_43:
        yield from held.special


def _healthy(job: _Job) -> Watched:
    held, rng = _built(), random.Random(job.key)
    if job.name in held.healthy:
        return watch_healthy(held.healthy[job.name], lambda: held.album.any_scene(BOX_COUNTS, rng), rng)
    pipeline = next(one for one in (*held.first, *held.special) if one.name == job.name)
    return watch_pipeline(pipeline, held.album.any_scene(pipeline.counts, rng), rng)


def _whole(job: _Job) -> Watched:
    held, rng = _built(), random.Random(job.key)
    pipeline = next(one for one in held.first if one.name == job.name)
    return watch_whole(pipeline, held.album.scene(pipeline.counts, rng))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--programs", type=int, default=_PROGRAMS, help="how many to make a fault in; all else in proportion"
    )
    parser.add_argument("--healthy", type=int, metavar="N", help="only N healthy calls; writes nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--data", type=Path, help="a folder of more photographs, some with boxes as Pascal VOC files")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--name", default="doctor", help="what their files are called")
    given = parser.parse_args()
    begin = time.monotonic()
    with ProcessPoolExecutor(given.workers, get_context("spawn"), _begin, (given.data,)) as pool:
        if given.healthy:
            print(section(healthy_calls(pool, given.healthy, given.seed)))
            return
        first, new = faulty_programs(pool, given.programs, given.seed)
        watched = healthy_calls(pool, round(_HEALTHY_CALLS * given.programs / _PROGRAMS), given.seed)
        watched += whole_detectors(pool, given.seed)
    photographs = album(given.data)
    facts = {
        **environment(),
        "command": " ".join(["python -m benchmarks.doctor", *sys.argv[1:]]),
        "seed": str(given.seed),
        "minutes": f"{(time.monotonic() - begin) / 60:.0f}",
        "photographs": str(len(photographs.photographs)),
        "figure": f"{given.name}.svg",
        "drawn": str(len(photographs.drawn)),
    }
    points = curve(verdicts_weighed([*first, *new], watched))
    text, figure = page(first, new, watched, points, facts), draw(points)
    print(text)
    results = {".md": text.encode(), ".csv": as_csv(first, new).encode(), ".svg": figure}
    write_all(given.out, {given.name + suffix: contents for suffix, contents in results.items()})
    if (given.out, given.name) == (RESULTS, "doctor"):
        write_all(ASSETS, {"reliability.svg": figure})


if __name__ == "__main__":
    main()
