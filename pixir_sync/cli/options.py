"""The options that commands share, and the provider that they ask for.

Rules kept here:

* They may stand before the command or after it; what stands after it wins.
* No option takes a key to send: other users of the machine see what stands on a command line. A key comes from the environment.
* ``--local`` reaches the embedded server whatever proxy the environment names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from pixir_sync.cli.report import CommandError
from pixir_sync.config import TRANSPORTS, Network, ProviderConfig
from pixir_sync.credentials import EnvironmentKey
from pixir_sync.endpoints import PRESETS
from pixir_sync.provider import Provider

__all__ = ["Settings", "common", "missing_key", "opened"]


@dataclass(frozen=True)
class Settings:
    """The values of the common options; None where one was not given."""

    endpoint: str | None = None
    base_url: str | None = None
    model: str | None = None
    transport: str | None = None
    as_json: bool = False
    local: bool = False

    def over(self, other: Settings) -> Settings:
        """These settings where they were given, else the other ones."""
        made = Settings(
            endpoint=other.endpoint if self.endpoint is None else self.endpoint,
            base_url=other.base_url if self.base_url is None else self.base_url,
            model=other.model if self.model is None else self.model,
            transport=other.transport if self.transport is None else self.transport,
            as_json=self.as_json or other.as_json,
            local=self.local or other.local,
        )
        for name, value in (("--base-url", made.base_url), ("--endpoint", made.endpoint)):
            if made.local and value is not None:
                raise click.UsageError(f"--local and {name} exclude each other.")
        return made


_OPTIONS = (
    click.option("--endpoint", type=click.Choice(tuple(PRESETS)), help="The service. Default: PIXIR_ENDPOINT, the file, openai."),
    click.option("--base-url", metavar="URL", help="The server's HTTP base. Default: OPENAI_BASE_URL, the file, the endpoint's."),
    click.option("--model", metavar="NAME", help="The model. Default: PIXIR_MODEL, the configuration file, a built-in one."),
    click.option("--transport", type=click.Choice(TRANSPORTS), help="How to reach the server. Default: auto."),
    click.option("--json", "as_json", is_flag=True, help="Write one JSON object per line."),
    click.option("--local", is_flag=True, help="Use an embedded server, with no key and no network."),
)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options; its function gets a `Settings` first."""

    @click.pass_context
    @functools.wraps(function)
    def command(
        context: click.Context, /, *, endpoint: str | None, base_url: str | None, model: str | None, transport: str | None,
        as_json: bool, local: bool, **values: Any,
    ) -> Any:  # fmt: skip
        given = Settings(endpoint, base_url, model, transport, as_json, local)
        context.obj = given.over(context.obj or Settings())
        return function(context.obj, **values)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def missing_key(config: ProviderConfig) -> str | None:
    """The variable that should hold a key and does not; None where there is one, or none is needed."""
    credential = config.credentials()
    return credential.variable if isinstance(credential, EnvironmentKey) and credential.missing else None


@contextmanager
def opened(settings: Settings, *, keyless: bool = False, **options: Any) -> Iterator[Provider]:
    """The provider that the settings describe, and the embedded server while it is open; options as `Provider` takes them.

    Raises `CommandError` without a key, unless ``keyless``; `InvalidRequest` for a wrong value; what the server raises.
    """
    if settings.transport is not None:
        options["transport"] = settings.transport
    if settings.local:
        with _embedded(settings, options) as provider:
            yield provider
        return
    place = {"endpoint": settings.endpoint, "base_url": settings.base_url}
    with Provider(**place, model=settings.model, **options) as provider:
        if not keyless and (variable := missing_key(provider.config)) is not None:
            raise CommandError(f"no API key: set {variable}, or use --local")
        yield provider


@contextmanager
def _embedded(settings: Settings, options: dict[str, Any]) -> Iterator[Provider]:
    from pixir_sync.local import LocalServer

    with LocalServer() as server:
        at = {"base_url": server.base_url, "api_key": server.api_key, "network": Network(trust_env=False)}
        with Provider(model=settings.model or server.model, **{**options, **at}) as provider:
            yield provider
