"""`Deadline`: one object per limit, handed down. Seconds of the monotonic clock; None means no limit."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A point in time that a call must not pass. Threads may share it. Only who made it may put it off, by `at`."""

    __slots__ = ("at",)

    def __init__(self, seconds: float | None, *, now: float | None = None) -> None:
        self.at = math.inf if seconds is None else (time.monotonic() if now is None else now) + seconds

    def remaining(self) -> float:
        """The seconds left, 0 where it has passed, infinity where there is no limit."""
        return max(0.0, self.at - time.monotonic())

    def timeout(self) -> float | None:
        """The seconds left in the form that sockets and locks take: None where there is no limit."""
        return None if self.at == math.inf else self.remaining()

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at

    def sooner(self, seconds: float | None) -> Deadline:
        """This deadline or one in so many seconds, whichever comes first."""
        at = self.earlier(seconds)
        if at == self.at:
            return self
        other = Deadline(None)
        other.at = at
        return other

    def earlier(self, seconds: float | None) -> float:
        """This deadline's time, or that in so many seconds, whichever comes first."""
        if seconds is None or (at := time.monotonic() + seconds) >= self.at:
            return self.at
        return at

    def __repr__(self) -> str:
        return f"<Deadline in {self.remaining():.3f} s>" if self.at < math.inf else "<Deadline none>"
