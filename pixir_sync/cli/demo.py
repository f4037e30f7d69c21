"""``pixir-sync demo``: a conversation of 20 model calls, with tools, every answer checked, and a table of how each call ran."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import click

from pixir_sync.cli.conversation import CALLS, Conversation, Turn
from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import on_terminal
from pixir_sync.cli.report import CommandError, one_line
from pixir_sync.provider import Provider

__all__ = ["demo", "run_demo"]

LOCAL_MODEL = "local-model"
_LIMIT, _REMOTE_LIMIT = 13.0, 300.0  # seconds; starting and stopping are within the demo's 15
_HEAD = ("#", "what", "transport", "input", "bytes", "first ms", "total ms", "")
_WIDTHS = (2, 40, 9, 5, 6, 8, 8, 0)


@click.command()
@common
def demo(settings: Settings) -> None:
    """Hold a conversation of 20 model calls, with tools, and check every answer.

    It runs on the embedded server, with a key or without, and takes a second or two. That server's answers tell how many user
    messages they were given, and each is checked; so it is wherever the model is called local-model. With --base-url the calls
    go to that server (and may have to be paid for); there it is checked that answers and tool calls come.
    """
    settings = replace(settings, local=settings.base_url is None)
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
    talk = Conversation(provider, exact=exact, limit=limit)
    with _progress(show) as progress:
        for turn in talk.run():
            if progress is not None:
                progress.update(f"{turn.number} of {CALLS}: {turn.what}")
    summary = _summary(talk, provider, time.monotonic() - began)
    if show:
        _table(talk.turns)
        click.echo(_totals(summary))
    return summary


def _progress(show: bool) -> Any:
    if not (show and on_terminal()):
        return nullcontext()
    from rich.console import Console

    return Console().status("starting")


def _summary(talk: Conversation, provider: Provider, seconds: float) -> dict[str, Any]:
    wrong = [turn for turn in talk.turns if turn.problem]
    if wrong:
        problem = f"{len(wrong)} of {CALLS} calls; call {wrong[0].number}: {wrong[0].problem}"
    elif len(talk.turns) != CALLS:
        problem = f"{len(talk.turns)} of {CALLS} calls were made"
    else:
        problem = ""
    return {
        "ok": not problem,
        "problem": problem,
        "model_calls": len(talk.turns),
        "tool_calls": talk.tool_calls,
        "bytes_sent": sum(turn.bytes_sent for turn in talk.turns),
        "connections": provider.stats()["connections"]["opened"],
        "seconds": round(seconds, 3),
        "turns": [asdict(turn) for turn in talk.turns],
    }


def _totals(summary: dict[str, Any]) -> str:
    opened = summary["connections"]
    return (f"{summary['model_calls']} model calls, {summary['tool_calls']} tool calls, {summary['bytes_sent']:,} bytes sent,"
            f" {opened} connection{'' if opened == 1 else 's'}, {summary['seconds']:.1f} s:"
            f" {'all right' if summary['ok'] else 'something is wrong'}")  # fmt: skip


def _cells(turn: Turn) -> tuple[str, ...]:
    times = ("" if value is None else f"{value:.1f}" for value in (turn.first_event_ms, turn.total_ms))
    return (str(turn.number), turn.what, turn.transport or "-", turn.input, f"{turn.bytes_sent}", *times)


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
    return "  ".join(cell.ljust(width) if at in (1, 2, 3, 7) else cell.rjust(width) for at, (cell, width) in enumerate(placed))


def _rich_table(turns: Iterable[Turn]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if at in (1, 2, 3, 7) else "right", no_wrap=at != 1)
    for turn in turns:
        mark = Text("✗", style="bold red") if turn.problem else Text("✓", style="green")
        table.add_row(*(Text(one_line(cell)) for cell in _cells(turn)), mark)
    Console(highlight=False).print(table)
