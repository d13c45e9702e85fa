"""Calls a function of this package in a process of its own.

It imports little, for workers that are spawned import it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from typing import Any


def in_child(function: str, torch_threads: int | None = None, **arguments: Any) -> dict[str, Any]:
    """What "module.function" of this package returns for these arguments; both are plain values.

    Args:
        torch_threads: threads of the process; by default as many as torch takes.
    """
    command = [sys.executable, "-m", __name__, function, json.dumps(arguments)]
    environment = os.environ if torch_threads is None else {**os.environ, "OMP_NUM_THREADS": str(torch_threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    module, _, function = sys.argv[1].rpartition(".")
    result = getattr(import_module(f".{module}", __package__), function)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
