"""The stand-ins for torch's functions: seen through by the JIT, compilers and pickles, gone when nobody looks."""

from __future__ import annotations

import io
import pickle
import threading
import timeit
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import roialign
from roialign.doctor.seen import functions

WATCHED = [
    *[(torch, name) for name in ("cat", "concat", "concatenate", "stack", "flip", "rot90", "grid_sampler")],
    *[(torch._C._nn, name) for name in ("upsample_bilinear2d", "upsample_nearest2d", "pad", "adaptive_avg_pool2d")],
    (functional, "avg_pool2d"),
    (torch.Tensor, "flip"),
]
BEFORE = [getattr(module, name) for module, name in WATCHED]
IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def prepared(image: Tensor) -> Tensor:
    image = functional.interpolate(image, (32, 32), mode="nearest")
    image = functional.pad(image, (1, 2, 3, 4))
    image = torch.flip(image, [3]).flip(2)
    return torch.cat([image, torch.stack([image[0], image[0]])], 0)


class Prepares(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return prepared(image)


def are_as_before() -> bool:
    return all(getattr(module, name) is one for (module, name), one in zip(WATCHED, BEFORE, strict=True))


def test_functions_are_put_back_in_any_order() -> None:
    assert are_as_before()
    first, second = ExitStack(), ExitStack()
    first.enter_context(roialign.watch())
    assert all(getattr(module, name) is not one for (module, name), one in zip(WATCHED, BEFORE, strict=True))
    stand_in = torch.cat
    second.enter_context(roialign.watch())
    assert torch.cat is stand_in, "the same for all"
    first.close()
    assert torch.cat is stand_in
    second.close()
    assert are_as_before()
    with pytest.raises(ValueError, match="as it is"), roialign.watch():
        raise ValueError("as it is")
    assert are_as_before()


def test_threads_that_begin_and_end_at_once() -> None:
    failed: list[BaseException] = []

    def watch() -> None:
        try:
            for _ in range(10):
                with roialign.watch():
                    assert torch.equal(prepared(IMAGE), expected)
        except BaseException as error:
            failed.append(error)

    expected = prepared(IMAGE)
    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert are_as_before()


def test_what_somebody_else_puts_there_meanwhile_stays() -> None:
    original = torch.stack

    def own(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    try:
        with roialign.watch():
            torch.stack = own
        assert torch.stack is own
    finally:
        torch.stack = original


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripts_and_traces_made_under_a_watch() -> None:
    expected = prepared(IMAGE)
    with roialign.watch():
        scripted = torch.jit.script(prepared)
        made = [scripted, torch.jit.script(Prepares()), torch.jit.trace(Prepares(), IMAGE)]
        assert all(torch.equal(one(IMAGE), expected) for one in made)
        file = io.BytesIO()
        torch.jit.save(scripted, file)
    assert "aten::cat" in str(scripted.graph)
    file.seek(0)
    assert all(torch.equal(one(IMAGE), expected) for one in (*made, torch.jit.load(file)))


def test_compiled_and_exported_under_a_watch() -> None:
    expected = prepared(IMAGE)
    before = torch.compile(prepared, fullgraph=True, backend="eager")
    before(IMAGE)
    with roialign.watch():
        within = torch.compile(prepared, fullgraph=True, backend="eager")
        made = [before, within, torch.export.export(Prepares(), (IMAGE,)).module()]
        symbolic = torch.fx.symbolic_trace(Prepares())
        made.append(symbolic)
        assert all(torch.equal(one(IMAGE), expected) for one in made)
        assert all(node.target is not torch.cat for node in symbolic.graph.nodes), "the graph has torch's own"
    assert all(torch.equal(one(IMAGE), expected) for one in made)
    with torch._dynamo.config.patch(error_on_recompile=True), roialign.watch():
        assert all(torch.equal(one(IMAGE), expected) for one in (before, within)), "compiled once for all watches"


def test_stand_ins_are_taken_for_what_they_stand_in_for() -> None:
    original = torch.cat
    handled = {torch.cat: "cat"}

    seen: list[Any] = []

    class Counted(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(handled.get(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    with roialign.watch():
        handled[torch.cat] = "the same key"
        assert torch.cat == original
        assert pickle.loads(pickle.dumps(torch.cat)) is original
        assert torch.cat.__name__ == "cat"
        torch.cat([IMAGE.as_subclass(Counted)])
        assert torch.func.vmap(lambda x: torch.cat([x, x]))(IMAGE).shape == (1, 6, 16, 16)
        with torch.device("meta"):
            assert torch.cat([torch.rand(1, 3, 16, 16)]).is_meta
    assert len(handled) == 1
    assert "the same key" in seen


def test_modes_of_the_program_see_each_function_once() -> None:
    class Counts(torch.overrides.TorchFunctionMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    with Counts() as plain:
        prepared(IMAGE)
    with roialign.watch(), Counts() as watched:
        prepared(IMAGE)
    assert watched.names == plain.names
    follows = Follows()
    with functions.showing_images_to(follows), Counts():
        prepared(IMAGE)
    assert follows.seen == ["upsample_nearest2d", "pad", "flip", "flip", "stack", "cat"]


class Follows:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def follow(self, deed: str, name: str, output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen.append(name)

    def follow_pil(self, deed: str, output: Any, image: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen.append(f"PIL {deed}")


def test_only_images_are_shown() -> None:
    follows = Follows()
    with functions.showing_images_to(follows):
        prepared(IMAGE)
        for other in (torch.rand(5), torch.rand(2, 64, 16, 16), torch.rand(1, 3, 4, 4), torch.rand(1, 3, 16, 16, 16)):
            torch.cat([other, other])
    assert follows.seen == ["upsample_nearest2d", "pad", "flip", "flip", "stack", "cat"]


def test_pil_is_watched_where_it_was_imported() -> None:
    from PIL import Image

    before = Image.Image.resize
    follows = Follows()
    with functions.showing_images_to(follows):
        Image.new("RGB", (40, 30)).resize((20, 15)).crop((1, 1, 10, 10)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert follows.seen == ["PIL resize", "PIL crop", "PIL transpose"]
    assert Image.Image.resize is before


def test_what_fails_in_following_is_not_the_programs_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("roialign.doctor.seen.steps.after", fail)
    expected = prepared(IMAGE)
    with roialign.watch():
        assert torch.equal(prepared(IMAGE), expected)


def test_what_is_no_image_costs_microseconds() -> None:
    small = [torch.rand(5), torch.rand(5)]

    def seconds() -> float:
        return min(timeit.repeat(lambda: torch.cat(small), number=2000, repeat=9)) / 2000

    plain = seconds()
    with roialign.watch():
        watched = seconds()
    assert watched - plain < 10e-6, f"{1e6 * (watched - plain):.1f} us more for each call"
