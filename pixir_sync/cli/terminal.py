"""Markdown on a terminal while it is being written.

Rules kept here:

* Every line is shown once. A block (paragraph, list, code) that is complete is printed for good; the one that still grows is
  drawn below, over itself, at most one screen of it: its last lines. Complete, it is printed in full.
* Only lines that changed are drawn again, each over its old self in a single write, so that nothing flickers.
* Nothing that was written vanishes: markup that a terminal has no form for (HTML, link definitions) stays text, and line breaks
  stay line breaks.
* One thread draws, so that the last piece before a pause is seen too; the others only hand pieces over.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Self

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console
from rich.markdown import Markdown

from pixir_sync.cli.report import printable

__all__ = ["Page", "Rendered", "blocks", "settled"]

_TICK = 0.03  # seconds between two drawings, at least
_SHARE = 4  # a drawing that took long is followed by a pause of so many times its own time
_WAITING = "…"

_parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


def blocks(text: str) -> Iterator[list[Token]]:
    """The tokens of each top-level block."""
    block: list[Token] = []
    for token in _parser.parse(text):
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []


def settled(text: str) -> int:
    """How many characters at the beginning are complete blocks, whatever follows.

    A block is complete when a whole line of the next one is there: part of a line can still turn out to be something else.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [block[0].map[0] for block in blocks(whole) if block[0].map]
    if len(starts) < 2:
        return 0
    return sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])


class Page:
    """What is on the terminal, and what is to come there. One thread at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = ""  # what came and is not printed for good
        self._drawn: list[str] = []  # the lines on the screen that may still change; the cursor is below them
        self._printed = False

    def add(self, text: str) -> None:
        """Take a piece; it is not shown yet."""
        self._open += printable(text)

    def show(self) -> None:
        """Print what is settled, draw what is not."""
        at = settled(self._open)
        done = self._lines(self._open[:at])
        self._open = self._open[at:]
        self._printed = self._printed or bool(done)
        window = self._lines(self._open)
        if not window and not self._printed:
            window = [_WAITING]
        self._draw(done, window[-max(1, self._console.height - 1) :])

    def finish(self) -> None:
        """Print what is left, for good."""
        self._draw(self._lines(self._open), [])
        self._open = ""

    def _lines(self, text: str) -> list[str]:
        """The text rendered, an empty line before each block but the first of all."""
        made: list[str] = []
        for block in blocks(text):
            lines = self._rendered(block)
            if lines and (self._printed or made):
                made.append("")
            made += lines
        return made

    def _rendered(self, block: Sequence[Token]) -> list[str]:
        markdown = Markdown("", hyperlinks=False)  # a link shows where it leads
        markdown.parsed = list(block)
        with self._console.capture() as captured:
            # One column stays free: what erases the rest of a full line would erase its last character.
            self._console.print(markdown, width=max(1, self._console.width - 1))
        lines = [line.rstrip() for line in captured.get().split("\n")]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            del lines[0]
        return lines

    def _draw(self, done: list[str], window: list[str]) -> None:
        """Bring the screen from the lines that were drawn to these; the window stays open to change."""
        target, old = done + window, self._drawn
        same = 0
        while same < min(len(target), len(old)) and target[same] == old[same]:
            same += 1
        if same < max(len(target), len(old)):
            up = len(old) - same
            moved = f"\x1b[{up}A\r" if up else "\r"
            sys.stdout.write(moved + "".join(f"{line}\x1b[K\n" for line in target[same:]) + "\x1b[J")
            sys.stdout.flush()
        self._drawn = window


class Rendered:
    """The `Sink` for a terminal: a `Page`, and the thread that draws it."""

    def __init__(self) -> None:
        self._page = Page(Console(highlight=False))
        self._pieces: deque[str] = deque()
        self._news, self._ending = threading.Event(), threading.Event()
        self._drawer = threading.Thread(target=self._draw_on, name="pixir-terminal", daemon=True)
        self._failure: Exception | None = None

    def write(self, text: str) -> None:
        self._pieces.append(text)
        self._news.set()

    def __enter__(self) -> Self:
        self._drawer.start()
        self._news.set()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._news.set()
        self._drawer.join()
        if self._failure is not None:
            raise self._failure
        self._take()
        self._page.finish()

    def _take(self) -> None:
        while self._pieces:
            self._page.add(self._pieces.popleft())

    def _draw_on(self) -> None:
        try:
            while not self._ending.is_set():
                self._news.wait()
                self._news.clear()
                began = time.monotonic()
                self._take()
                self._page.show()
                self._ending.wait(max(_TICK, _SHARE * (time.monotonic() - began)))
        except Exception as error:  # raised where the answer is being read
            self._failure = error
