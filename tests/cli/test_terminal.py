"""An answer on a terminal: rendered while it comes, each line once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pixir_sync.cli.terminal import Page, blocks, settled
from pixir_sync.local import LocalServer, Pause
from tests.cli.support import Screen, Terminal, reached, says

_LINES = (
    "a paragraph", "and *more* of it", "- item", "  with more", "- [x] done", "1. one", "10. ten", "    code", "```", "```python",
    "| a | b |", "|---|---|", "| x | y |", "# head", "## second", "===", "---", "> quote", "", "", "<b>html</b>", "[r]: http://x",
    "a link [here](http://x)", "~~~", "***", "sep\u2028arated", "#", "long " * 20,
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(_LINES), max_size=30).map("\n".join)


class Tty(io.StringIO):
    """A stdout that a console takes for a terminal."""

    def isatty(self) -> bool:
        return True


def shown(pieces: Sequence[str], rows: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a terminal of so many rows shows at the end, all that scrolled away with it, each piece having been drawn."""
    out, screen = Tty(), Screen(rows)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        page = Page(Console(file=out, width=40, height=rows, highlight=False, force_terminal=True))
        for piece in pieces:
            page.add(piece)
            page.show()
        page.finish()
    screen.feed(out.getvalue())
    return screen.lines


@settings(deadline=None)
@given(TEXTS, st.integers(0, 300))
def test_what_is_settled_never_changes(text: str, cut: int) -> None:
    """The blocks of a settled beginning and of the rest are the blocks of the whole, wherever the text was cut."""

    def told(part: str) -> list[tuple[str, str, str]]:
        return [(token.type, token.content, token.info) for block in blocks(part) for token in block]

    at = settled(text[:cut])
    assert told(text[:at]) + told(text[at:]) == told(text)


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(0, 600), max_size=8), st.integers(3, 12))
def test_however_it_arrives_the_screen_ends_the_same(text: str, cuts: list[int], rows: int) -> None:
    """Drawn piece by piece on a small screen, an answer ends as if it had come at once: no line twice, none lost."""
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        assert shown(pieces, rows, patch) == shown([text], 1000, patch)


def test_nothing_that_the_model_wrote_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTML, generics, link definitions and line breaks survive; a link shows where it leads."""
    text = "vector<int> and <b>x</b>\nsecond line\n\n[r]: http://there\n\n[a](http://here)"
    assert shown([text], 24, monkeypatch) == [
        "vector<int> and <b>x</b>", "second line", "", "[r]: http://there", "", "a (http://here)"]  # fmt: skip


def test_the_model_cannot_move_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters of the answer do not reach the terminal (the screen of this test knows no such code)."""
    assert shown(["a\x1b[2Jb\x07\x9b1A", "c\rd"], 24, monkeypatch) == ["a[2Jb1Acd"]


def test_only_the_lines_that_changed_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word more at the end of a list is one line more to write, and nothing where nothing came."""
    out = Tty()
    monkeypatch.setattr("sys.stdout", out)
    page = Page(Console(file=out, width=40, height=24, highlight=False, force_terminal=True, color_system=None))
    page.add("- one\n- two\n- three")
    page.show()
    before = len(out.getvalue())
    page.show()
    assert len(out.getvalue()) == before
    page.add(" and")
    page.show()
    assert out.getvalue()[before:] == "\x1b[1A\r • three and\x1b[K\n\x1b[J"


def test_ask_renders_on_a_terminal(env: dict[str, str], server: LocalServer) -> None:
    """A piece is seen while the model still writes; at the end an answer longer than the screen stands there once."""
    pause, items = Pause(), "".join(f"- item **{n}** of the list\n" for n in range(60))
    server.scenario = says("# Head\n\n", "a piece of ", pause, "text\n\n", *items.splitlines(keepends=True))
    with Terminal(env, "ask", "hi", "--base-url", server.base_url) as terminal:
        assert reached(pause)
        terminal.until("a piece of")
        assert "text" not in terminal.shown
        pause.event.set()
        assert terminal.status() == 0
        screen = Screen(24)
        screen.feed(terminal.shown.replace("\r\n", "\n"))
    listed = [f"• item {n} of the list" for n in range(60)]
    assert [line.strip() for line in screen.lines] == ["Head", "", "a piece of text", "", *listed]


def test_on_a_dumb_terminal_it_is_plain(keyless: dict[str, str]) -> None:
    """Where nothing can be drawn, the text comes as it is, but for control characters."""
    with Terminal(keyless, "ask", "**hi** \x07", "--local") as terminal:
        assert terminal.status() == 0
        assert "\x1b[" in terminal.shown
    with Terminal(keyless, "ask", "**hi** \x07", "--local", term="dumb") as terminal:
        assert terminal.status() == 0
        assert terminal.shown == "Heard: **hi**  (context: 1)\r\n"


def test_an_interrupt_on_a_terminal_leaves_the_answer_so_far(env: dict[str, str], server: LocalServer) -> None:
    """Ctrl-C: the text that came stays, the status is 130, there is no traceback."""
    pause = Pause()
    server.scenario = says("so far ", pause)
    with Terminal(env, "ask", "hi", "--base-url", server.base_url) as terminal:
        assert reached(pause)
        terminal.until("so far")
        terminal.keys("\x03")
        assert terminal.status() == 130
        assert "Traceback" not in terminal.shown
        assert "so far" in terminal.shown
