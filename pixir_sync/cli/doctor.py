"""``pixir-sync doctor``: what is needed for a call, checked one after the other.

Rules kept here:

* A check is one line, and never raises; what depends on a check that failed is skipped.
* Whether there is a key is said, and nothing about it.
"""

from __future__ import annotations

import json
import platform
import ssl
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

import click

from pixir_sync.cancellation import CancelToken
from pixir_sync.cli.options import KEY_VARIABLE, Settings, common, has_key, opened
from pixir_sync.cli.report import CommandError, one_line
from pixir_sync.config import ProviderConfig, Timeouts
from pixir_sync.deadline import Deadline
from pixir_sync.network import connect_tcp, proxy_for, tls_context
from pixir_sync.protocol.errors import PixirError
from pixir_sync.provider import Provider
from pixir_sync.version import __version__

__all__ = ["Check", "checks", "doctor"]

_CORE = ("requests", "websocket-client", "sseclient-py", "dataclasses-json")
_EXTRAS = {"fast": ("orjson",), "cli": ("click", "rich"), "local": ("aiohttp",), "otel": ("opentelemetry-api",)}
_CONNECT, _TOTAL = 10.0, 30.0  # seconds: for a connection, for the probe
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Check:
    """One check. `state` is ok, wrong, or skipped."""

    name: str
    state: Literal["ok", "wrong", "skipped"]
    says: str


@click.command()
@common
def doctor(settings: Settings) -> None:
    """Check what a call needs: packages, key, server. The exit status is 1 if something is wrong.

    The last check is a real call, of a few tokens. With --local nothing leaves this machine.
    """
    done = []
    for check in checks(settings):
        done.append(check)
        if not settings.as_json:
            click.echo(f"{check.state:<8} {check.name:<10} {one_line(check.says)}")
    fine = all(check.state == "ok" for check in done)
    if settings.as_json:
        print(json.dumps({"ok": fine, "checks": [asdict(check) for check in done]}))
    if not fine:
        wrong = ", ".join(check.name for check in done if check.state == "wrong")
        raise CommandError(f"something is wrong: {wrong}")


def checks(settings: Settings) -> Iterator[Check]:
    """Every check, in order, each made when it is asked for."""
    yield Check("python", "ok", f"{platform.python_implementation()} {platform.python_version()}")
    yield _packages()
    yield Check("extras", "ok", "; ".join(_extra(name, packages) for name, packages in _EXTRAS.items()))
    try:
        with opened(settings, keyless=True, retry=0, timeouts=Timeouts(connect=_CONNECT, total=_TOTAL)) as provider:
            yield from _connection(provider, settings.local)
    except PixirError as error:
        yield Check("settings", "wrong", error.message)
    except (ImportError, OSError) as error:
        yield Check("settings", "wrong", str(error))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Check:
    found = {name: _installed(name) for name in _CORE}
    listed = ", ".join(f"{name} {number or 'MISSING'}" for name, number in found.items())
    return Check("packages", "ok" if all(found.values()) else "wrong", f"pixir-sync {__version__}, {listed}")


def _extra(name: str, packages: Iterable[str]) -> str:
    found = [(package, _installed(package)) for package in packages]
    if all(number for _, number in found):
        return f"{name}: " + ", ".join(f"{package} {number}" for package, number in found)
    return f"{name}: not installed"


def _connection(provider: Provider, local: bool) -> Iterator[Check]:
    config = provider.config
    yield Check("settings", "ok", f"{config.url}, model {config.model}, transport {config.transport}")
    key = _key(config, local)
    yield key
    network = _reach(config)
    yield network
    if key.state == network.state == "ok":
        yield _probe(provider)
    else:
        yield Check("probe", "skipped", "it needs the checks before it")


def _key(config: ProviderConfig, local: bool) -> Check:
    if not (local or has_key()):
        return Check("key", "wrong", f"there is none: set {KEY_VARIABLE}, or use --local")
    try:
        config.credentials().headers()
    except PixirError as error:
        return Check("key", "wrong", error.message)
    return Check("key", "ok", "that of the embedded server" if local else "present, not shown")


def _reach(config: ProviderConfig) -> Check:
    """Whether a connection can be made, to the proxy where there is one, and whether its certificate is trusted."""
    try:
        proxy = proxy_for(config.url, config.network)
        target = urlsplit(proxy or config.url)
        host, port = target.hostname or "", target.port or _PORTS[target.scheme]
        deadline = Deadline(_CONNECT)
        with closing(connect_tcp(host, port, deadline, CancelToken())) as sock:
            if target.scheme != "https":
                return Check("network", "ok", f"{'the proxy ' if proxy else ''}{host}:{port} answers")
            sock.settimeout(max(0.001, deadline.remaining()))
            with tls_context(config.network).wrap_socket(sock, server_hostname=host) as secured:
                return Check("network", "ok", f"{'the proxy ' if proxy else ''}{host}:{port} answers, {secured.version()}")
    except PixirError as error:
        return Check("network", "wrong", error.message)
    except ssl.SSLCertVerificationError as error:
        return Check("network", "wrong", f"the certificate of {host} is not trusted: {error.verify_message}")
    except OSError as error:
        return Check("network", "wrong", f"no TLS with {host}:{port}: {error.strerror or type(error).__name__}")


def _probe(provider: Provider) -> Check:
    try:
        return Check("probe", "ok", f"{provider.probe()} answered")
    except PixirError as error:
        return Check("probe", "wrong", f"{error.kind}: {error.message}")
