"""Results that are kept, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kept:
    """A folder with a file for each result."""

    folder: Path

    def result(self, name: str, asked: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The result of this name: the kept one, if the same was asked then, or what `make` returns now."""
        path = self.folder / f"{name}.json"
        if path.exists() and (there := json.loads(path.read_text()))["asked"] == asked:
            print(f"{name}: there already", flush=True)
            return there["result"]
        begin = time.monotonic()
        result = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"asked": asked, "result": result}))
        part.replace(path)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        return result
