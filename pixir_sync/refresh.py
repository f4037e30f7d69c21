"""`Refresher`: one refresh of a credential for all the threads whose token was refused.

Rules kept here:

* An attempt remembers the number of refreshes before it. Who was refused with a token that was replaced since has nothing to do.
* One thread refreshes, with no lock held; the others wait for it, and a cancel or the call's limit ends that wait. They share its
  failure.
* A round that is seen by others has an end, wherever its thread is interrupted.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable

from pixir_sync.cancellation import CancelToken, cancelled
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.errors import NotAuthenticated, PixirError, TotalTimeout

__all__ = ["Refresher"]


class _Round:
    """A refresh that runs: who waits for it is woken by `done`; `error` is how it failed."""

    def __init__(self) -> None:
        self.done, self.succeeded = CancelToken(), False
        self.error: PixirError | None = None


class Refresher:
    """Refreshes a credential, once for all. Threads share it.

    Attributes:
        count: how many refreshes succeeded. renew: None where the credential cannot be refreshed.
    """

    def __init__(self, renew: Callable[[], object] | None) -> None:
        self.renew = renew
        self.count = 0
        self.after_fork()

    def after_fork(self) -> None:
        """In a child process nobody refreshes."""
        # Guards `count` and the round.
        self._lock = threading.Lock()
        self._round: _Round | None = None

    def refresh(self, seen: int, cancel: CancelToken, deadline: Deadline) -> None:
        """Have the token replaced, unless that was done since `count` was ``seen``.

        Raises what the credential raises where that is a `PixirError`, else `NotAuthenticated`; `Cancelled`; `TotalTimeout`.
        """
        while self.count == seen:
            own = _Round()
            try:
                with self._lock:
                    if self._round is None and self.count == seen:
                        self._round = own
                    ours = self._round
                if ours is own:
                    self._lead(own)
            finally:
                self._end(own)
            if ours is not None and ours is not own:
                self._follow(ours, cancel, deadline)
                if ours.error is not None:
                    raise copy.copy(ours.error)

    def _lead(self, own: _Round) -> None:
        try:
            assert self.renew is not None
            self.renew()
            own.succeeded = True
        except PixirError as error:
            own.error = copy.copy(error)
            raise
        except Exception as error:
            said = f"the credential could not be refreshed: {type(error).__name__}"
            own.error = NotAuthenticated(said, phase="auth")
            raise NotAuthenticated(said, phase="auth") from error

    def _end(self, own: _Round) -> None:
        """End a round, if it became one."""
        with self._lock:
            if self._round is own:
                self._round = None
                self.count += own.succeeded
        own.done.cancel()

    @staticmethod
    def _follow(ours: _Round, cancel: CancelToken, deadline: Deadline) -> None:
        parked = threading.Lock()
        parked.acquire()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # already released by an earlier wake-up
                parked.release()

        with ours.done.waking(wake), cancel.waking(wake):
            parked.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX))
        if cancel.cancelled:
            raise cancelled(cancel)
        if deadline.passed:
            raise TotalTimeout("the call took longer than its total limit", phase="auth")
