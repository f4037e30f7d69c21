"""The guard that nothing leaves loopback: whatever a library does by itself (tracing, telemetry, a proxy) is refused and kept."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["only_loopback"]

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.sendto")
_outside: list[str] | None = None


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False


def _watch(event: str, args: tuple[object, ...]) -> None:
    if _outside is None or event not in _EVENTS:
        return
    where = args if event == "socket.getaddrinfo" else args[1]
    if isinstance(where, tuple) and not _is_local(where[0]):  # what is no tuple is the path of a local socket
        _outside.append(f"{event} {where[0]!r}")
        raise PermissionError(f"an interop test reached for {where[0]!r}")


@contextmanager
def only_loopback() -> Iterator[list[str]]:
    """Refuse every other address with PermissionError, on whatever thread; the list holds what was refused.

    An audit hook cannot be taken out again: after this it only looks away.
    """
    global _outside
    before, _outside = _outside, []
    if before is None:
        sys.addaudithook(_watch)
    try:
        yield _outside
    finally:
        _outside = before
