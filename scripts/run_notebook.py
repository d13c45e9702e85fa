"""Runs the notebooks of examples/ and writes today's outputs into them."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def main() -> None:
    for path in sorted(ROOT.glob("examples/notebook/*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": ROOT}})
        client.execute()
        notebook.metadata.pop("language_info", None)  # it names the Python that ran it
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
