"""URLs: what a base URL may be, and how the paths of the API are put behind it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pixir_sync.protocol.checks import plain_text
from pixir_sync.protocol.checks import text as check_text
from pixir_sync.protocol.errors import InvalidRequest

__all__ = ["check_base", "check_origin", "check_url", "is_loopback", "join", "split"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def join(base: str, path: str) -> str:
    """The base with a path behind its own; the queries of both stay."""
    parts = urlsplit(base)
    path, _, query = path.partition("?")
    queries = "&".join(part for part in (parts.query, query) if part)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, query=queries))


def split(name: str, url: str) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        raise InvalidRequest(f"{name} is no URL") from None
    if not parts.hostname:
        raise InvalidRequest(f"{name} is no URL with a host; one looks like https://host/v1")
    return parts


def check_base(name: str, url: object, allow_insecure: bool) -> None:
    """A base URL, which may end in a mark of how it is to be used: ``#`` or ``##``. Raises `InvalidRequest`."""
    marked = isinstance(url, str) and re.search(r"[^#]##?$", url) is not None
    check_url(name, url.rstrip("#") if marked and isinstance(url, str) else url, ("http", "https"), allow_insecure)


def check_origin(url: str, origin: str) -> None:
    """Raise `InvalidRequest` where a credential that is for one origin only would be sent to another; this machine apart."""
    parts = urlsplit(url)
    if f"{parts.scheme}://{parts.netloc}".lower() != origin and not is_loopback(parts.hostname or ""):
        raise InvalidRequest(f"credential: this one is sent to {origin} only, and base_url or websocket_url leads elsewhere")


def check_url(name: str, url: object, schemes: tuple[str, str], allow_insecure: bool) -> None:
    check_text(name, url)
    plain_text(name, url)
    assert isinstance(url, str)
    if " " in url:
        raise InvalidRequest(f"{name} must not hold white space")
    parts = split(name, url)
    if parts.scheme not in schemes:
        raise InvalidRequest(f"{name} must begin with {schemes[0]}:// or {schemes[1]}://")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(f"{name} must not hold a user name or a password")
    if parts.fragment or url.endswith("#"):
        raise InvalidRequest(f"{name} must not hold a fragment (#)")
    if parts.scheme == schemes[0] and not allow_insecure and not is_loopback(parts.hostname):
        way = f"use {schemes[1]}, or Network(allow_insecure=True)"
        raise InvalidRequest(f"{name}: plain {schemes[0]} goes to this machine only; {way}")


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    return host in _LOOPBACK or host.endswith(".localhost") or (host.startswith("127.") and host.replace(".", "").isdigit())
