"""`Check` and `Examination`: what was checked, how it went, and what is left out because of it.

Rules kept here:

* One check at a time is begun, and then ends in exactly one state. Its time is that of the wall.
* What depends on a check that failed is skipped, with that check's name: one transport always gives the same checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Examination", "State"]

State = Literal["ok", "limited", "wrong", "skipped"]

_PLACE = ("python", "packages", "extras", "settings", "key", "dns", "tcp", "proxy", "tls")
_PARTS = {"websocket": ("upgrade", "open", "websocket", "continuation"), "http_sse": ("http",)}


def _nobody(name: str) -> None:
    """Nobody wants to be told."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what was checked. says: what was found.
        state: ``ok``; ``limited`` (calls work, but for something); ``wrong`` (they do not); ``skipped``.
        advice: what to do about it, ``""`` where nothing is to be done.
        ms: how long it took, in milliseconds; None where nothing was done.
    """

    name: str
    state: State
    says: str
    advice: str = ""
    ms: float | None = None


class Examination:
    """All the checks of one run, in order. Not for several threads.

    Attributes:
        done: the checks so far. current: the name of the one that was begun, ``""`` between two.
        transport: ``auto``, ``websocket`` or ``http_sse``: what the calls are to go over. variable: where a key is looked for.
    """

    def __init__(
        self, transport: str, show: Callable[[Check], None], starting: Callable[[str], None] = _nobody
    ) -> None:
        """``show`` is called with each check as it ends, ``starting`` with the name of each that begins."""
        self.goes_by(transport, "OPENAI_API_KEY")
        self.done: list[Check] = []
        self.current = ""
        self._show, self._starting = show, starting
        self._began = 0.0

    def goes_by(self, transport: str, variable: str) -> None:
        """What the settings say of the transport and of the key."""
        self.transport, self.variable = {"sse": "http_sse"}.get(transport, transport), variable

    @property
    def names(self) -> list[str]:
        """Every check of this run."""
        parts = [name for part, names in _PARTS.items() if self.transport in ("auto", part) for name in names]
        return [*_PLACE, *parts, "streaming"]

    def begin(self, name: str) -> None:
        self.current, self._began = name, time.monotonic()
        self._starting(name)

    def ok(self, says: str) -> None:
        self._end("ok", says, "")

    def limited(self, says: str, advice: str) -> None:
        self._end("limited", says, advice)

    def wrong(self, says: str, advice: str) -> None:
        self._end("wrong", says, advice)

    def skip(self, names: Iterable[str], says: str) -> None:
        """Those of these checks that belong to this run are not made."""
        for name in names:
            if name in self.names:
                self._add(Check(name, "skipped", says))

    def state(self, name: str) -> State:
        """How a check went; what was not made is skipped."""
        return next((check.state for check in self.done if check.name == name), "skipped")

    def can(self, names: Iterable[str], needed: Iterable[str]) -> bool:
        """Whether what these checks need went well; where it did not, those of them that are not done are skipped."""
        failed = next((name for name in needed if self.state(name) in ("wrong", "limited")), "")
        if failed:
            done = {check.name for check in self.done}
            self.skip((name for name in names if name not in done), f"needs {failed}")
        return not failed

    @property
    def fine(self) -> bool:
        """Whether calls work."""
        return not any(check.state == "wrong" for check in self.done)

    def _end(self, state: State, says: str, advice: str) -> None:
        name, self.current = self.current, ""
        self._add(Check(name, state, says, advice, round((time.monotonic() - self._began) * 1000, 1)))

    def _add(self, check: Check) -> None:
        self.done.append(check)
        self._show(check)
