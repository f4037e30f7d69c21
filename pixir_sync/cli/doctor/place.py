"""What a call needs on this side: packages, extras, settings, a key.

Rules kept here:

* Whether there is a key is said, and nothing about it.
"""

from __future__ import annotations

import platform
import ssl
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from pixir_sync.cli.doctor.examination import Examination
from pixir_sync.cli.options import missing_key
from pixir_sync.config import ProviderConfig
from pixir_sync.network import tls_context
from pixir_sync.protocol.errors import PixirError
from pixir_sync.version import __version__

__all__ = ["key", "packages", "settings"]

_CORE = ("requests", "websocket-client", "sseclient-py", "dataclasses-json", "platformdirs")
_EXTRAS = {"fast": ("orjson",), "cli": ("click", "rich"), "local": ("aiohttp",), "otel": ("opentelemetry-api",)}


def packages(exam: Examination) -> None:
    """The interpreter, what this package needs, and what it can use."""
    exam.begin("python")
    exam.ok(f"{platform.python_implementation()} {platform.python_version()}")
    exam.begin("packages")
    found = {name: _installed(name) for name in _CORE}
    missing = [name for name, number in found.items() if not number]
    listed = ", ".join([f"pixir-sync {__version__}", *(f"{name} {number or 'MISSING'}" for name, number in found.items())])
    if missing:
        exam.wrong(listed, f"Install what is missing: pip install {' '.join(missing)}")
    else:
        exam.ok(listed)
    exam.begin("extras")
    exam.ok("; ".join(_extra(name, wanted) for name, wanted in _EXTRAS.items()))


def settings(exam: Examination, config: ProviderConfig) -> ssl.SSLContext | None:
    """Say what is in force, and let the rest go by it; the SSL context, which these settings make, where one is needed.

    Raises `InvalidRequest` where a file of certificates cannot be used. Ends the check that was begun.
    """
    exam.goes_by(config.transport if config.offers_websocket else "http_sse", config.preset.key_variable)
    context = tls_context(config.network) if config.url.startswith("https:") else None
    address = urlsplit(config.url)._replace(query="").geturl()  # a query may hold a key
    lacks = "" if config.offers_websocket else f" ({config.preset.title} offers no WebSocket)"
    exam.ok(f"{address}, model {config.model}, transport {exam.transport}{lacks}")
    return context


def key(exam: Examination, config: ProviderConfig, local: bool) -> None:
    """Whether there is a key that can be sent."""
    exam.begin("key")
    if (variable := missing_key(config)) is not None:
        exam.wrong("there is none", f"Set {variable}, or use --local for the embedded server.")
        return
    try:
        present = bool(config.credentials().headers())
    except PixirError as error:
        exam.wrong(error.message, f"Set {exam.variable} to the key alone, as the provider shows it.")
        return
    exam.ok("that of the embedded server" if local else "present" if present else "none, and none is needed")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extra(name: str, wanted: Iterable[str]) -> str:
    found = [(package, _installed(package)) for package in wanted]
    if all(number for _, number in found):
        return f"{name}: " + ", ".join(f"{package} {number}" for package, number in found)
    return f"{name}: not installed"
