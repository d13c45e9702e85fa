"""`save_call`: what goes into the file comes out of it, and nothing in it can run."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import roialign
from roialign.doctor.saved import load_call

BOXES = torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])


def features(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(1, 8, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_diagnosis_is_that_of_the_call(tmp_path: Path, dtype: torch.dtype) -> None:
    arguments = (features(dtype), [BOXES.to(torch.float64 if dtype == torch.float64 else torch.float32)], 7, 1.0, 2)
    roialign.save_call(tmp_path / "call.pt", *arguments, True, (1024, 1024))
    saved = load_call(tmp_path / "call.pt")
    expected = roialign.diagnose(*arguments, True, image_size=(1024, 1024)).at(saved.call_site)
    assert saved.diagnose().to_dict() == expected.to_dict()
    assert torch.equal(saved.arguments["input"], arguments[0])
    assert torch.equal(saved.arguments["boxes"][0], arguments[1][0])
    assert (saved.arguments["sampling_ratio"], saved.arguments["aligned"], saved.image_size) == (2, True, (1024, 1024))


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("RA105", {"spatial_scale": 0.0}),
        ("RA207", {"boxes": BOXES}),
        ("RA210", {"boxes": [[300.0, 300.0, 400.0, 400.0]]}),
        ("RA306", {"input": torch.rand(8, 64, 64)}),
        ("RA505", {"boxes": [BOXES.int()]}),
        ("RA506", {"output_size": (7, 7, 7)}),
    ],
)
def test_a_call_that_cannot_be_made_can_be_saved(tmp_path: Path, code: str, arguments: dict[str, object]) -> None:
    call = {"input": features(), "boxes": [BOXES], "output_size": 7, **arguments}
    roialign.save_call(tmp_path / "call.pt", **call)  # type: ignore[arg-type]
    assert load_call(tmp_path / "call.pt").diagnose().findings[0].code == code


def test_it_says_what_it_holds(tmp_path: Path) -> None:
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], (7, 5), 1 / 16)
    about = load_call(tmp_path / "call.pt").about
    for words in (
        "test_saved.py:",
        roialign.__version__,
        torch.__version__,
        "input: float32 tensor [1, 8, 64, 64] on cpu\n",
        "boxes: a list of 1: float32 tensor [2, 4] on cpu",
        "output_size: (7, 5)",
        "spatial_scale: 0.0625",
        "image_size: not given",
    ):
        assert words in about


@pytest.mark.parametrize(
    ("folder", "site"), [("..", r"doctor/test_saved\.py:\d+"), ("elsewhere", r"test_saved\.py:\d+")]
)
def test_folders_that_are_no_part_of_the_project_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, site: str
) -> None:
    monkeypatch.chdir(tmp_path if folder == "elsewhere" else Path(__file__).parent / folder)
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], 7)
    assert re.fullmatch(site, load_call(tmp_path / "call.pt").call_site)


def test_features_are_left_out_on_request(tmp_path: Path) -> None:
    dead = torch.zeros(2, 256, 64, 64, dtype=torch.float64)
    boxes = [BOXES.double(), BOXES.double()]
    roialign.save_call(tmp_path / "whole.pt", dead, boxes, 7)
    roialign.save_call(tmp_path / "shape.pt", dead, boxes, 7, features=False)
    whole, shape = load_call(tmp_path / "whole.pt"), load_call(tmp_path / "shape.pt")
    assert (tmp_path / "shape.pt").stat().st_size < 8_000 < (tmp_path / "whole.pt").stat().st_size
    assert shape.arguments["input"].shape == dead.shape
    assert shape.arguments["input"].dtype == torch.float64
    assert "float64 tensor [2, 256, 64, 64] on cpu, values left out" in shape.about
    assert "left out" not in whole.about
    kinds = [finding.code for finding in shape.diagnose().findings]
    assert kinds == [finding.code for finding in whole.diagnose().findings if finding.code != "RA301"] == ["RA101"]


def test_a_view_does_not_bring_what_it_is_a_view_of(tmp_path: Path) -> None:
    roialign.save_call(tmp_path / "call.pt", torch.rand(100, 8, 64, 64)[3:4], [BOXES], 7)
    assert (tmp_path / "call.pt").stat().st_size < 8 * 64 * 64 * 4 + 8_000


def test_arguments_of_other_libraries(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], numpy.int64(7), numpy.float64(0.0625))
    assert load_call(tmp_path / "call.pt").diagnose().ok
    with pytest.raises(
        roialign.RoIError, match=r"^RA506: expected boxes of tensors, numbers, text, lists and tuples; got ndarray"
    ):
        roialign.save_call(tmp_path / "other.pt", features(), BOXES.numpy(), 7)
    parameter = torch.nn.Parameter(features())
    roialign.save_call(tmp_path / "call.pt", parameter, [BOXES.clone().requires_grad_()], 7)
    held = load_call(tmp_path / "call.pt").arguments
    assert type(held["input"]) is torch.Tensor
    assert held["boxes"][0].requires_grad


@pytest.mark.parametrize("size", [(0, 9), (1024,), 1024, ("a", "b")])
def test_an_image_size_must_be_one(tmp_path: Path, size: object) -> None:
    with pytest.raises(roialign.RoIError, match=r"^RA307: expected image_size as \(height, width\)"):
        roialign.save_call(tmp_path / "call.pt", features(), [BOXES], 7, image_size=size)  # type: ignore[arg-type]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.folder,)


def test_files_that_are_no_saved_call_are_refused(tmp_path: Path) -> None:
    path, made = tmp_path / "call.pt", tmp_path / "made"
    with pytest.raises(roialign.RoIError, match="there is no file"):
        load_call(path)
    contents = [Hostile(made), {"format": "roialign call 1", "arguments": Hostile(made)}]
    for content in contents:
        torch.save(content, path)
        with pytest.raises(roialign.RoIError, match=r"is not a call that roialign\.save_call wrote: .*UnpicklingError"):
            load_call(path)
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(roialign.RoIError, match="is not a call"):
            load_call(path)
    assert not made.exists()
    path.write_text("nothing of the kind")
    with pytest.raises(roialign.RoIError, match="is not a call"):
        load_call(path)


def rewritten(path: Path, held: object, compression: int = zipfile.ZIP_STORED) -> Path:
    """The file as `torch.save` would write `held`, its parts compressed or not."""
    torch.save(held, path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def held_call(**arguments: object) -> dict[str, object]:
    call = {"input": features(), "boxes": [BOXES], "output_size": 7, "spatial_scale": 1.0, "sampling_ratio": -1}
    held = {"format": "roialign call 1", "about": "", "image_size": None, "call_site": "here.py:1"}
    return held | {"arguments": call | {"aligned": False} | arguments}


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    large = held_call(input=torch.zeros(1, 64, 1024, 1024))
    path = rewritten(tmp_path / "call.pt", large, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    torch.load(path, weights_only=True)  # which would have taken it
    with pytest.raises(roialign.RoIError, match="would unpack to more than its size"):
        load_call(path)
    assert load_call(rewritten(path, held_call())).diagnose().findings[0].code == "RA101"


NESTED_LISTS: list[object] = [7]
for _ in range(40):
    NESTED_LISTS = [NESTED_LISTS, NESTED_LISTS]
DEEP_LISTS: list[object] = [7]
for _ in range(5000):
    DEEP_LISTS = [DEEP_LISTS]


@pytest.mark.parametrize(
    "arguments",
    [
        {"input": torch.ones(()).expand(1, 2**10, 2**20, 2**20)},
        {"boxes": [BOXES.repeat(1000, 1)] * 2000},
        {"boxes": torch.ones(1, 5).expand(2**32, 5)},
        {"output_size": NESTED_LISTS},
        {"output_size": DEEP_LISTS},
        {"input": torch.empty(1, 8, 64, 64, device="meta")},
        {"input": {"shape": [1, 2**20, 2**20, 2**20], "dtype": "float32"}},
        {"input": {"shape": [0, 2**70], "dtype": "float32"}},
    ],
    ids=[
        "one number, expanded",
        "one tensor many times",
        "one box, expanded",
        "shared lists",
        "lists in lists",
        "no memory",
        "shape only",
        "shape beyond numbers",
    ],
)
def test_a_small_file_cannot_ask_for_large_work(tmp_path: Path, arguments: dict[str, object]) -> None:
    path = tmp_path / "call.pt"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        torch.save(held_call(**arguments), path)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(roialign.RoIError, match=r"is not a call that roialign\.save_call wrote"):
        load_call(path)


@pytest.mark.parametrize("size", [2**31, (2**31 - 1, 1), 2**24])
def test_a_size_without_room_is_said_and_not_tried(tmp_path: Path, size: object) -> None:
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], size)
    assert [finding.code for finding in load_call(tmp_path / "call.pt").diagnose().findings] == ["RA506"]


def test_features_that_are_left_out_are_not_copied_first(tmp_path: Path) -> None:
    class Uncopied(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert "to" not in getattr(func, "__name__", ""), "copied"
            return super().__torch_function__(func, types, args, kwargs)

    one_number = torch.ones(()).expand(4, 1024, 1024, 1024)  # a copy would take 16 GB
    for map_like in (one_number, features().as_subclass(Uncopied)):
        roialign.save_call(tmp_path / "call.pt", map_like, [BOXES], 7, features=False)
        assert load_call(tmp_path / "call.pt").arguments["input"].shape == map_like.shape


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("RA505", {"boxes": torch.tensor([[0.0, 1.0, 1.0, 9.0, 9.0]]).to_sparse()}),
        ("RA505", {"input": features().to_sparse()}),
        ("RA506", {"aligned": torch.tensor([True, False])}),
    ],
)
def test_what_the_dispatcher_would_refuse_can_be_saved(tmp_path: Path, code: str, arguments: dict[str, object]) -> None:
    call = {"input": features(), "boxes": [BOXES], "output_size": 7, **arguments}
    roialign.save_call(tmp_path / "call.pt", **call)  # type: ignore[arg-type]
    assert load_call(tmp_path / "call.pt").diagnose().findings[0].code == code


@pytest.mark.parametrize(
    "change",
    [
        {"format": "roialign call 2"},
        {"arguments": {"input": 1}},
        {"image_size": (1, -1)},
        {"about": 3},
        {"call_site": None},
        {"input": {"shape": [1, 8, 64, 64], "dtype": "float33"}},
        {"input": {"shape": [1, 8, 64, 64], "dtype": "manual_seed"}},
        {"input": {"shape": [-1], "dtype": "float32"}},
        {"input": {}},
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], 7)
    held = torch.load(tmp_path / "call.pt", weights_only=True)
    if "input" in change:
        held["arguments"].update(change)
    else:
        held.update(change)
    torch.save(held, tmp_path / "call.pt")
    with pytest.raises(roialign.RoIError, match=r"is not a call that roialign\.save_call wrote"):
        load_call(tmp_path / "call.pt")


def test_what_a_stranger_wrote_cannot_rewrite_the_terminal(tmp_path: Path) -> None:
    roialign.save_call(tmp_path / "call.pt", features(), [BOXES], 7)
    held = torch.load(tmp_path / "call.pt", weights_only=True)
    torch.save(held | {"about": "\x1b[2Jwell"}, tmp_path / "call.pt")
    assert load_call(tmp_path / "call.pt").about == "\\x1b[2Jwell"


@pytest.mark.parametrize("path", [None, 3, True, b"x", ["call.pt"]], ids=repr)
def test_only_a_path_is_a_path(path: Any) -> None:
    boxes = [torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
    with pytest.raises(roialign.RoIError, match=r"^RA506: expected path, the name of a file, .*; got"):
        roialign.save_call(path, torch.rand(1, 3, 8, 8), boxes, 7)
    with pytest.raises(roialign.RoIError, match=r"^RA506: expected path, the name of a file, .*; got"):
        load_call(path)
