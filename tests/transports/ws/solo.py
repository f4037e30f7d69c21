"""An exhaustive model of who reads and who closes on a `Connection` of one stream: nobody waits in vain, and the last one closes.

Rules kept here:

- A step is one atomic act of ``pixir_sync/transports/ws/connection.py`` or ``mortal.py``: an operation on the dict that is the
  reading role, a section under ``_state``, a look at an attribute that another thread sets, a system call.
- Four threads: the stream's consumer, which may be interrupted anywhere; the keepalive thread, which visits; one that writes; one
  that ends the connection. Somebody may cancel.
- What the world does (bytes, the peer's close, a call, a visit, a cancel, the deadline, an interrupt, the end) may never happen
  again. So wherever no thread can go on by itself, nobody may wait in vain, and a dead connection that nobody is at is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Found", "Model", "State", "search"]

CONSUMER, VISITOR, WRITER, KILLER = "consumer", "visitor", "writer", "killer"
INSIDE = ("poll", "recv", "ready")
"""The places at which a thread is in the socket, or about to be without another look at death."""


class State(NamedTuple):
    """Where each thread stands, and what they share."""

    consumer: str = "away"
    visitor: str = "away"
    writer: str = "away"
    killer: str = "away"
    role: str = ""  # the dict's value
    over: bool = True  # the visit that the consumer waits for is at its end
    queue: bool = False
    bytes: bool = False  # to be read
    end: bool = False  # an end of file is to be read, or the socket was shut down
    dead: bool = False
    flag: bool = False  # the stream was cancelled
    due: bool = False  # who cancels stands between the flag and the wake-up
    closed: bool = False
    fault: str = ""


Step = tuple[str, State]


@dataclass(frozen=True)
class Model:
    """Each step as a function of the state; ``mutant`` names the rule that is broken. ``waits``: in recv, not in poll."""

    mutant: str = ""
    waits: bool = False

    # Leaving: rule 4.

    def leave(self, s: State, who: str, then: str) -> State:
        """After the role or the writing was given back: a look at death, and on to `_leave` if it has come."""
        forgets = self.mutant == f"no look at death: {who}"
        return _at(s, who, "leaves" if s.dead and not forgets else then)

    def leaving(self, s: State, who: str) -> Iterator[Step]:
        """`_leave`: a look at all under the lock, the closing after it."""
        place = getattr(s, who)
        if place == "leaves":
            nobody = not s.role or self.mutant == "closes under a reader"
            last = s.dead and nobody and s.writer != "writes"
            yield f"{who} looks who is there", _at(s, who, "closes" if last else "away")
        elif place == "closes":
            seen = changed(s, closed=True)
            if s.consumer in INSIDE or s.visitor in INSIDE or s.writer == "writes":
                seen = changed(seen, fault="closed under somebody who is in it")
            yield f"{who} closes", _at(seen, who, "away")

    # The consumer.

    def consume(self, s: State) -> Iterator[Step]:
        place = s.consumer
        if place == "wants" and self.mutant in ("the queue before the role", "death before the role"):
            yield from self.looks_first(s)
        elif place in ("wants", "looked"):
            yield from self.wants(s)
        elif place == "waits" and s.over:
            yield "consumer wakes", _at(s, CONSUMER, "wants")
        elif place == "has":
            if s.queue and self.mutant != "the queue before the role":
                yield "consumer takes from the queue", _at(changed(s, queue=False), CONSUMER, "gives")
            else:
                yield "consumer finds the queue empty", _at(s, CONSUMER, "looks")
        elif place == "looks":
            over = (s.dead and self.mutant != "death before the role") or s.flag
            yield "consumer looks", _at(s, CONSUMER, "gives" if over else "recv" if self.waits else "poll")
        elif place == "recv" and (s.bytes or s.end):
            yield from self.receives(s, CONSUMER, "gives" if s.bytes else "looks")
        elif place == "poll" and (s.bytes or s.end):
            yield "consumer is woken", _at(s, CONSUMER, "ready")
        elif place == "ready":
            yield from self.receives(s, CONSUMER, "gives" if s.bytes else "looks")
        elif place == "gives":
            fault = "told of a loss, and was cancelled" if s.dead and s.due and not s.flag else s.fault
            yield "consumer gives the role back", self.leave(changed(s, role="", fault=fault), CONSUMER, "away")
        else:
            yield from self.leaving(s, CONSUMER)

    def looks_first(self, s: State) -> Iterator[Step]:
        """What two mutants do before they ask for the role, and not after it."""
        if s.queue and self.mutant == "the queue before the role":
            yield "consumer takes from the queue", _at(changed(s, queue=False), CONSUMER, "away")
        elif s.dead and self.mutant == "death before the role":
            yield "consumer leaves", _at(s, CONSUMER, "away")
        else:
            yield "consumer has looked", _at(s, CONSUMER, "looked")

    def wants(self, s: State) -> Iterator[Step]:
        if not s.role or self.mutant == "takes a role that is taken":
            fault = "two have the role" if s.role else s.fault
            yield "consumer takes the role", _at(changed(s, role=CONSUMER, fault=fault), CONSUMER, "has")
        else:
            yield "consumer finds a visit", _at(s, CONSUMER, "waits")

    def receives(self, s: State, who: str, then: str) -> Iterator[Step]:
        fault = "read out of order" if s.queue and who == CONSUMER else "read from a closed file" if s.closed else s.fault
        if s.bytes:
            yield f"{who} receives", _at(changed(s, bytes=False, fault=fault), who, "hand" if who == VISITOR else then)
        else:
            yield f"{who} reads the end", _at(changed(s, dead=True, fault=fault), who, then)

    def interrupt(self, s: State) -> Iterator[Step]:
        """`_interrupted`, one section: an exception between any two steps of the wait. With bytes in hand they are lost."""
        if s.consumer not in ("waits", "has", "looks", "poll", "recv", "ready", "gives"):
            return
        if self.mutant == "an interrupt keeps the role":
            yield "consumer is interrupted", _at(s, CONSUMER, "away")
            return
        mine = s.role == CONSUMER or self.mutant == "an interrupt gives back anyone's role"
        dirty = s.role == CONSUMER and s.consumer in ("ready", "recv")
        after = changed(s, role="" if mine else s.role)
        if dirty and self.mutant != "dirty is not condemned":
            after = changed(after, dead=True, end=True, bytes=False)
        elif dirty and s.bytes:
            after = changed(after, bytes=False, fault="bytes were lost on a living connection")
        yield "consumer is interrupted", self.leave(after, CONSUMER, "away")

    # The others.

    def visit(self, s: State) -> Iterator[Step]:
        place = s.visitor
        if place == "looks":
            done = s.dead or s.queue or not (s.bytes or s.end)
            yield "visitor looks", _at(s, VISITOR, "gives" if done else "ready")
        elif place == "ready":
            yield from self.receives(s, VISITOR, "gives")
        elif place == "hand":
            yield "visitor puts it into the queue", _at(changed(s, queue=True), VISITOR, "looks")
        elif place == "gives":
            fault = s.fault if s.role == VISITOR else "gives back what it has not"
            yield "visitor gives the role back", _at(changed(s, role="", fault=fault), VISITOR, "ends")
        elif place == "ends":
            told = s.over or self.mutant != "the end of a visit is not told"
            yield "visitor tells its end", self.leave(changed(s, over=told), VISITOR, "away")
        else:
            yield from self.leaving(s, VISITOR)

    def write(self, s: State) -> Iterator[Step]:
        if s.writer == "writes":
            yield "writer is done", self.leave(_at(s, WRITER, "left"), WRITER, "away")
        else:
            yield from self.leaving(s, WRITER)

    def kill(self, s: State) -> Iterator[Step]:
        if s.killer == "shuts":
            yield "the socket is shut down", self.leave(changed(s, end=True), KILLER, "away")
        else:
            yield from self.leaving(s, KILLER)

    def own(self, s: State) -> Iterator[Step]:
        """What the threads do by themselves."""
        yield from self.consume(s)
        yield from self.visit(s)
        yield from self.write(s)
        yield from self.kill(s)
        if s.due:
            late = self.mutant == "the wake-up before the flag"
            yield "who cancels goes on", changed(s, due=False, flag=True, end=s.end if late else True)

    def world(self, s: State) -> Iterator[Step]:
        """What may happen at any time, or never."""
        if s.consumer == "away":
            yield "consumer calls", _at(s, CONSUMER, "wants")
        if s.consumer in ("poll", "recv"):
            yield "consumer is late", _at(s, CONSUMER, "gives")
        yield from self.interrupt(s)
        if s.visitor == "away" and not s.role:
            yield "visitor comes", _at(changed(s, role=VISITOR, over=False), VISITOR, "looks")
        if s.writer == "away" and not s.dead:
            yield "writer comes", _at(s, WRITER, "writes")
        if s.killer == "away" and not s.dead:
            yield "killer ends it", _at(changed(s, dead=True), KILLER, "shuts")
        if not s.flag and not s.due:
            early = self.mutant == "the wake-up before the flag"
            yield "somebody cancels", changed(s, due=True, flag=not early, end=s.end or early)
        if not (s.bytes or s.end or s.dead):
            yield "bytes come", changed(s, bytes=True)
        if not s.end:
            yield "the peer closes", changed(s, end=True)


def changed(s: State, **changes: object) -> State:
    return s._replace(**changes)  # type: ignore[arg-type]


def _at(s: State, who: str, place: str) -> State:
    return s._replace(**{who: place})  # type: ignore[arg-type]


def stuck(s: State) -> str:
    """What is wrong with a state in which no thread goes on by itself."""
    if s.consumer == "waits":
        return "waits for a visit that is over"
    if s.consumer in ("poll", "recv") and (s.dead or s.flag or s.queue):
        return "waits in vain: dead, cancelled, or with data in its queue"
    if s.role and s.consumer == "away" and s.visitor == "away":
        return "nobody reads, and nobody can"
    if s.dead and not s.closed and s.consumer == "away":
        return "dead, left by all, and not closed"
    return ""


class Found(NamedTuple):
    """What the search saw: how many states, every step, and the shortest way to a fault if there is one."""

    states: int
    steps: frozenset[str]
    fault: str
    trace: list[str]


def search(model: Model) -> Found:
    """Breadth first over all states; ends at the first fault."""
    start = State()
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue, labels = [start], set[str]()
    for state in queue:
        own = list(model.own(state))
        wrong = state.fault or ("" if own else stuck(state))
        if wrong:
            return Found(len(came), frozenset(labels), wrong, _trace(came, state))
        for what, after in [*own, *model.world(state)]:
            labels.add(what)
            if after not in came:
                came[after] = (state, what)
                queue.append(after)
    return Found(len(came), frozenset(labels), "", [])


def _trace(came: dict[State, tuple[State, str] | None], last: State) -> list[str]:
    told: list[str] = []
    while (before := came[last]) is not None:
        last, what = before
        told.append(what)
    return told[::-1]
