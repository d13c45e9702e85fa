"""A program that, at each line that it is told, forks a child that writes the missing parts of a store.

The child, which is there to be killed, says its pid, and then the number of each part that it has written. What it
needs is imported before.
"""

import os
import sys
from pathlib import Path

import pyarrow.parquet  # noqa: F401  a child that is killed while it imports has written nothing

from roialign.extraction.store.writing import writing

from .made import errors_of, larger, rows_of

KILLED = larger(800)

if __name__ == "__main__":
    for _ in sys.stdin:
        if os.fork():
            os.wait()
            print("done", flush=True)
            continue
        with writing(Path(sys.argv[1]), KILLED) as store:
            print(os.getpid(), flush=True)
            for number in store.missing():
                store.write(number, [rows_of(number, KILLED), *errors_of(number)])
                print(number, flush=True)
        os._exit(0)
