"""``pixir-sync chat``: a conversation.

Rules kept here:

* The history is kept here; the library only reads it. A turn that failed or was cancelled leaves no trace in it.
* On a terminal Ctrl-C ends the answer that is being written, and nothing else; a failed turn is told, and the chat goes on.
* In a pipe every line is a turn, and the first failure ends the command.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from pixir_sync.cancellation import CancelToken
from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import show
from pixir_sync.cli.report import CommandError, complain
from pixir_sync.protocol.errors import Cancelled, PixirError
from pixir_sync.protocol.items import user
from pixir_sync.provider import Provider

__all__ = ["Chat", "chat", "read_line"]

_SESSION = "chat"
_COMMAND = re.compile(r"/[a-z]+")
_HELP = "/new starts again, /exit (or Ctrl-D) leaves, Ctrl-C ends an answer"


@click.command()
@common
def chat(settings: Settings) -> None:
    """Hold a conversation; in a pipe, every line is a turn.

    /new starts again, /exit or Ctrl-D leaves, Ctrl-C ends the answer that is being written. With --json every result is written
    as one line.
    """
    with opened(settings) as provider:
        talk = Chat(provider, settings.as_json)
        if sys.stdin.isatty() and sys.stdout.isatty():
            _interactive(talk)
        else:
            _piped(talk)


class Chat:
    """One conversation and its history."""

    def __init__(self, provider: Provider, as_json: bool = False) -> None:
        self.history: list[dict[str, Any]] = []
        self._provider = provider
        self._as_json = as_json

    def take(self, line: str, cancel: CancelToken | None = None) -> bool:
        """Do what a line says; whether the conversation goes on. Raises what the model call raises."""
        text = line.strip()
        if text == "/exit":
            return False
        if text == "/new":
            self.history = []
            self._provider.release(_SESSION)
        elif _COMMAND.fullmatch(text):
            complain(f"no command {text}: {_HELP}")
        elif text:
            self._turn(text, cancel)
        return True

    def _turn(self, text: str, cancel: CancelToken | None) -> None:
        asked = [*self.history, user(text)]
        stream = self._provider.stream(asked, session=_SESSION, cancel=cancel)
        if self._as_json:
            result = stream.result()
            print(result.to_json(), flush=True)
        else:
            result = show(stream)
        self.history = asked + result.output_items


def _piped(talk: Chat) -> None:
    try:
        for line in sys.stdin:
            if not talk.take(line):
                return
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is not {error.encoding} text") from None


def _interactive(talk: Chat) -> None:
    import readline  # noqa: F401 - gives input() its editing and its history

    click.echo(_HELP)
    while (line := read_line()) is not None:
        try:
            with _cancelled_by_interrupt() as token:
                if not talk.take(line, token):
                    return
        except Cancelled:
            complain("cancelled; this turn is forgotten")
        except PixirError as error:
            complain(f"{error.kind}: {error.message}")
        except CommandError as error:
            complain(str(error))


def read_line() -> str | None:
    """The next line, None at the end. Ctrl-C drops what was typed."""
    while True:
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()


@contextmanager
def _cancelled_by_interrupt() -> Iterator[CancelToken]:
    """A token that Ctrl-C cancels; a second Ctrl-C interrupts as usual."""
    token = CancelToken()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        token.cancel()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)
