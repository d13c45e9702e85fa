"""`set_policy`: a call holds everywhere, a block where it was opened, in whatever order threads and tasks end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from roialign import get_policy, roi_align, set_policy
from roialign.ops import notice


@pytest.fixture(autouse=True)
def outside_of_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notice, "_process", ())
    token = notice._here.set(())
    yield
    notice._here.reset(token)


def in_a_thread(function: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


class Stepwise:
    """A thread that does one thing at a time, when it is told to."""

    def __init__(self) -> None:
        self._todo: Callable[[], object] | None = None
        self._begin, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self._begin.acquire():
            assert self._todo is not None
            self._found = self._todo()
            self._done.release()

    def do(self, todo: Callable[[], object]) -> object:
        self._todo = todo
        self._begin.release()
        assert self._done.acquire(timeout=10)
        return self._found


def test_a_call_holds_in_threads_that_run_and_in_those_that_begin_later() -> None:
    running = Stepwise()
    assert running.do(get_policy) == "warn"
    set_policy("raise")
    assert (running.do(get_policy), in_a_thread(get_policy), get_policy()) == ("raise",) * 3
    running.do(lambda: set_policy("ignore"))
    assert (running.do(get_policy), in_a_thread(get_policy), get_policy()) == ("ignore",) * 3


def test_a_block_holds_in_its_thread_only() -> None:
    with set_policy("ignore"):
        assert get_policy() == "ignore"
        assert in_a_thread(get_policy) == "warn"
    assert get_policy() == "warn"


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_blocks_that_overlap_in_threads_leave_nothing_behind(first_to_end: int) -> None:
    threads, blocks = (Stepwise(), Stepwise()), []
    for thread, policy in zip(threads, ("ignore", "raise"), strict=True):
        blocks.append(thread.do(lambda policy=policy: set_policy(policy).__enter__()))
    assert [thread.do(get_policy) for thread in threads] == ["ignore", "raise"]
    for one in (first_to_end, 1 - first_to_end):
        threads[one].do(lambda one=one: blocks[one].__exit__(None, None, None))  # type: ignore[attr-defined]
        assert threads[one].do(get_policy) == "warn"
    assert get_policy() == in_a_thread(get_policy) == "warn"


def test_blocks_that_begin_at_once_leave_nothing_behind() -> None:
    one, other = Stepwise(), Stepwise()
    blocks = one.do(lambda: set_policy("ignore")), other.do(lambda: set_policy("raise"))
    one.do(blocks[0].__enter__)  # type: ignore[attr-defined]
    assert (one.do(get_policy), other.do(get_policy)) == ("ignore", "raise")
    other.do(blocks[1].__enter__)  # type: ignore[attr-defined]
    assert (one.do(get_policy), other.do(get_policy), get_policy()) == ("ignore", "raise", "warn")


def test_a_call_meanwhile_in_another_thread_is_not_lost() -> None:
    block = set_policy("ignore")
    in_a_thread(lambda: set_policy("raise"))
    with block:
        assert get_policy() == "ignore"
        assert in_a_thread(get_policy) == "raise"
    assert get_policy() == "raise"


def test_tasks_have_blocks_of_their_own() -> None:
    async def task(policy: notice.Policy, first: asyncio.Event, second: asyncio.Event) -> list[str]:
        with set_policy(policy):
            first.set()
            await second.wait()
            inside = get_policy()
            started = await asyncio.create_task(asyncio.sleep(0, None)) or get_policy()
        return [inside, started, get_policy()]

    async def both() -> list[list[str]]:
        one, other = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(task("ignore", one, other), task("raise", other, one))

    with ThreadPoolExecutor(1) as own_thread:  # another test's browser may have left a loop running in this one
        policies = own_thread.submit(asyncio.run, both()).result()
    assert policies == [["ignore", "ignore", "warn"], ["raise", "raise", "warn"]]
    assert get_policy() == "warn"


def test_blocks_of_generators_may_end_in_any_order() -> None:
    def block(policy: notice.Policy) -> Iterator[None]:
        with set_policy(policy):
            yield

    one, other = block("ignore"), block("raise")
    next(one), next(other)
    assert get_policy() == "raise"
    assert next(one, "ended") == "ended"
    assert get_policy() == "raise"
    assert next(other, "ended") == "ended"
    assert get_policy() == "warn"


def test_a_block_that_ends_in_another_context_changes_nothing_there() -> None:
    block = set_policy("ignore")
    contextvars.copy_context().run(block.__enter__)
    with set_policy("raise"):
        block.__exit__(None, None, None)
        assert get_policy() == "raise"
    assert get_policy() == "warn"


def test_a_call_within_a_block_ends_with_it() -> None:
    with set_policy("ignore"):
        with set_policy("warn"):
            set_policy("raise")
            with set_policy("ignore"):
                assert get_policy() == "ignore"
            assert get_policy() == "raise"
            assert in_a_thread(get_policy) == "warn"
        assert get_policy() == "ignore"
    assert get_policy() == "warn"


def test_a_block_can_be_opened_again_and_within_itself() -> None:
    block = set_policy("ignore")
    for _ in range(2):
        with block, set_policy("raise"):
            with block:
                assert get_policy() == "ignore"
            assert get_policy() == "raise"
        assert get_policy() == "warn"


def test_compiled_code_may_hold_blocks() -> None:
    def pool(features: torch.Tensor) -> torch.Tensor:
        with set_policy("ignore"):
            return roi_align(features, [torch.tensor([[1.0, 1.0, 5.0, 5.0]])], 2)

    features = torch.rand(1, 2, 8, 8)
    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(features), pool(features))
    assert get_policy() == "warn"


@pytest.mark.parametrize("within", [False, True])
def test_calls_by_the_thousand_are_not_all_kept(within: bool) -> None:
    outer = set_policy("warn").__enter__() if within else None
    for _ in range(1000):
        set_policy("ignore")
        set_policy("raise")
    gc.collect()
    assert get_policy() == "raise"
    assert len(notice._here.get() if outer else notice._process) <= 4
