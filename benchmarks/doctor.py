"""How well the doctor does: faults made at random in healthy programs. Run by `python -m benchmarks.doctor`.

Writes benchmarks/results/doctor.md and .csv.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image

from .doctor_cases import Program, check_whole, run_case
from .doctor_faults import FAULTS, Fault
from .doctor_pipelines import Pipeline, Scene, boxes_of, pipelines
from .doctor_report import as_csv, page
from .environment import environment
from .photographs import SKIMAGE, SKLEARN, as_tensor, load_folder
from .results import write_all

RESULTS = Path(__file__).parent / "results"
_MOST_PIXELS = 800
_WHOLE = 4
_PHOTOGRAPHS = 4  # of each program
_FORMATS = (
    4 / 3,
    3 / 2,
    16 / 9,
    4 / 3,
    3 / 2,
    3 / 4,
    2 / 3,
    1.0,
)  # of cameras; many photographs of scikit-image are square


def photographs(folder: Path | None) -> list[Image.Image]:
    """Those of scikit-image and scikit-learn, and of a folder, their longer side at most 800 pixels."""
    found: list[Image.Image] = [Image.open(str(files("skimage") / "data" / name)) for name in SKIMAGE]
    found += [Image.open(str(files("sklearn") / "datasets" / "images" / name)) for name in SKLEARN]
    found += load_folder(folder, 100) if folder else []
    for photograph in found:
        photograph.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return [photograph.convert("RGB") for photograph in found]


def run(
    programs: int, seed: int, folder: Path | None, workers: int = 1, faults: Sequence[Fault] = FAULTS
) -> list[Program]:
    """`programs` with one fault each, all kinds in turn, in pipelines, photographs and boxes drawn at random."""
    chosen = [(seed, index, faults[index % len(faults)].name) for index in range(programs)]
    if workers == 1:
        _begin(folder)
        return [_program(one) for one in chosen]
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (folder,)) as pool:
        return list(pool.map(_program, chosen, chunksize=1))


_held: tuple[list[Pipeline], list[Image.Image]] | None = None  # of one process


def _begin(folder: Path | None) -> None:
    global _held
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _held = pipelines(), photographs(folder)


def _program(chosen: tuple[int, int, str]) -> Program:
    if _held is None:
        raise RuntimeError("nothing was built")
    seed, index, name = chosen
    built, pictures = _held
    rng = random.Random(f"{seed}/{index}")
    fault = next(one for one in FAULTS if one.name == name)
    pipeline = rng.choice([one for one in built if _can_have(one, fault)])
    made_with = rng.randrange(2**31)
    scenes = [_scene(pipeline, pictures, rng) for _ in range(_PHOTOGRAPHS)]
    program = Program([run_case(pipeline, fault, scene, made_with) for scene in scenes])
    print(f"{index + 1}: {program.fault}, {pipeline.name}", file=sys.stderr, flush=True)
    return program


def whole_models(seed: int, pictures: Sequence[Image.Image]) -> tuple[int, Counter[str]]:
    """How many RoI calls whole healthy detectors made, and the codes that were found in them."""
    count, alarms = 0, Counter[str]()
    rng = random.Random(seed)
    for pipeline in pipelines():
        for _ in range(_WHOLE if pipeline.whole else 0):
            calls, found = check_whole(pipeline, _scene(pipeline, pictures, rng))
            count += calls
            alarms.update(code for codes in found.values() for code in codes)
    return count, alarms


def _can_have(pipeline: Pipeline, fault: Fault) -> bool:
    return pipeline.kind in fault.kinds and fault.only in pipeline.name


def _scene(pipeline: Pipeline, pictures: Sequence[Image.Image], rng: random.Random) -> Scene:
    photograph = as_tensor(_cropped(rng.choice(pictures), rng.choice(_FORMATS)))
    size_hw = (photograph.shape[1], photograph.shape[2])
    return Scene(photograph, boxes_of(size_hw, rng.choice(pipeline.counts), rng))


def _cropped(photograph: Image.Image, aspect: float) -> Image.Image:
    """The middle of the photograph, as wide as `aspect` times its height."""
    width = min(photograph.width, round(photograph.height * aspect))
    height = min(photograph.height, round(photograph.width / aspect))
    left, top = (photograph.width - width) // 2, (photograph.height - height) // 2
    return photograph.crop((left, top, left + width, top + height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=301, help="how many programs to make a fault in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--data", type=Path, help="a folder of more photographs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args()
    command = " ".join(["python -m benchmarks.doctor", *sys.argv[1:]])
    begin = time.monotonic()
    pictures = photographs(given.data)
    programs = run(given.programs, given.seed, given.data, given.workers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls, alarms = whole_models(given.seed, pictures)
    facts = {**environment(), "command": command, "seed": str(given.seed)}
    minutes = (time.monotonic() - begin) / 60
    text = page(programs, calls, alarms, len(pictures), minutes, facts)
    print(text)
    write_all(given.out, {"doctor.md": text.encode(), "doctor.csv": as_csv(programs).encode()})


if __name__ == "__main__":
    main()
