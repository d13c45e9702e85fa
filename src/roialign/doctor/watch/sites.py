"""Where in a program a call was made."""

from __future__ import annotations

import os

from roialign.ops import notebook, notice

LIBRARIES = ("torchvision", "timm", "transformers", "detectron2", "mmcv", "mmdet", "torch", "roialign")
"""Packages whose lines are not the user's."""


class CallSites:
    """Names lines of code by the folder that was the current one when watching began, as "file.py:12"; those
    of a notebook as "Cell In[3], line 2"."""

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder or _current_folder()

    def here(self) -> str:
        """The innermost line of the program on the way to this call that is in no library."""
        frame = notice.calling_frame(LIBRARIES)
        return self.named(frame.f_code.co_filename, frame.f_lineno)

    def named(self, path: str, line: int) -> str:
        """The name of a line; the path is absolute if the file is not below the folder."""
        cell = notebook.cell(path)
        if cell:
            return f"{cell}, line {line}"
        if path.startswith("<"):
            return f"{path}:{line}"
        absolute = os.path.join(self._folder, path)  # a script is known by the path that was typed
        relative = os.path.relpath(absolute, self._folder)
        return f"{absolute if relative.startswith('..') else relative}:{line}"


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return os.sep
