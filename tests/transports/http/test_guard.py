"""The guard of a socket: which limit holds, what ran out, and what did not (row C6)."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

import pytest

from pixir_sync import (
    Cancelled,
    CancelToken,
    ConnectTimeout,
    FirstEventTimeout,
    IdleTimeout,
    PixirError,
    Timeouts,
    TotalTimeout,
    WriteTimeout,
)
from pixir_sync.deadline import Deadline
from pixir_sync.transports.http.guard import Guard
from pixir_sync.transports.http.sockets import GuardedSocket, _GuardedIO


def guard(total: float | None = None, **limits: float | None) -> Guard:
    return Guard(Timeouts(**limits), Deadline(total), CancelToken())


class Failing:
    """A socket of which every read and write fails in the same way."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def gettimeout(self) -> float | None:
        return None

    def settimeout(self, seconds: float | None) -> None:
        assert seconds is None or seconds > 0

    def fail(self, *args: Any) -> Any:
        raise self.error

    recv = recv_into = send = fail


class Socket(_GuardedIO, Failing):
    """The same under a guard."""


def failing(error: OSError, of: Guard) -> Socket:
    sock = Socket(error)
    sock.guard = of
    return sock


@pytest.mark.row("C6")
def test_a_connection_that_the_system_gave_up_is_no_timeout_of_ours() -> None:
    """ETIMEDOUT of the system passes as it is; only a socket's own timeout is the limit that ran out."""
    own = guard(idle=30, write=30)
    own.expect_first()
    sock = failing(TimeoutError(errno.ETIMEDOUT, "by the system"), own)
    for call in (lambda: sock.recv_into(bytearray(1)), lambda: sock.recv(1), lambda: sock.sendall(b"x")):
        with pytest.raises(TimeoutError) as caught:
            call()
        assert caught.value.errno == errno.ETIMEDOUT and not isinstance(caught.value, PixirError)
    assert own.error is None


@pytest.mark.row("C6")
def test_the_limit_that_ran_out_is_told_by_the_phase() -> None:
    """A timeout means the limit of the phase, and what it was is kept."""
    own = guard(connect=30, idle=30, write=30)
    sock = failing(TimeoutError("timed out"), own)
    steps: list[tuple[Any, Any, type[PixirError]]] = [
        (lambda: None, lambda: sock.recv(1), ConnectTimeout),
        (lambda: setattr(own, "phase", "send"), lambda: sock.sendall(b"x"), WriteTimeout),
        (own.expect_first, lambda: sock.recv_into(bytearray(1)), FirstEventTimeout),
        (own.expect_next, lambda: sock.recv_into(bytearray(1)), IdleTimeout),
    ]
    for prepare, act, kind in steps:
        prepare()
        with pytest.raises(kind) as caught:
            act()
        assert own.error is caught.value
        assert caught.value.phase == own.phase


@pytest.mark.row("C6")
def test_the_total_limit_comes_first() -> None:
    """Where the limit for the whole call has passed, that is what is said."""
    own = guard(total=0)
    for ask in (own.read_timeout, own.write_timeout, own.check):
        with pytest.raises(TotalTimeout):
            ask()


def test_the_sooner_limit_is_the_sockets_timeout() -> None:
    """The timeout is what is left of the phase's limit or of the whole call's; none without limits."""
    own = guard(total=20, idle=10, connect=5, write=30)
    assert 4 < (own.read_timeout() or 0) <= 5
    own.expect_first()
    assert 9 < (own.read_timeout() or 0) <= 10
    assert 19 < (own.write_timeout() or 0) <= 20
    free = guard(idle=None, connect=None, write=None)
    assert (free.read_timeout(), free.write_timeout()) == (None, None)


def test_a_timeout_is_never_zero() -> None:
    """Zero would make the socket non-blocking: a limit that is about to pass either raises or leaves a little time."""
    own = guard()
    own.phase = "stream"
    left: list[float | None] = []
    for at in range(3000):
        own.expect_end(at * 1e-8)
        with contextlib.suppress(PixirError):
            left.append(own.read_timeout())
    assert left and all(seconds is not None and seconds > 0 for seconds in left)


def test_check_tells_a_cancel_with_how_far_the_call_came() -> None:
    """A live call passes; a cancelled one raises with its phase and whether anything was sent."""
    own = guard()
    own.check()
    own.phase, own.sent = "stream", True
    own.cancel.cancel()
    with pytest.raises(Cancelled) as caught:
        own.check()
    assert (caught.value.phase, caught.value.request_sent) == ("stream", True)


class Counting:
    """A socket that notes which timeouts were set, and always has a byte."""

    def __init__(self) -> None:
        self.stands: float | None = None
        self.set: list[float | None] = []

    def gettimeout(self) -> float | None:
        return self.stands

    def settimeout(self, seconds: float | None) -> None:
        self.stands = seconds
        self.set.append(seconds)

    def recv_into(self, buffer: bytearray) -> int:
        return 1


class CountingSocket(_GuardedIO, Counting):
    """The same under a guard."""


def test_a_timeout_that_nearly_stands_is_left() -> None:
    """A hundred events need one timeout between them; one that became much shorter, longer or endless is set at once."""
    own, sock = guard(idle=30, first_event=5, total=60), CountingSocket()
    sock.guard = own
    own.expect_first()
    for _ in range(100):
        sock.recv_into(bytearray(1))
        own.expect_next()
    first, *rest = sock.set
    assert first is not None and 4 < first <= 5.02
    assert rest and all(seconds is not None and 29 < seconds <= 30.02 for seconds in rest)
    assert len(rest) < 50  # one, unless the machine stood still meanwhile
    own.expect_end(0.25)
    sock.recv_into(bytearray(1))
    assert sock.stands is not None and sock.stands <= 0.27
    sock.guard = guard(idle=None)
    sock.guard.expect_first()
    sock.recv_into(bytearray(1))
    assert sock.stands is None


def test_a_read_of_the_file_takes_all_that_has_arrived() -> None:
    """What http.client reads through asks the system for 64 KB at once."""
    ours, theirs = socket.socketpair()
    with theirs, GuardedSocket(fileno=ours.detach()) as sock, sock.makefile("rb") as file:
        sock.guard = guard(idle=5)
        theirs.sendall(b"x" * 30_000)
        assert len(file.peek()) == 30_000
