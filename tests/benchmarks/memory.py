"""Whether memory is bounded: a stream of a million events, and a conversation of 2,000 turns. Linux only.

Rules kept here:

* What is judged is the slope of what Python's allocations hold (tracemalloc counts them to the byte); resident memory stands
  beside it, from a run of its own.
* A stream has to keep its text, for the result: as pieces, each a string and a place in a list. Nothing else may grow with the
  events, so `STREAM_BOUND` times that is the bound; the tenth is for the containers that grow by leaps.
* A conversation's baseline copies the containers of the history and shares its leaves (design rule 3). Beyond the caller's own
  history only a second set of containers may grow, so `CONVERSATION_BOUND` times those is the bound; the quarter is for dicts
  and lists that were made another way than the caller's, with other reserves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.process import Case, told
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import LONG, ShortPeer

__all__ = ["CONVERSATION_BOUND", "STREAM_BOUND", "Curve", "Point", "compare", "missed", "report"]

STREAM_BOUND = 1.1
CONVERSATION_BOUND = 1.25

_SCRIPT = Path(__file__).with_name("memory_clients.py")
_TURNS, _QUICK_TURNS = 2_000, 80
_QUICK_EVENTS = 13_008
_POINTS = 20
_STREAM, _CONVERSATION = "stream", "conversation"


class Point(NamedTuple):
    """Bytes after so many events or turns: in use, of what the caller has or is to get, and of that its containers."""

    at: int
    used: int
    own: int
    containers: int


class Curve(NamedTuple):
    """What one JSON library's runs gave: ``held`` by Python's allocations, and ``resident``."""

    held: Sequence[Point]
    resident: Sequence[Point]


Found = Mapping[str, Mapping[str, Curve]]
"""By what was run (stream, conversation) and by codec."""


def compare(setting: Setting) -> Section:
    """Run both, with each JSON library. Allocations do not depend on what else the machine does: one round is enough."""
    events = _QUICK_EVENTS if setting.quick else LONG
    turns = _QUICK_TURNS if setting.quick else _TURNS
    found: dict[str, dict[str, Curve]] = {_STREAM: {}, _CONVERSATION: {}}
    with ShortPeer(events) as peer:
        for what, most in ((_STREAM, events), (_CONVERSATION, turns)):
            for codec in setting.codecs:
                options = [what, peer.plain, f"--turns={turns}", f"--every={most // _POINTS}"]
                held, resident = (
                    [Point(*point) for point in told(_SCRIPT, Case("pixir", what, codec=codec), peer, setting, *options, *more)]
                    for more in ([], ["--resident"])
                )
                found[what][codec] = Curve(held, resident)
    return report(found)


def slope(points: Sequence[Point]) -> tuple[float, float, float]:
    """Bytes for each event or turn, from a quarter of the curve on: in use, the caller's own, and its containers."""
    first, last = points[len(points) // 4], points[-1]
    count = last.at - first.at
    return (last.used - first.used) / count, (last.own - first.own) / count, (last.containers - first.containers) / count


def report(found: Found) -> Section:
    """The section: two tables and two charts."""
    streams, conversations = found[_STREAM], found[_CONVERSATION]
    rows = []
    for codec, curve in streams.items():
        used, pieces, _ = slope(curve.held[:-1])
        end = curve.held[-1]
        resident, _, _ = slope(curve.resident[:-1])
        figures = [f"{used:.1f}", f"{pieces:.1f}", f"{resident:.1f}", f"{end.used / 1e6:.1f}", f"{end.own / 1e6:.1f}"]
        rows.append([f"pixir_sync, {codec}", *figures])
    head = ["client", "bytes per event", "of it the text's pieces", "resident", "MB held at the end", "of it the text"]
    in_streams = table(head, rows, words=1)
    rows = []
    for codec, curve in conversations.items():
        used, own, containers = slope(curve.held)
        resident, _, _ = slope(curve.resident)
        rows.append([f"pixir_sync, {codec}", *(f"{figure:,.0f}" for figure in (used, own, used - own, containers, resident))])
    head = ["client", "bytes per turn", "the caller's history", "ours beside it", "the history's containers", "resident"]
    in_conversations = table(head, rows, words=1)
    events, turns = (next(iter(of.values())).held[-1].at for of in (streams, conversations))
    text = f"""\
A stream of {events:,} events, of which the caller keeps none. The text that the result will have is kept in pieces. At the end
the result is held; its text and that in the server's last word, the response, are one object:

{in_streams}

A conversation of {turns:,} turns in one session, whose history grows by half a kilobyte that is asked and a short answer each
turn. What is ours beside the caller's own history is the baseline: its containers again, and none of its text.

{in_conversations}"""
    return Section("Memory of long streams and conversations", text, _charts(found), missed(found), once=True)


def _charts(found: Found) -> list[Chart]:
    stream: dict[str, list[tuple[float | str, float]]] = {}
    for codec, curve in found[_STREAM].items():
        stream[f"held, {codec}"] = [(point.at, point.used / 1e6) for point in curve.held[:-1]]
        stream[f"resident, {codec}"] = [(point.at, point.used / 1e6) for point in curve.resident[:-1]]
        stream["the text's pieces"] = [(point.at, point.own / 1e6) for point in curve.held[:-1]]
    talk: dict[str, list[tuple[float | str, float]]] = {}
    for codec, curve in found[_CONVERSATION].items():
        talk[f"ours, {codec}"] = [(point.at, (point.used - point.own) / 1e3) for point in curve.held]
        talk["the caller's history"] = [(point.at, point.own / 1e3) for point in curve.held]
        talk["its containers"] = [(point.at, point.containers / 1e3) for point in curve.held]
    return [
        Chart("memory_stream", "Memory of a long stream", "events", "MB", "lines", stream),
        Chart("memory_conversation", "Memory of a long conversation", "turns", "KB", "lines", talk),
    ]


def missed(found: Found) -> list[str]:
    """Where a slope is beyond its bound."""
    short = []
    for codec, curve in found[_STREAM].items():
        used, text, _ = slope(curve.held[:-1])
        if used > (bound := STREAM_BOUND * text):
            short.append(f"a long stream, pixir_sync, {codec}: {used:.1f} bytes per event, not {bound:.1f}")
    for codec, curve in found[_CONVERSATION].items():
        used, own, containers = slope(curve.held)
        if used - own > (bound := CONVERSATION_BOUND * containers):
            short.append(f"a long conversation, pixir_sync, {codec}: {used - own:.0f} bytes of ours per turn, not {bound:.0f}")
    return short
