"""`Death`: why a connection is no more; made once, told to everybody who waits.

Rules kept here: what is stored is the reason, not an exception. Each waiter gets an exception of its own, because one object that
several threads raise piles up tracebacks. What the server said stands in it as it came, until `conceal`.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pixir_sync.protocol.classify import from_close, redact
from pixir_sync.protocol.errors import ConnectionLost, FrameTooLarge, PixirError
from pixir_sync.protocol.frames import FrameError
from pixir_sync.protocol.turn import STALE

__all__ = ["Death", "broken", "closed_by_peer", "conceal", "ended", "misspoken", "retired", "stale", "unanswered"]


class Death(NamedTuple):
    """The end of a connection.

    Attributes:
        error: makes the error for one who waits. reset: why the session's next turn goes in full (`ResetReason` of the evidence).
        close_code: the code of the server's close frame.
    """

    error: Callable[[], PixirError]
    reset: str = "websocket_failed"
    close_code: int | None = None


def conceal(error: PixirError, secrets: Iterable[str]) -> None:
    """Take the credential values out of an error: the reason of a close frame may quote them, and so may a stray event."""
    secrets = tuple(secrets)
    error.message = redact(error.message, secrets)
    error.args = (error.message,)
    error.code = redact(error.code, secrets) if error.code is not None else None
    error.details = {name: redact(value, secrets) if isinstance(value, str) else value for name, value in error.details.items()}


def _lost(message: str) -> Callable[[], PixirError]:
    return lambda: ConnectionLost(message)


def ended() -> Death:
    """The bytes ended without a close frame."""
    return Death(lambda: ConnectionLost("the server ended the connection without a word", details={"close_code": 1006}),
                 close_code=1006)  # fmt: skip


def broken(error: OSError) -> Death:
    """The system, or TLS, gave the connection up."""
    if isinstance(error, ssl.SSLError):
        what = "ended" if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) else "failed"
        return Death(_lost(f"the TLS connection {what}"), close_code=1006)
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return Death(_lost(f"the connection was lost ({name})"), close_code=1006)


def closed_by_peer(code: int, reason: str) -> Death:
    """The server closed it."""
    return Death(lambda: from_close(code, reason), close_code=code)


def misspoken(fault: FrameError) -> Death:
    """The server broke the protocol: nothing that it says from here on can be understood."""
    kind = FrameTooLarge if fault.code == 1009 else ConnectionLost
    return Death(lambda: kind(f"the server broke the WebSocket protocol: {fault}", retryable=False,
                              details={"close_code": fault.code}), close_code=fault.code)  # fmt: skip


def unanswered(seconds: float) -> Death:
    """The server did not answer a ping."""
    return Death(_lost(f"the server did not answer a ping for {seconds:g} s"), reset="keepalive_failed")


def retired(reset: str) -> Death:
    """This side let go of it."""
    return Death(_lost("the connection was closed by this side"), reset=reset)


def stale(error: PixirError) -> PixirError:
    """The error of a connection that was lost while nobody used it: nothing was sent, whatever the server said at its end."""
    return ConnectionLost("the connection was lost while it was idle", code=STALE, details={"reason": error.kind})
