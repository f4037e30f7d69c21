"""``pixir-sync ask``: one question, one answer."""

from __future__ import annotations

import sys

import click

from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import show
from pixir_sync.cli.report import CommandError

__all__ = ["ask", "read_stdin"]


@click.command()
@click.argument("prompt", required=False)
@common
def ask(settings: Settings, prompt: str | None) -> None:
    """Ask PROMPT and show the answer while it comes.

    Without PROMPT, or with "-", the prompt is read from standard input. With --json the whole result is written, as one line.
    """
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("no prompt: give one, or pipe it in.")
    text = read_stdin() if prompt is None or prompt == "-" else prompt
    if not text.strip():
        raise click.UsageError("the prompt is empty.")
    with opened(settings) as provider:
        if settings.as_json:
            print(provider.complete(text).to_json(), flush=True)
        else:
            show(provider.stream(text))


def read_stdin() -> str:
    """Everything that is piped in, without the newline at its end. Raises `CommandError` where it is no text."""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is not {error.encoding} text") from None
