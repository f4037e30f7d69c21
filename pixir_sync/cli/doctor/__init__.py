"""``pixir-sync doctor``: what stands between this machine and an answer, checked one thing after the other.

Rules kept here:

* A check is one line, and never raises; what depends on a check that failed is skipped, and says so.
* Every wait has a limit, and Ctrl-C ends it in one line.
* With ``--json`` nothing but the object is written to stdout.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import click

from pixir_sync.cli.doctor import place
from pixir_sync.cli.doctor.examination import Check, Examination
from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import on_terminal
from pixir_sync.cli.report import CommandError, complain, one_line
from pixir_sync.protocol.errors import PixirError

__all__ = ["doctor"]

_STYLES = {"ok": "green", "limited": "yellow", "wrong": "bold red", "skipped": "dim"}
_WITHOUT = {
    "continuation": "every turn sends its whole input",
    "http": "there is no HTTP to fall back on",
    "streaming": "answers do not come as they are written",
}
_NO_WEBSOCKET = "there is no WebSocket, so every turn sends its whole input"


@click.command()
@common
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, metavar="SECONDS",
              help="The longest that reaching the server may take; a call may take three times as long.")  # fmt: skip
def doctor(settings: Settings, timeout: float) -> None:
    """Check what a call needs, and say what to do about what is missing.

    Packages, settings, key; name resolution, TCP, proxy, TLS; the upgrade to a WebSocket; then real calls: two over the
    WebSocket, of which the second goes on from the first, and one over HTTP. They cost some dozen tokens each. With --local
    nothing leaves this machine; with --transport only what that transport needs is checked.

    The exit status is 1 where calls with this transport cannot work. What works but for something (without a WebSocket, for
    example, where HTTP takes its place) is shown as limited, and the exit status is 0.
    """
    if math.isnan(timeout):  # which is in no range, and out of none
        raise click.BadParameter("nan is no number of seconds.", param_hint="--timeout")
    with _screen(settings.as_json) as (show, starting):
        exam = Examination(settings.transport or "auto", show, starting)
        try:
            _examine(exam, settings, timeout)
        except KeyboardInterrupt:
            complain(f"interrupted at the check {exam.current}" if exam.current else "interrupted")
            raise click.Abort from None
    if settings.as_json:
        print(json.dumps({"ok": exam.fine, "checks": [asdict(check) for check in exam.done]}))
    elif exam.fine:
        click.echo(_verdict(exam))
    if not exam.fine:
        wrong = ", ".join(check.name for check in exam.done if check.state == "wrong")
        raise CommandError(f"something is wrong: {wrong}")


def _examine(exam: Examination, settings: Settings, limit: float) -> None:
    """Every check, in order."""
    place.packages(exam)
    with ExitStack() as stack:
        if exam.can((), ("packages",)):
            exam.begin("settings")
            try:
                config = stack.enter_context(opened(settings, keyless=True)).config
                context = place.settings(exam, config)
            except PixirError as error:
                exam.wrong(error.message, "Correct what it names: an option, a variable of the environment, or a file.")
            except (ImportError, OSError) as error:
                exam.wrong(str(error), "The embedded server needs the extra local, and a port of this machine.")
            else:
                from pixir_sync.cli.doctor.route import Route
                from pixir_sync.cli.doctor.turns import Calls

                place.key(exam, config, settings.local)
                Route(exam, config, context, limit).examine()
                Calls(exam, config, limit).examine()
    exam.can(exam.names, ("packages", "settings"))


def _verdict(exam: Examination) -> str:
    """What it comes to, where calls work."""
    limited = [check.name for check in exam.done if check.state == "limited"]
    without = list(dict.fromkeys(_WITHOUT.get(name, _NO_WEBSOCKET) for name in limited))
    return f"Calls work, but {', and '.join(without)}." if without else "Calls work."


Screen = tuple[Callable[[Check], None], Callable[[str], None]]
"""What shows a check that was made, and what is told of the one that begins."""


@contextmanager
def _screen(as_json: bool) -> Iterator[Screen]:
    if as_json:
        yield (lambda check: None), (lambda name: None)
    elif not on_terminal():
        yield (lambda check: click.echo("\n".join(_lines(check)))), (lambda name: None)
    else:
        from rich.console import Console

        console = Console(highlight=False)
        with console.status("") as status:
            yield (lambda check: _draw(console, check)), (lambda name: status.update(name))


def _lines(check: Check, width: int | None = None) -> list[str]:
    """The check in lines: state, name, time, what it says; the advice below. ``width``: in so many columns."""
    took = "-" if check.ms is None else f"{check.ms:,.0f} ms" if check.ms >= 10 or not check.ms else f"{check.ms} ms"
    head = f"{check.state:<8} {check.name:<12} {took:>9}  "
    made = []
    for first, text in ((head, check.says), (" " * len(head) + "-> ", check.advice)):
        if text and width is None:
            made.append(first + one_line(text))
        elif text:
            made += textwrap.wrap(one_line(text), max(width or 0, 60), initial_indent=first, subsequent_indent=" " * len(first),
                                  break_on_hyphens=False)  # fmt: skip
    return made


def _draw(console: Any, check: Check) -> None:
    from rich.text import Text

    for line in _lines(check, console.width - 1):
        text = Text(line)
        text.stylize(_STYLES[check.state], 0, len(check.state) if line.startswith(check.state) else 0)
        console.print(text, soft_wrap=True)
