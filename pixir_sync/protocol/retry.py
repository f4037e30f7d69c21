"""When to try again, when to wait, and when not to knock at all: `RetryPolicy`, `RequestRate`, `Breaker`.

`retry_after` reads the delay that a server asks for. Pure: the clock and chance are passed in.
"""

from __future__ import annotations

import math
import re
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pixir_sync.protocol.errors import InvalidRequest
from pixir_sync.protocol.values import Value

__all__ = ["Breaker", "Replay", "RequestRate", "RetryPolicy", "non_negative", "retry_after"]

Replay = Literal["never", "before_created", "before_output"]
_REPLAYS = ("never", "before_created", "before_output")


def non_negative(
    name: str, value: object, *, whole: bool = False, optional: bool = False, positive: bool = False
) -> None:
    """Raise `InvalidRequest` that names the field unless the value is a finite number, zero or more."""
    if value is None and optional:
        return
    kinds = (int,) if whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max
    if not fits or (positive and value == 0):
        kind = "whole number" if whole else "number"
        bound = "above 0" if positive else "of 0 or more"
        given = repr(value) if isinstance(value, (int, float)) else type(value).__name__  # a string may be anything
        raise InvalidRequest(f"{name} must be a {kind} {bound}{', or None' if optional else ''}, not {given}")


@dataclass(frozen=True, eq=False, repr=False)
class RetryPolicy(Value):
    """How often and how long after a failure the same call is sent again. Times in seconds.

    Attributes:
        max_retries: tries after the first one; 0 turns retries off.
        initial_delay, max_delay: the n-th wait is ``min(initial_delay * 2**n, max_delay)``, the official SDK's rule.
        jitter: the largest part of a wait that chance takes away (0 to 1), so that many clients do not come back at
            once.
        max_server_delay: a server's own delay is kept up to this, whatever `max_delay` is; a longer one is raised at
            once.
        replay: which failures may be replayed at all: ``"never"``, those ``"before_created"`` (the server has not begun
            to answer) or those ``"before_output"``. After output nothing is ever replayed. What failed before the
            request was sent is no replay.

    Raises `InvalidRequest` for a value out of range.

    >>> from pixir_sync import Provider, RetryPolicy
    >>> policy = RetryPolicy(max_retries=5, jitter=0)
    >>> [policy.delay(done, server_delay=None, chance=0.5) for done in range(5)]
    [0.5, 1.0, 2.0, 4.0, 8.0]
    >>> provider = Provider(model="gpt-5.5", retry=policy)  # or retry=5
    """

    max_retries: int = 2
    initial_delay: float = 0.5
    max_delay: float = 8.0
    jitter: float = 0.25
    max_server_delay: float = 120.0
    replay: Replay = "before_output"

    def __post_init__(self) -> None:
        non_negative("retry.max_retries", self.max_retries, whole=True)
        for name in ("initial_delay", "max_delay", "jitter", "max_server_delay"):
            non_negative(f"retry.{name}", getattr(self, name))
        if self.jitter > 1:
            raise InvalidRequest(f"retry.jitter must lie between 0 and 1, not {self.jitter!r}")
        if self.replay not in _REPLAYS:
            raise InvalidRequest(f"retry.replay must be one of {', '.join(_REPLAYS)}, not {self.replay!r}")

    def delay(self, retries_done: int, server_delay: float | None, chance: float) -> float | None:
        """The seconds to wait before the next try; None where the server asks for more than `max_server_delay`.

        Args:
            retries_done: how many retries there were before this one.
            server_delay: what the server asked for, if it did; jitter only ever lengthens it.
            chance: a random number, 0 to 1.
        """
        own = min(self.initial_delay * 2.0 ** min(retries_done, 60), self.max_delay)
        if server_delay is None:
            return own * (1 - self.jitter * chance)
        if server_delay > self.max_server_delay:
            return None
        return server_delay + own * self.jitter * chance


# Only a failure asks: `re` compiles it then, which is 0.3 ms that a cold start does not take.
_DURATION = r"(?i)try again in\s+(?:(\d{1,9})h)?\s*(?:(\d{1,9})m(?!s))?\s*(?:(\d{1,9}(?:\.\d+)?)\s*(ms|s)(?:ec\w*)?)?"


def retry_after(headers: Mapping[str, str], message: str, now: float) -> float | None:
    """The server's delay in seconds, or None.

    From ``retry-after-ms``, else ``Retry-After`` (seconds or a date), else what the message says.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        raw = headers.get(name)
        try:
            if raw is not None and math.isfinite(seconds := float(raw) * scale):
                return max(0.0, seconds)
        except ValueError:
            if name == "retry-after" and (wait := _until(raw, now)) is not None:
                return wait
    found = re.search(_DURATION, message)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, amount, unit = found.groups()
    seconds = float(amount or 0) * (1e-3 if (unit or "").lower() == "ms" else 1)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds


def _until(raw: str | None, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # only where a server gives a date: it costs more than all else here

    try:
        return max(0.0, parsedate_to_datetime(raw or "").timestamp() - now)
    except (ValueError, OverflowError):
        return None


class RequestRate:
    """At most so many requests in any 60 seconds. Not for several threads at once: its owner guards it."""

    __slots__ = ("_recent",)

    WINDOW = 60.0

    def __init__(self, per_minute: float) -> None:
        self._recent: deque[float] = deque(maxlen=max(1, int(per_minute)))

    def reserve(self, now: float) -> float:
        """Take the next place; the seconds until it comes."""
        full = len(self._recent) == self._recent.maxlen
        at = max(now, self._recent[0] + self.WINDOW) if full else now
        self._recent.append(at)
        return at - now


class Breaker:
    """Gates the opening of connections to one place after failures: closed, open for a while, then one probe.

    The pause is 5 s after the first failure and doubles up to 5 min; after it one caller may try (the probe) while the
    others are still refused; success closes the breaker and forgets the pauses. Openings that were under way when it
    opened do not count again. A probe that nobody reports on (its caller was cancelled) is given up after `MAXIMUM`.
    Times are seconds of a monotonic clock. Not for several threads at once: its owner guards it.
    """

    __slots__ = ("failures", "open_until", "probing")

    INITIAL, MAXIMUM = 5.0, 300.0

    def __init__(self) -> None:
        self.failures = 0
        self.open_until = -math.inf
        self.probing = False

    def allows(self, now: float) -> bool:
        """Whether a connection may be opened now; a true answer after a failure hands out the one probe."""
        if self.failures == 0:
            return True
        if now < self.open_until:
            return False
        self.probing, self.open_until = True, now + self.MAXIMUM
        return True

    def succeeded(self) -> None:
        """A connection opened: closed again."""
        self.failures, self.open_until, self.probing = 0, -math.inf, False

    def failed(self, now: float) -> None:
        """An opening failed."""
        if now < self.open_until and not self.probing:
            return
        pause = min(self.INITIAL * 2.0 ** min(self.failures, 60), self.MAXIMUM)
        self.failures += 1
        self.open_until, self.probing = now + pause, False

    def withdrawn(self, now: float) -> None:
        """The probe was given up without an answer (its caller was cancelled): the next one may try."""
        if self.probing:
            self.open_until, self.probing = now, False

    def __repr__(self) -> str:
        return f"<Breaker failures={self.failures} probing={self.probing}>"
