"""`Hooks`: who is told of the turns of one provider, and when; `Diary`, what one turn keeps for its record.

Rules kept here:

* A hook gets each record once: it is taken off a deque before it is told, so whatever interrupts the telling cannot repeat it.
* A hook is called on the ordinary path of a call only. A stream that is left early may end in the garbage collector, on a thread
  that holds a lock, ours or anybody's: there its record is put on a deque, which takes no lock and runs nobody's code.
* From outside of a call (``stats``, ``close``) those are told only where nothing of this library is interrupted: a signal handler
  may close, and so may a hook.
* Of several hooks each gets a record of its own, whose dicts it may change.
* What a hook raises is counted, and its type logged once for each hook: the message may quote anything.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from pixir_sync.forking import importing
from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.result import Evidence, Result

if TYPE_CHECKING:
    from pixir_sync.hooks.record import Hook, TurnRecord

    _Waiting = deque[tuple[int, Hook]]

__all__ = ["Diary", "Hooks"]

log = logging.getLogger("pixir_sync")

# What may hold a lock, or be in a hook, when a signal or a finaliser comes.
_OURS = ("pixir_sync.engine", "pixir_sync.hooks", "pixir_sync.transports", "pixir_sync.turn", "pixir_sync.warm_up")


class Hooks:
    """The hooks of one provider. Threads share it. ``note``: counts a failure; takes no lock."""

    def __init__(self, hooks: Iterable[Hook], note: Callable[[str], object]) -> None:
        self._hooks = tuple(hooks)
        self._note = note
        self._left: deque[tuple[int, Hook, TurnRecord]] = deque()
        self._logged: set[tuple[int, str]] = set()
        self._forks = 0  # between us and the process that made this
        if self._hooks:  # else no record is ever made, and to define what one is takes 3 ms of a cold start
            with importing:
                import pixir_sync.hooks.record  # noqa: F401  # where one is made it is found at once: no import in a finaliser

    def after_fork(self) -> None:
        """In a child process: what waits to be told is the parent's to tell."""
        self._forks += 1
        self._left.clear()

    def diary(self) -> Diary:
        """For a turn that is asked for now, on this thread."""
        return Diary(self, deque((number, self._begun(number)) for number in range(len(self._hooks))))

    def tell(self, waiting: _Waiting, record: TurnRecord) -> None:
        """Tell those that wait, then of the turns that were left early. What is no `Exception` is raised; the rest waits.

        Where one of them forks, and comes back in both processes, the rest is the parent's.
        """
        forks = self._forks
        try:
            while waiting and self._forks == forks:
                self._call(*waiting.popleft(), record)
        finally:
            if self._forks != forks:
                waiting.clear()
            self.leave(waiting, record)
        self.deliver()

    def leave(self, waiting: _Waiting, record: TurnRecord) -> None:
        """Have those that wait told later. Takes no lock; for a finaliser."""
        while waiting:
            self._left.append((*waiting.popleft(), record))

    def deliver(self) -> None:
        """Tell of the turns that were left early, those of now. For the ordinary path of a call."""
        for _ in range(len(self._left)):
            try:
                number, hook, record = self._left.popleft()
            except IndexError:  # another thread was quicker
                return
            self._call(number, hook, record)

    def settle(self) -> None:
        """The same from outside of a call, unless this interrupts one."""
        frame: FrameType | None = sys._getframe(1) if self._left else None
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith(_OURS):
                return
            frame = frame.f_back
        self.deliver()

    def _begun(self, number: int) -> Hook:
        hook = self._hooks[number]
        if not hasattr(type(hook), "begin_turn"):
            return hook
        try:
            begun: Hook = hook.begin_turn()  # type: ignore[attr-defined]
            if not callable(begun):
                raise TypeError("begin_turn gave nothing that can be called")
            return begun
        except Exception as error:
            self._failed(number, error)
            return hook

    def _call(self, number: int, hook: Hook, record: TurnRecord) -> None:
        from pixir_sync.hooks.record import copied

        try:
            hook(record if len(self._hooks) == 1 else copied(record))
        except Exception as error:
            self._failed(number, error)

    def _failed(self, number: int, error: Exception) -> None:
        self._note("hook_failures")
        kind, hook = type(error).__name__, self._hooks[number]
        if (number, kind) not in self._logged:
            self._logged.add((number, kind))
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            log.warning("the hook %s failed with %s; no call is harmed, and this is said once", name, kind)


class Diary:
    """What one turn keeps for its record, and which hooks have still to be told of it. Without hooks it keeps next to nothing."""

    __slots__ = ("_hooks", "_replays", "_started_at", "_waiting", "bytes_sent")

    def __init__(self, hooks: Hooks, waiting: _Waiting) -> None:
        self._hooks = hooks
        self._waiting = waiting
        self._started_at = 0.0
        self._replays: dict[str, int] = {}
        self.bytes_sent = 0  # by all attempts

    def __bool__(self) -> bool:
        """Whether a hook is still to be told."""
        return bool(self._waiting)

    def begin(self) -> None:
        """The turn begins."""
        self._started_at = time.time()

    def replay(self, reason: str) -> None:
        """Another attempt follows."""
        self._replays[reason] = self._replays.get(reason, 0) + 1

    def end(self, ended: Result | PixirError, evidence: Evidence, **known: Any) -> None:
        """The turn has ended on the ordinary path: tell the hooks. Raises what is no `Exception`."""
        self._hooks.tell(self._waiting, self._record(ended, evidence, known))

    def leave(self, ended: Result | PixirError, evidence: Evidence, **known: Any) -> None:
        """The turn was left, perhaps in a finaliser: the hooks are told later. Takes no lock."""
        self._hooks.leave(self._waiting, self._record(ended, evidence, known))

    def _record(self, ended: Result | PixirError, evidence: Evidence, known: dict[str, Any]) -> TurnRecord:
        from pixir_sync.hooks.record import record_of

        own = {"started_at": self._started_at, "replays": self._replays, "bytes_sent_total": self.bytes_sent}
        return record_of(ended, evidence, **own, **known)
