"""``pixir-sync models``: what the server offers."""

from __future__ import annotations

import json

import click

from pixir_sync.cli.options import Settings, common, opened
from pixir_sync.cli.render import on_terminal
from pixir_sync.cli.report import one_line

__all__ = ["models"]


@click.command()
@common
def models(settings: Settings) -> None:
    """List the models that the server offers, one per line."""
    with opened(settings) as provider:
        names, default = provider.models(), provider.default_model()
    if settings.as_json:
        print(json.dumps({"models": names, "default": default}))
        return
    for name in names:
        mark = " (default)" if name == default and on_terminal() else ""
        print(f"{one_line(name)}{mark}")
