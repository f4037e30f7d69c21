"""``pixir-sync serve``: the embedded server, for other programs."""

from __future__ import annotations

import json
import signal

import click

from pixir_sync.cli.options import Settings, common
from pixir_sync.cli.report import CommandError
from pixir_sync.local import LocalServer
from pixir_sync.local import serve as run_server

__all__ = ["serve"]

_KEY = "local-key"
_MODEL = "local-model"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0, the default, takes any free one.")
@click.option("--api-key", metavar="KEY", default=_KEY, show_default=True, help="The key that clients must give; not a secret.")
@common
def serve(settings: Settings, host: str, port: int, api_key: str) -> None:
    """Run the local server until Ctrl-C.

    Its model is deterministic: it says what it heard, and how many user messages its context holds. The key guards nothing of
    value, and whoever lists the processes can read it: do not give a real one.
    """
    if settings.base_url is not None or settings.transport is not None or settings.local:
        raise click.UsageError("serve is a server: it takes no --base-url, --transport or --local.")
    if not (api_key.isascii() and api_key.isprintable()) or not api_key or " " in api_key:
        raise click.UsageError("--api-key must be printable ASCII without spaces, and not empty.")

    def ready(server: LocalServer) -> None:
        if settings.as_json:
            where = {"base_url": server.base_url, "websocket_url": server.websocket_url, "model": server.model}
            print(json.dumps(where), flush=True)
        else:
            print(f"listening on {server.base_url} (model {server.model}); Ctrl-C stops it", flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is as clean as Ctrl-C
    try:
        run_server(host, port, api_key, ready, model=settings.model or _MODEL)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
