"""An exhaustive model of the hand-over of the reading role: no wake-up is lost, however the threads interleave.

Rules kept here:

- A step is one section of ``pixir_sync/transports/ws/multiplexed.py`` under ``_state``, or one act without the lock that another
  thread can notice. A delay inside a thread is no step: it is the same state, left later. So a waiter that wakes and then decides
  is one step, and so are an interrupt and the section of the handler that follows it.
- Consumers are alike: a state keeps their lanes sorted. One that has left for good is one that never calls again. So each lane
  may be cancelled, late, interrupted and used anew any number of times, and the model is finite all the same.
- Bytes are "some" or "none"; whose messages they were is chosen when they are dispatched: any set of lanes, the empty one too (a
  ping, half a frame). A queue holds up to ``limit`` entries; one message may be too much for an empty queue. Where the baton may
  go to several waiters, each is tried.
- What the world does (bytes, close, cancel, call, deadline, interrupt, keepalive's visit) may never happen again. So wherever no
  thread can go on by itself, nobody may wait in vain; and the threads' own steps form no cycle, so that they always get there.

========================  =========================================================================================
step                      stands for, in ``Multiplexed``
========================  =========================================================================================
calls, pops               ``receive``: the queue without a lock, else as below
wakes and decides         the loop of ``_wait``: un-parked, one ``_decide`` under ``_state`` (rules 2 and 3)
is late                   the same: the deadline passed
empties the wake-up       ``_read_on``: the wait on the poll object ended for the wake-up socket, whose bytes are gone (rule 6)
receives                  ``_read_on``: the wait ended for bytes, and ``_receive`` took them; ``_dirty`` from here on (rule 8)
looks                     ``_read_on`` under ``_state`` after the wake-up: unparks the cancelled lanes, then ends as below
dispatches                ``_give_out`` under ``_state``: fills queues, unparks (rule 5). Where there is data for its own lane, or
                          that is cancelled, overflowed, dead: ``_release`` in the same section (rule 4); else it polls again
dies of the end           the same with an end of file in hand: ``_die``, ``_release``
polls no more             ``_read_on``: the deadline passed, ``_release``
is interrupted, unwinds   ``_interrupted``: one section under ``_state`` (rules 7 and 8)
..., cut                  an interrupt inside a section, before the baton or amid ``_die``; ``_interrupted`` is still to come
keepalive ...             ``drain``: takes the role if it is free; receives, dispatches; ``_release``
is cancelled              ``stop``: the flag, then the wake-up, neither with a lock (rule 6)
another kills it          ``die`` by one who does not read (a failed send, the pool's close): the section, then the shutdown
========================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, product

# A lane with its consumer is one number. The consumer's place:
AWAY, PARKED, WOKEN, POLL, LOOK, HAND, EOF, UNWIND, FATAL = range(9)
ABOUT, TAKEN, RELEASE, EMPTY = range(9, 13)  # only mutants get there
PLACES = ("away", "parked", "woken", "poll", "look", "hand", "eof", "unwind", "fatal", "about", "taken", "release", "empty")
ACTING = (POLL, LOOK, HAND, EOF, FATAL, TAKEN, RELEASE, EMPTY)  # here a consumer goes by having the role
PLACE = 15
ROLE = 16  # ``reader`` is this consumer
STORED = 32  # ``lane.parked`` is a lock; nobody has released it
FLAG = 64  # ``lane.cancelled``
DUE = 128  # who cancels stands between the two steps
OVER = 256  # the lane has overflowed
ONE, QUEUE = 512, 512 * 3  # entries in the queue
MARKS = {ROLE: "role", STORED: "lock", FLAG: "cancelled", DUE: "due", OVER: "overflowed"}

# What all share is another number.
VISIT, HOLDS = 1, 2  # keepalive has the role; and bytes in hand
WAKE, BYTES, CLOSED, DEAD, SHUT = 4, 8, 16, 32, 64  # a wake-up, bytes, an end of file are to be read; dead; shutdown is due
LOST, HASTY = 128, 256  # faults that no later state would show
SHARED = {
    VISIT: "keepalive", HOLDS: "in hand", WAKE: "wake-up", BYTES: "bytes", CLOSED: "closed", DEAD: "dead", SHUT: "shutdown due",
    LOST: "lost", HASTY: "hasty",
}  # fmt: skip

Lanes = tuple[int, ...]
State = tuple[int, ...]  # what all share, then the lanes, sorted
After = list[tuple[Lanes, int]]
Step = tuple[str, int, Lanes, int]  # what happened, at which lane (-1: none), and what it led to

ORDER = ("data", "cancelled", "overflowed", "dead", "role", "late")
ORDERS = {
    "role before data": ("role", "data", "cancelled", "overflowed", "dead", "late"),
    "role before cancelled": ("data", "role", "cancelled", "overflowed", "dead", "late"),
    "cancelled before data": ("cancelled", "data", "overflowed", "dead", "role", "late"),
    "dead before data": ("dead", "data", "cancelled", "overflowed", "role", "late"),
    "late before role": ("data", "cancelled", "overflowed", "dead", "late", "role"),
}


def put(lanes: Lanes, i: int, lane: int) -> Lanes:
    return (*lanes[:i], lane, *lanes[i + 1 :])


def at(lane: int, place: int) -> int:
    return (lane & ~PLACE) | place


def different(lanes: Lanes) -> list[tuple[int, int]]:
    """The lanes with their places, without those that are as one before: what they do leads to the same states."""
    return [(i, lane) for i, lane in enumerate(lanes) if lane not in lanes[:i]]


def unparked(lane: int) -> int:
    """``lane.parked = None; w.release()``; a lock that nobody waits for any more swallows the release."""
    if not lane & STORED:
        return lane
    lane &= ~STORED
    return at(lane, WOKEN) if lane & PLACE == PARKED else lane


@dataclass(frozen=True)
class Model:
    """Each section as a function from a state to the states after it; ``mutant`` names the rules that are broken."""

    mutant: frozenset[str] = frozenset()
    consumers: int = 3
    limit: int = 1
    ways: dict[int, list[tuple[int, bool]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def start(self) -> State:
        return (0,) + (AWAY,) * self.consumers

    @cached_property
    def order(self) -> tuple[str, ...]:
        return next((ORDERS[name] for name in self.mutant if name in ORDERS), ORDER)

    # What several sections share.

    def held(self, lanes: Lanes, s: int) -> bool:
        for lane in lanes:
            s |= lane & ROLE and VISIT
        return bool(s & VISIT)

    def baton(self, lanes: Lanes, s: int, leaver: str) -> After:
        """``_pass_baton``: if nobody reads, tell the cancelled and the overflowed, and wake one waiter, whichever."""
        if f"no baton: {leaver}" in self.mutant or self.held(lanes, s):
            return [(lanes, s)]
        told = OVER if "baton forgets the cancelled" in self.mutant else OVER | FLAG
        lanes = tuple(unparked(lane) if lane & told else lane for lane in lanes)
        if "baton counts on one already woken" in self.mutant and any(lane & PLACE == WOKEN for lane in lanes):
            return [(lanes, s)]
        full = "baton goes to a full queue" in self.mutant
        heirs = [i for i, lane in enumerate(lanes) if lane & STORED and bool(lane & QUEUE) is full]
        return [(put(lanes, i, unparked(lanes[i])), s) for i in heirs] or [(lanes, s)]

    def leave(self, lanes: Lanes, s: int, i: int, who: str, why: str) -> After:
        """Out of the wait and without the role; an error ends the stream, and the next stream finds the lane as new."""
        lane = lanes[i]
        if why == "data":
            lane = at(lane - ONE, AWAY)
        else:
            s |= LOST if lane & QUEUE else 0
            lane = AWAY | lane & STORED
        return self.baton(put(lanes, i, lane), s, f"{who}, {why}")

    def decide(self, lanes: Lanes, s: int, i: int, late: bool = False) -> After:
        """``_decide`` in the order of rule 2; to park stores the lock in the same section (rule 3)."""
        free = not self.held(lanes, s)
        stays = {"a late waiter stays parked" if late else "", "who takes the role stays parked" if free else ""}
        lane = lanes[i] if stays & self.mutant else lanes[i] & ~STORED
        lanes = put(lanes, i, lane)
        ended = {"cancelled": lane & FLAG, "overflowed": lane & OVER, "dead": s & DEAD}
        facts = {"data": lane & QUEUE, "role": free, "late": late, **ended}
        what = next((what for what in self.order if facts[what]), "")
        if what == "role":
            place = TAKEN if "role taken outside the try" in self.mutant else POLL
            return [(put(lanes, i, at(lane, place) | ROLE), s)]
        if what:
            return self.leave(lanes, s | HASTY if free and what == "late" else s, i, "waiter", what)
        place = ABOUT if "parked after the decision" in self.mutant else PARKED | STORED
        return [(put(lanes, i, at(lane, place & PLACE) | (place & STORED)), s)]

    def settle(self, lanes: Lanes, s: int, i: int, late: bool = False, guarded: bool = True) -> Iterator[Step]:
        """How each section of the holder ends: it polls again, or gives the role back and passes the baton."""
        lane = lanes[i]
        facts = {"data": lane & QUEUE, "cancelled": lane & FLAG, "overflowed": lane & OVER, "dead": s & DEAD, "late": True}
        why = next(why for why in facts if facts[why])
        if why == "late" and not late:
            yield "polls again", i, put(lanes, i, at(lane, POLL)), s
        if guarded and "role given back outside the try" in self.mutant:
            yield why, i, put(lanes, i, at(lane, RELEASE)), s
        else:
            lanes = put(lanes, i, lane & ~ROLE)
            for after, shared in self.leave(lanes, s, i, "holder", why):
                yield why, i, after, shared
            yield f"{why}, cut before the baton", i, put(lanes, i, UNWIND), s

    def dies(self, lanes: Lanes, s: int) -> tuple[Lanes, int]:
        """``die``, the part under ``_state``: everybody is unparked, nothing more will be read."""
        parked = [i for i, lane in enumerate(lanes) if lane & STORED]
        for i in parked[:1] if "death unparks one" in self.mutant else parked:
            lanes = put(lanes, i, unparked(lanes[i]))
        return lanes, (s | DEAD | CLOSED) & ~BYTES

    def fills(self, lane: int) -> list[tuple[int, bool]]:
        """What a dispatch may do to a lane, and whether it overflows; a lane that has ended drops its messages."""
        if lane not in self.ways:
            ways = self.ways[lane] = [(lane, False)]
            if not lane & (FLAG | OVER) and lane & PLACE not in (UNWIND, FATAL):
                mute = "dispatch unparks nobody" in self.mutant
                if (lane & QUEUE) < self.limit * ONE:
                    ways.append((lane + ONE if mute else unparked(lane + ONE), False))
                mute = mute or "dispatch forgets the overflowed" in self.mutant
                ways.append((lane | OVER if mute else unparked(lane | OVER), True))
        return self.ways[lane]

    def dispatched(self, lanes: Lanes) -> Iterator[Lanes]:
        for ways in product(*map(self.fills, lanes)):
            if sum(over for _, over in ways) <= 1:
                yield tuple(lane for lane, _ in ways)

    # The steps of each thread by itself.

    def interrupted(self, lanes: Lanes, s: int, i: int) -> After:
        """The handler (rules 7 and 8): the role back by identity, else un-park; with bytes in hand the connection dies."""
        lane, place = lanes[i], lanes[i] & PLACE
        if place in (TAKEN, RELEASE):
            return [(put(lanes, i, AWAY | ROLE), s)]
        if not lane & ROLE:
            if "an interrupt gives back anyone's role" in self.mutant:
                lanes = tuple(other & ~ROLE for other in lanes)
            kept = lane & STORED if "an interrupted waiter stays parked" in self.mutant else 0
            return self.baton(put(lanes, i, AWAY | kept), s, "waiter, interrupt")
        lanes = put(lanes, i, AWAY)
        if place in (HAND, EOF, FATAL) and "dirty is not condemned" not in self.mutant:
            lanes, s = self.dies(lanes, s)
        elif place == HAND:
            s |= LOST
        return self.baton(lanes, s, "holder, interrupt")

    def section(self, lanes: Lanes, s: int, i: int) -> Iterator[Step]:
        """The holder's sections after poll; each ends as ``settle`` says."""
        place = lanes[i] & PLACE
        if place == HAND:
            for filled in self.dispatched(lanes):
                yield from self.settle(filled, s, i)
        elif place == EOF:
            yield from self.settle(*self.dies(lanes, s), i)
            yield "dies, cut before it unparks anybody", i, put(lanes, i, at(lanes[i], FATAL)), s | DEAD
        elif "a reader looks at its own flag only" in self.mutant:
            yield from self.settle(lanes, s, i)
        else:
            yield from self.settle(tuple(unparked(lane) if lane & FLAG else lane for lane in lanes), s, i)

    def consumer(self, lanes: Lanes, s: int, i: int) -> Iterator[Step]:
        lane, place = lanes[i], lanes[i] & PLACE
        early = "flags before the wake-up is emptied" in self.mutant
        if place == WOKEN:
            yield from named("wakes and decides", i, self.decide(lanes, s, i))
        elif place == POLL:
            if s & WAKE:
                yield "empties the wake-up", i, put(lanes, i, at(lane, LOOK)), s if early else s & ~WAKE
            if s & (BYTES | CLOSED):
                yield "receives", i, put(lanes, i, at(lane, HAND if s & BYTES else EOF)), s & ~BYTES
        elif place in (LOOK, HAND, EOF):
            verb = {LOOK: "looks", HAND: "dispatches", EOF: "dies of the end"}[place]
            for what, _, after, shared in self.section(lanes, s, i):
                if early and place == LOOK and after[i] & PLACE == POLL:
                    after = put(after, i, at(after[i], EMPTY))
                yield f"{verb}: {what}", i, after, shared
        elif place in (UNWIND, FATAL):
            yield from named("unwinds", i, self.interrupted(lanes, s, i))
        elif place == ABOUT:
            yield "parks", i, put(lanes, i, at(lane, PARKED) | STORED), s
        elif place == TAKEN:
            yield "enters the try", i, put(lanes, i, at(lane, POLL)), s
        elif place == RELEASE:
            for what, _, after, shared in self.settle(lanes, s, i, late=True, guarded=False):
                yield f"gives the role back: {what}", i, after, shared
        elif place == EMPTY:
            yield "empties the wake-up", i, put(lanes, i, at(lane, POLL)), s & ~WAKE

    def keepalive(self, lanes: Lanes, s: int) -> Iterator[Step]:
        """``drain``; it stops at its limit, too, with bytes still to be read."""
        if s & HOLDS:
            for filled in self.dispatched(lanes):
                yield "keepalive dispatches", -1, filled, s & ~HOLDS
        elif s & VISIT:
            if s & BYTES:
                yield "keepalive receives", -1, lanes, (s | HOLDS) & ~BYTES
            elif s & CLOSED and not s & DEAD:
                yield "keepalive finds the end", -1, *self.dies(lanes, s)
            yield from named("keepalive goes", -1, self.baton(lanes, s & ~VISIT, "keepalive"))

    def own(self, lanes: Lanes, s: int) -> Iterator[Step]:
        """What the threads do by themselves: every thread that can go on, does so at some time."""
        for i, lane in different(lanes):
            yield from self.consumer(lanes, s, i)
            if lane & DUE and "the wake-up before the flag" in self.mutant:
                yield "has its flag set", i, put(lanes, i, (lane & ~DUE) | FLAG), s
            elif lane & DUE:
                yield "is followed by a wake-up", i, put(lanes, i, lane & ~DUE), s | WAKE
        yield from self.keepalive(lanes, s)
        if s & SHUT and "death by another wakes no reader" not in self.mutant:
            yield "the socket is shut down", -1, lanes, (s | CLOSED) & ~SHUT

    # What the world does, at any time or never.

    def to_a_consumer(self, lanes: Lanes, s: int, i: int) -> Iterator[Step]:
        lane, place = lanes[i], lanes[i] & PLACE
        if place == AWAY and lane & QUEUE:
            yield "pops", i, put(lanes, i, lane - ONE), s
        elif place == AWAY:
            yield from named("calls", i, self.decide(lanes, s, i))
        elif place in (PARKED, WOKEN):
            yield from named("is late", i, self.decide(lanes, s, i, late=True))
        elif place == POLL:
            for what, _, after, shared in self.settle(lanes, s, i, late=True):
                yield f"polls no more: {what}", i, after, shared
        if place in (UNWIND, FATAL):
            return
        if place != AWAY:
            yield from named("is interrupted", i, self.interrupted(lanes, s, i))
        if not lane & (FLAG | DUE):
            if "the wake-up before the flag" in self.mutant:
                yield "is to be cancelled: the wake-up", i, put(lanes, i, lane | DUE), s | WAKE
            else:
                yield "is cancelled: the flag", i, put(lanes, i, lane | FLAG | DUE), s

    def world(self, lanes: Lanes, s: int) -> Iterator[Step]:
        for i, _ in different(lanes):
            yield from self.to_a_consumer(lanes, s, i)
        if not s & WAKE:
            yield "a wake-up for a lane that has left", -1, lanes, s | WAKE
        if not s & (BYTES | CLOSED | DEAD):
            yield "bytes come", -1, lanes, s | BYTES
        if not s & (CLOSED | DEAD):
            yield "the peer closes", -1, lanes, s | CLOSED
        if not s & DEAD:
            if not self.held(lanes, s):
                yield "keepalive comes", -1, lanes, s | VISIT
            unparks, _ = self.dies(lanes, s)
            yield "another kills it", -1, unparks, (s | DEAD | SHUT) & ~BYTES


def named(what: str, i: int, afters: After) -> Iterator[Step]:
    return ((what, i, lanes, s) for lanes, s in afters)


# What must hold.


def fault(lanes: Lanes, s: int) -> str | None:
    """What is wrong with a state as such; while somebody unwinds, that handler's section is still to come."""
    if s & (LOST | HASTY):
        return "data was lost on a living connection" if s & LOST else "late, though the role was free: it never looked"
    if any((lane & PLACE in ACTING) != bool(lane & ROLE) for lane in lanes):
        return "the role was taken from one who reads, or kept by one who left"
    if sum(bool(lane & ROLE) for lane in lanes) + (s & VISIT) > 1:
        return "two have the role"
    if any(lane & PLACE in (UNWIND, FATAL) for lane in lanes):
        return None
    if any(lane & PLACE == PARKED and lane & STORED and (lane & (QUEUE | OVER) or s & DEAD) for lane in lanes):
        return "parked, with something to be told and no unpark on its way"
    return None


def stuck(lanes: Lanes, s: int) -> str | None:
    """What is wrong with a state in which no thread goes on by itself."""
    polls = [lane for lane in lanes if lane & PLACE == POLL]
    waits = [lane for lane in lanes if lane & PLACE == PARKED] + polls
    if waits and not polls:
        return "somebody waits and nobody reads"
    if any(lane & (QUEUE | OVER | FLAG) or s & DEAD for lane in waits):
        return "somebody waits in vain: for data in its queue, cancelled, overflowed or dead"
    return None


@dataclass(frozen=True)
class Found:
    """What the search saw: all states, and the shortest way to a fault if there is one."""

    states: int
    steps: frozenset[str]
    fault: str | None
    trace: list[str]
    circle: bool


def canonical(lanes: Lanes, s: int) -> State:
    return (s, *sorted(lanes))


def search(model: Model) -> Found:
    """Breadth first over all states; ends at the first fault."""
    came: dict[State, State | None] = {model.start: None}
    queue, ways = [model.start], []
    labels: set[str] = set()
    for state in queue:
        s, *rest = state
        lanes = tuple(rest)
        own = list(model.own(lanes, s))
        wrong = fault(lanes, s) or (None if own else stuck(lanes, s))
        if wrong:
            return Found(len(came), frozenset(labels), wrong, trace(model, came, state), False)
        ways.append([canonical(after, shared) for _, _, after, shared in own])
        for what, _, after, shared in chain(own, model.world(lanes, s)):
            labels.add(what)
            key = canonical(after, shared)
            if key not in came:
                came[key] = state
                queue.append(key)
    return Found(len(came), frozenset(labels), None, [], circular(queue, ways))


def circular(states: list[State], ways: list[list[State]]) -> bool:
    """Whether the threads could go round for ever by themselves (Kahn's count of what cannot be peeled off)."""
    place = {state: n for n, state in enumerate(states)}
    before: list[list[int]] = [[] for _ in states]
    for n, afters in enumerate(ways):
        for after in afters:
            before[place[after]].append(n)
    open_ways = [len(afters) for afters in ways]
    ended = [n for n, left in enumerate(open_ways) if not left]
    for n in ended:
        for earlier in before[n]:
            open_ways[earlier] -= 1
            if not open_ways[earlier]:
                ended.append(earlier)
    return len(ended) < len(states)


def trace(model: Model, came: dict[State, State | None], last: State) -> list[str]:
    """The way to a state, told of consumers that keep their names."""
    path: list[State] = []
    state: State | None = last
    while state is not None:
        path.append(state)
        state = came[state]
    told, lanes, s = [], model.start[1:], model.start[0]
    for target in path[-2::-1]:
        steps = chain(model.own(lanes, s), model.world(lanes, s))
        what, i, lanes, s = next(step for step in steps if canonical(step[2], step[3]) == target)
        told.append(f"{'' if i < 0 else 'ABC'[i] + ' '}{what}  ->  {show(lanes, s)}")
    return told


def show(lanes: Lanes, s: int) -> str:
    parts = [" ".join(name for bit, name in SHARED.items() if s & bit) or "quiet"]
    for lane in lanes:
        words = [PLACES[lane & PLACE], *(name for bit, name in MARKS.items() if lane & bit)]
        parts.append(" ".join(words) + (f" {(lane & QUEUE) // ONE} queued" if lane & QUEUE else ""))
    return " | ".join(parts)
