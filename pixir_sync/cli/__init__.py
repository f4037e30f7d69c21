"""The command line, ``pixir-sync``. Importing this package imports neither click nor rich; running a command does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (``arguments``: default, the process's own) and give the exit status.

    0 it went well, 1 it failed, 2 it was called wrongly, 130 it was interrupted.
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # also during the imports, which are most of a short command
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"pixir-sync: the command line needs {error.name}: pip install 'pixir-sync[cli]'", file=sys.stderr)
        return 1
    from pixir_sync.cli.app import run

    return run(arguments)
