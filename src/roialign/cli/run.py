"""`roialign run`: runs a program with torchvision's operators on this library's kernels."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from roialign.cli.program import NoModuleError, or_nowhere, runner, say, to_its_last_line
from roialign.integrations.enable import enable


def run(program: Sequence[str], module: str | None) -> int:
    """Run SCRIPT [ARGS], or with a module its [ARGS]; the exit status that the command should have."""
    stderr = or_nowhere(sys.stderr)
    try:
        if module is None and not program:
            raise ValueError("expected SCRIPT or -m MODULE; see roialign run --help")
        run_program = runner(program, module)
        enable()
        return to_its_last_line(run_program, stderr)
    except (ValueError, ImportError, NoModuleError) as error:
        say(f"roialign run: {error}", stderr)
        return 2
