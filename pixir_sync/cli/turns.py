"""``pixir-sync report``: a page about the turns that `JsonLines` wrote down."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click

from pixir_sync.cli.figures import Figures, read
from pixir_sync.cli.options import Settings
from pixir_sync.cli.page import MARK, page
from pixir_sync.cli.report import CommandError

__all__ = ["report"]

_STDIN = "standard input"


@click.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="OUT.html",
              help="Where the page goes; - is standard output. Default: FILE, with .html, if no other page has it.")  # fmt: skip
@click.pass_obj
def report(settings: Settings, file: str, output: str | None) -> None:
    """Draw a page about the turns in FILE, which the hook JsonLines writes.

    FILE may be -, standard input: the page then goes to standard output. The page is one file, for any browser, and needs no
    network.
    """
    if settings != Settings():
        raise click.UsageError("report calls nobody: it takes none of the common options.")
    source = None if file == "-" else Path(file)
    figures = _figures(source)
    text = page(figures, _STDIN if source is None else source.name)
    if output == "-" or (output is None and source is None):
        click.echo(text, nl=False)
        return
    target = _target(source, output)
    try:
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CommandError(f"{target}: {error.strerror}") from None
    click.echo(f"{target}: {_counted(figures.turns, 'turn')}, {_counted(figures.skipped, 'line')} skipped")


def _target(source: Path | None, output: str | None) -> Path:
    """Where the page goes. Raises `CommandError` where something would be lost that is no page of a report."""
    if source is None:
        assert output is not None, "without a file there is no name for the page"
        return Path(output)
    target = Path(output) if output is not None else source.with_suffix(".html")
    if target == source or (target.exists() and os.path.samefile(target, source)):
        raise CommandError(f"{target} is the file of the turns: say with -o where the page goes")
    if output is None and target.is_file() and not _is_report(target):
        raise CommandError(f"{target} exists, and is no report: say with -o where the page goes")
    return target


def _is_report(target: Path) -> bool:
    try:
        with target.open(encoding="utf-8", errors="replace") as file:
            return MARK in file.read(1000)
    except OSError as error:
        raise CommandError(f"{target}: {error.strerror}") from None


def _opened(source: Path | None) -> AbstractContextManager[Iterable[bytes]]:
    if source is None:
        return nullcontext(sys.stdin.buffer)
    return source.open("rb")


def _figures(source: Path | None) -> Figures:
    """Raises `CommandError` for a file that cannot be read, or in which no turn is."""
    name = source or _STDIN
    try:
        with _opened(source) as lines:
            figures = read(lines)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CommandError(f"{name}: {error.strerror if isinstance(error, OSError) else 'no name of a file'}") from None
    if not figures.turns:
        raise CommandError(f"{name}: no turn is in it ({_counted(figures.skipped, 'line')} skipped)")
    return figures


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
