"""An answer on stdout as it arrives: plain in a pipe, rendered on a terminal.

Rules kept here:

* A reader in a pipe gets the text exactly as it came, each piece at once, and one newline at its end.
* Nothing that the model writes moves the cursor of a terminal.
"""

from __future__ import annotations

import os
import sys
from typing import Protocol, Self

from pixir_sync.cli.report import CommandError, complain, printable
from pixir_sync.protocol.result import Result
from pixir_sync.stream import ResponseStream

__all__ = ["Sink", "on_terminal", "show"]

_CUT = {"length": "the answer was cut off by a length limit", "content_filter": "the answer was cut off by a content filter"}


class Sink(Protocol):
    """What takes the pieces of one answer; leaving it completes what is shown."""

    def write(self, text: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Plain:
    """Pieces to stdout as they come."""

    def __init__(self) -> None:
        self._last = "\n"
        self._clean = printable if sys.stdout.isatty() else str

    def write(self, text: str) -> None:
        self._last = text
        sys.stdout.write(self._clean(text))
        sys.stdout.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._last.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()


def on_terminal() -> bool:
    """Whether stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def sink() -> Sink:
    """What suits stdout."""
    if not on_terminal():
        return Plain()
    from pixir_sync.cli.terminal import Rendered

    return Rendered()


def show(stream: ResponseStream) -> Result:
    """Show an answer while it comes; its `Result`. Raises `PixirError`, and `CommandError` where the model declined."""
    with stream, sink() as out:
        for event in stream:
            if event.text:
                out.write(event.text)
        result = stream.result()
    if result.refusal:
        raise CommandError(f"the model declined: {result.refusal}")
    if result.finish_reason in _CUT:
        complain(_CUT[result.finish_reason])
    return result
