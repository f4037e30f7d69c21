"""``pixir-sync demo``: a conversation of 20 model calls, with tools, twice: over a WebSocket that is lost once, and over HTTP.

Every answer is checked, and the two are compared: the same texts, and what the WebSocket saves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import click

from pixir_sync.cli.conversation import CALLS, LOST_AFTER, Conversation, Turn
from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import on_terminal
from pixir_sync.cli.report import CommandError, one_line
from pixir_sync.provider import Provider

__all__ = ["demo", "run_demo"]

LOCAL_MODEL = "local-model"
_LIMIT, _REMOTE_LIMIT = 13.0, 300.0  # seconds; starting and stopping are within the demo's 15
_HEAD = ("#", "what", "transport", "continuation", "bytes", "of full", "first ms", "")
_WIDTHS = (2, 40, 9, 21, 6, 7, 8, 0)
_LEFT = (1, 2, 3, 7)
_LEAST_CONTINUED, _MOST_BYTES = 17, 0.4  # of the 20 calls; of what sending everything every time takes


@click.command()
@common
def demo(settings: Settings) -> None:
    """Hold a conversation of 20 model calls, with tools, and check every answer.

    It is held over a WebSocket, which is cut once in the middle, and again over HTTP: the texts must be the same, at least 17
    calls must have sent only what is new, and all of them at most 40 % of the bytes. With --transport http_sse it is held once.

    It runs on the embedded server, with a key or without, and takes a second or two. That server's answers tell how many user
    messages they were given, and each is checked; so it is wherever the model is called local-model. With --base-url the calls
    go to that server (and may have to be paid for); there it is checked that answers and tool calls come.
    """
    settings = replace(settings, local=settings.base_url is None and settings.endpoint is None)
    with opened(settings) as provider:
        exact = settings.local or provider.default_model() == LOCAL_MODEL
        summary = run_demo(provider, exact=exact, limit=_LIMIT if exact else _REMOTE_LIMIT, show=not settings.as_json)
    if settings.as_json:
        print(json.dumps(summary))
    if not summary["ok"]:
        raise CommandError(f"the demo failed: {summary['problem']}")


def run_demo(provider: Provider, *, exact: bool, limit: float, show: bool) -> dict[str, Any]:
    """Hold the conversation, within so many seconds; its summary as plain JSON. ``show``: with a table on stdout.

    ``exact``: the server's model is the local one, and every word of its answers is known beforehand.
    """
    began = time.monotonic()
    twice = provider.config.transport not in ("http_sse", "sse") and provider.config.offers_websocket
    talk = Conversation(provider, exact=exact, limit=limit, loses=twice)
    replay: Conversation | None = None
    with _progress(show) as progress:
        _hold(talk, progress, "")
        if twice:
            with Provider(config=replace(provider.config, transport="http_sse")) as plain:
                replay = Conversation(plain, exact=exact, limit=max(0.1, limit - (time.monotonic() - began)))
                _hold(replay, progress, "again over HTTP, ")
            for at, again in enumerate(replay.turns[: len(talk.turns)]):
                talk.turns[at] = replace(talk.turns[at], full_bytes=again.bytes_sent)
    summary = _summary(talk, replay, provider, time.monotonic() - began, exact)
    if show:
        _table(talk.turns)
        click.echo(_totals(summary))
    return summary


def _hold(talk: Conversation, progress: Any, how: str) -> None:
    for turn in talk.run():
        if progress is not None:
            progress.update(f"{how}{turn.number} of {CALLS}: {turn.what}")


def _progress(show: bool) -> Any:
    if not (show and on_terminal()):
        return nullcontext()
    from rich.console import Console

    return Console().status("starting")


def _summary(talk: Conversation, replay: Conversation | None, provider: Provider, seconds: float, exact: bool) -> dict[str, Any]:
    full = sum(turn.bytes_sent for turn in replay.turns) if replay is not None else None
    summary: dict[str, Any] = {
        "model_calls": len(talk.turns),
        "tool_calls": talk.tool_calls,
        "continued": sum(turn.input == "delta" for turn in talk.turns),
        "bytes_sent": sum(turn.bytes_sent for turn in talk.turns),
        "full_bytes": full,
        "connections": provider.stats()["connections"]["opened"],
        "seconds": round(seconds, 3),
        "turns": [asdict(turn) for turn in talk.turns],
        "http_turns": [asdict(turn) for turn in replay.turns] if replay is not None else [],
    }
    problem = _wrong(talk) or (replay is not None and (_wrong(replay, " over HTTP") or _difference(talk, replay, exact))) or ""
    return {"ok": not problem, "problem": problem, **summary}


def _wrong(talk: Conversation, where: str = "") -> str:
    """What is wrong with a conversation by itself; ``""`` if nothing is."""
    wrong = [turn for turn in talk.turns if turn.problem]
    if wrong:
        return f"{len(wrong)} of {CALLS} calls{where}; call {wrong[0].number}: {wrong[0].problem}"
    return "" if len(talk.turns) == CALLS else f"{len(talk.turns)} of {CALLS} calls were made{where}"


def _difference(talk: Conversation, replay: Conversation, exact: bool) -> str:
    """What is not as it should be between the conversation and its replay over HTTP; ``""`` if all is."""
    for turn, again in zip(talk.turns, replay.turns, strict=True):
        if exact and turn.text != again.text:
            return f"call {turn.number}: the text over HTTP is another one"
        if turn.transport != "websocket" or again.transport != "http_sse":
            return f"call {turn.number} went over {turn.transport}, and again over {again.transport}"
    continued = sum(turn.input == "delta" for turn in talk.turns)
    if continued < _LEAST_CONTINUED:
        return f"only {continued} of {CALLS} calls were continued"
    if talk.turns[LOST_AFTER].input in ("delta", "full"):
        return f"call {LOST_AFTER + 1}, after the socket was lost, gives no reset reason"
    sent, full = (sum(turn.bytes_sent for turn in turns) for turns in (talk.turns, replay.turns))
    return "" if sent < _MOST_BYTES * full else f"{sent:,} bytes were sent, of {full:,} that full replays take"


def _totals(summary: dict[str, Any]) -> str:
    opened, full = summary["connections"], summary["full_bytes"]
    share = f" ({summary['bytes_sent'] / full:.0%} of {full:,} over HTTP)" if full else ""
    continued = f"{summary['continued']} continued, " if full is not None else ""
    return (f"{summary['model_calls']} model calls, {summary['tool_calls']} tool calls, {continued}"
            f"{summary['bytes_sent']:,} bytes sent{share}, {opened} connection{'' if opened == 1 else 's'},"
            f" {summary['seconds']:.1f} s: {'all right' if summary['ok'] else 'something is wrong'}")  # fmt: skip


def _cells(turn: Turn) -> tuple[str, ...]:
    first = "" if turn.first_event_ms is None else f"{turn.first_event_ms:.1f}"
    share = "" if not turn.full_bytes else f"{turn.bytes_sent / turn.full_bytes:.0%}"
    return (str(turn.number), turn.what, turn.transport or "-", turn.input, f"{turn.bytes_sent}", share, first)


def _table(turns: Iterable[Turn]) -> None:
    if on_terminal():
        _rich_table(turns)
        return
    click.echo(_row((*_HEAD[:-1], "check")))
    for turn in turns:
        click.echo(_row((*_cells(turn), f"WRONG: {one_line(turn.problem)}" if turn.problem else "ok")))


def _row(cells: Iterable[str]) -> str:
    """A line of the plain table: words to the left, numbers to the right."""
    placed = zip(cells, _WIDTHS, strict=True)
    return "  ".join(cell.ljust(width) if at in _LEFT else cell.rjust(width) for at, (cell, width) in enumerate(placed))


def _rich_table(turns: Iterable[Turn]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if at in _LEFT else "right", no_wrap=at != 1)
    for turn in turns:
        mark = Text("✗", style="bold red") if turn.problem else Text("✓", style="green")
        table.add_row(*(Text(one_line(cell)) for cell in _cells(turn)), mark)
    Console(highlight=False).print(table)
