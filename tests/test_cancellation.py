"""CancelToken: one flag, wake-ups that are never missed, no lock on the way (row B15)."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pixir_sync import CancelToken
from tests.transports.http.helpers import in_thread, took

DEADLINE = 5.0


def test_a_new_token_is_live() -> None:
    """A token begins without a reason, and its repr says how it stands."""
    token = CancelToken()
    assert (token.cancelled, token.reason, repr(token)) == (False, None, "<CancelToken live>")
    token.cancel()
    assert (token.cancelled, token.reason, repr(token)) == (True, "cancelled", "<CancelToken cancelled>")


def test_the_first_reason_counts() -> None:
    """A token that was cancelled stays so, for the reason that came first."""
    token = CancelToken()
    token.cancel("closed")
    token.cancel()
    assert token.reason == "closed"


def test_waking_calls_once_registered() -> None:
    """A wake-up runs while its block does: at the cancel, at once after one, and no more after the block."""
    token, calls = CancelToken(), []
    with token.waking(lambda: calls.append("before")):
        pass
    with token.waking(lambda: calls.append("during")):
        token.cancel()
    with token.waking(lambda: calls.append("after")):
        assert calls == ["during", "after"]
    token.cancel()
    assert calls == ["during", "after"]


def test_a_registration_ends_with_its_block() -> None:
    """Also an error in the block takes the wake-up away; to take one away twice is no error."""
    token = CancelToken()
    with pytest.raises(LookupError), token.waking(lambda: None):
        raise LookupError
    number = token.register(lambda: None)
    token.unregister(number)
    token.unregister(number)
    assert token._wakers == {}


def test_wait_sleeps_for_as_long_as_it_is_told() -> None:
    """Without a cancel wait returns false after its time, and at once for no time."""
    token = CancelToken()
    with took(0.1, 1):
        assert token.wait(0.1) is False
    with took(0, 0.5):
        assert token.wait(0) is False
    assert token._wakers == {}


@pytest.mark.parametrize("seconds", [None, 30, 1e12])
def test_wait_ends_with_a_cancel(seconds: float | None) -> None:
    """A wait of any length, for ever too, ends within milliseconds of a cancel from another thread."""
    token = CancelToken()
    waiting = in_thread(lambda: token.wait(seconds))
    until = time.monotonic() + DEADLINE
    while not token._wakers:
        assert time.monotonic() < until
    with took(0, 0.5):
        token.cancel()
        assert waiting.result(DEADLINE) is True
    with took(0, 0.5):
        assert token.wait(seconds) is True


def test_one_cancel_ends_every_wait() -> None:
    """Any number of threads wait on one token."""
    token = CancelToken()
    waiting = [in_thread(lambda: token.wait(30)) for _ in range(20)]
    until = time.monotonic() + DEADLINE
    while len(token._wakers) < 20:
        assert time.monotonic() < until
    token.cancel()
    assert all(w.result(DEADLINE) for w in waiting)
    assert token._wakers == {}


def test_no_wake_up_is_missed() -> None:
    """However a cancel falls together with the beginning of a wait, the wait ends."""
    for _ in range(300):
        token, start = CancelToken(), threading.Barrier(2)

        def wait(token: CancelToken = token, start: threading.Barrier = start) -> bool:
            start.wait(DEADLINE)
            return token.wait(DEADLINE)

        waiting = in_thread(wait)
        start.wait(DEADLINE)
        token.cancel()
        assert waiting.result(1) is True


def test_a_signal_handler_may_cancel() -> None:
    """A handler that runs in the middle of the main thread's own wait ends that wait: no lock is in its way."""
    token = CancelToken()
    before = signal.signal(signal.SIGUSR1, lambda *args: token.cancel())
    try:
        timer = threading.Timer(0.05, signal.pthread_kill, [threading.main_thread().ident, signal.SIGUSR1])
        timer.start()
        with took(0, 2):
            assert token.wait(10) is True
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_tokens_chain() -> None:
    """One token's cancel may be another's wake-up."""
    parent, child = CancelToken(), CancelToken()
    with parent.waking(child.cancel):
        parent.cancel()
    assert child.reason == "cancelled"
