"""`roialign doctor` of programs that go on after their last line, or end in ways of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTY = """
import atexit, os, sys, threading, time, torch, roialign
roialign.set_policy("ignore")
def pool():
    roialign.roi_align(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)
"""


def doctor(folder: Path, program: str, *options: str, shell: str = "") -> tuple[int, str, str]:
    """The exit status, stdout and stderr; `shell` is what a shell is told of the streams."""
    (folder / "program.py").write_text(FAULTY + program)
    command = [sys.executable, "-m", "roialign", "doctor", *options, "program.py"]
    run = ["sh", "-c", f'exec "$@" {shell}', "sh", *command] if shell else command
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def calls_of(folder: Path) -> int:
    return int(json.loads((folder / "out.json").read_text())["calls"])


@pytest.mark.parametrize(
    ("program", "calls"),
    [
        ("atexit.register(pool)\nthreading.Thread(target=lambda: (time.sleep(0.5), pool())).start()\n1 / 0\n", 2),
        (
            "from concurrent.futures import ThreadPoolExecutor\npools = ThreadPoolExecutor(2)\n"
            "for _ in range(4):\n    pools.submit(lambda: (time.sleep(0.2), pool()))\n",
            4,
        ),
        (
            "def thread():\n    time.sleep(0.3)\n    pool()\n    threading.Thread(target=pool).start()\n"
            "threading.Thread(target=thread).start()\nsys.exit()\n",
            2,
        ),
        ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\npool()\n", 1),
    ],
    ids=["thread, atexit, and it raises", "executor", "thread of a thread", "daemon"],
)
def test_calls_after_the_last_line_are_seen(tmp_path: Path, program: str, calls: int) -> None:
    status, _, errors = doctor(tmp_path, program, "--json", "out.json", "--report", "out.html")
    assert status == 1, errors
    assert "RA101" in (tmp_path / "out.html").read_text()
    assert calls_of(tmp_path) == calls
    assert "RA101" in errors
    assert "Exception ignored" not in errors


def test_threads_and_atexit_come_in_pythons_order(tmp_path: Path) -> None:
    program = (
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "atexit.register(print, 'atexit')\natexit.register(print, 'atexit, registered later')\n"
        "def at_the_end():\n    print('in atexit')\n    raise KeyError('of atexit')\natexit.register(at_the_end)\n"
        "print('last line')\n"
    )
    status, out, errors = doctor(tmp_path, program)
    plain = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (status, out) == (plain.returncode, plain.stdout)
    assert out.splitlines() == ["last line", "thread", "in atexit", "atexit, registered later", "atexit"]
    assert errors.count("KeyError: 'of atexit'") == plain.stderr.count("KeyError: 'of atexit'") == 1


def test_children_of_the_program_come_to_their_own_end(tmp_path: Path) -> None:
    program = (
        "import multiprocessing\ndef child(queue):\n    atexit.register(print, 'of the child', flush=True)\n"
        "    queue.put([0] * 100_000)\n"
        "queue = multiprocessing.get_context('fork').Queue()\n"
        "process = multiprocessing.get_context('fork').Process(target=child, args=(queue,))\nprocess.start()\n"
        "print(len(queue.get()))\nprocess.join()\nprint(process.exitcode)\n"
    )
    _, out, _ = doctor(tmp_path, program)
    plain = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert out == plain.stdout
    assert "100000\n" in out


@pytest.mark.parametrize("end", ["os._exit(3)", "os.execv('/bin/sh', ['sh', '-c', 'exit 3'])"])
def test_a_program_that_ends_itself_is_told_how_to_be_seen(tmp_path: Path, end: str) -> None:
    status, _, errors = doctor(tmp_path, f"pool()\n{end}\n")
    assert status == 3
    assert f"the program ended itself with {end.partition('(')[0]}, and the report was lost" in errors
    assert "roialign.watch()" in errors


def test_a_child_of_the_program_may_end_itself(tmp_path: Path) -> None:
    program = "if not os.fork():\n    os._exit(0)\nos.wait()\npool()\n"
    status, _, errors = doctor(tmp_path, program)
    assert status == 1
    assert "ended itself" not in errors
    assert "RA101" in errors


@pytest.mark.parametrize(
    ("program", "shell", "is_shown"),
    [
        ("pool()\nsys.stdout.close()\nsys.stderr.close()\n", "", True),
        ("pool()\nos.close(2)\n", "", False),
        ("pool()\n", "2>&- >&-", False),
        ("pool()\n", "2>/dev/full", False),
        ("pool()\nsys.stderr.close()\n1 / 0\n", "", True),
    ],
)
def test_the_json_is_written_whatever_became_of_the_streams(
    tmp_path: Path, program: str, shell: str, is_shown: bool
) -> None:
    status, _, errors = doctor(tmp_path, program, "--json", "out.json", shell=shell)
    assert status == 1
    assert calls_of(tmp_path) == 1
    assert ("RA101" in errors) == is_shown


def test_json_on_a_stdout_that_the_program_closed(tmp_path: Path) -> None:
    status, out, _ = doctor(tmp_path, "pool()\nsys.stdout.close()\n", "--json")
    assert (status, json.loads(out)["calls"]) == (1, 1)


def test_the_hook_of_the_program_is_called(tmp_path: Path) -> None:
    program = (
        "import traceback\ndef hook(kind, error, trace):\n"
        "    print('hooked', kind.__name__, error, *(frame.name for frame in traceback.extract_tb(trace)))\n"
        "sys.excepthook = hook\n"
        "def fail():\n    raise KeyError('x')\n"
        "pool()\nfail()\n"
    )
    status, out, errors = doctor(tmp_path, program)
    assert (status, out) == (1, "hooked KeyError 'x' <module> fail\n")
    assert "Traceback" not in errors
    assert "RA101" in errors


@pytest.mark.parametrize(
    ("hook", "said", "unsaid"),
    [
        ("def hook(*error):\n    former(*error)\n", "KeyError: 'x'", "cli/program.py"),
        ("def hook(*error):\n    1 / 0\n", "ZeroDivisionError", "cli/doctor.py"),
    ],
    ids=["calls the former one", "raises"],
)
def test_a_hook_that_calls_the_former_one_or_raises(tmp_path: Path, hook: str, said: str, unsaid: str) -> None:
    program = f"former = sys.excepthook\n{hook}sys.excepthook = hook\npool()\nraise KeyError('x')\n"
    status, _, errors = doctor(tmp_path, program)
    assert status == 1
    assert said in errors
    assert "KeyError: 'x'" in errors
    assert unsaid not in errors.partition("Original exception")[2] + errors * (said == "KeyError: 'x'")
    assert "RA101" in errors
