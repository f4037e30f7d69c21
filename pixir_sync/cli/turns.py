"""``pixir-sync report``: a page about the turns that `JsonLines` wrote down."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pixir_sync.cli.figures import Figures, read
from pixir_sync.cli.options import Settings
from pixir_sync.cli.page import page
from pixir_sync.cli.report import CommandError

__all__ = ["report"]


@click.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="OUT.html", help="Where the page goes; - is standard output. Default: FILE, with .html.")
@click.pass_obj
def report(settings: Settings, file: str, output: str | None) -> None:
    """Draw a page about the turns in FILE, which the hook JsonLines writes.

    The page is one file, for any browser, and needs no network.
    """
    if settings != Settings():
        raise click.UsageError("report calls nobody: it takes none of the common options.")
    source = Path(file)
    figures = _figures(source)
    text = page(figures, source.name)
    if output == "-":
        click.echo(text, nl=False)
        return
    target = Path(output) if output is not None else source.with_suffix(".html")
    if target == source or (target.exists() and os.path.samefile(target, source)):
        raise CommandError(f"{target} is the file of the turns: say with -o where the page goes")
    try:
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CommandError(f"{target}: {error.strerror}") from None
    click.echo(f"{target}: {_counted(figures.turns, 'turn')}, {_counted(figures.skipped, 'line')} skipped")


def _figures(source: Path) -> Figures:
    """Raises `CommandError` for a file that cannot be read, or in which no turn is."""
    try:
        with source.open("rb") as lines:
            figures = read(lines)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise CommandError(f"{source}: {error.strerror if isinstance(error, OSError) else 'no name of a file'}") from None
    if not figures.turns:
        raise CommandError(f"{source}: no turn is in it ({_counted(figures.skipped, 'line')} skipped)")
    return figures


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
