"""Whether memory is bounded: a stream of a million events, and a conversation of 2,000 turns. Linux only.

Rules kept here:

* A figure is the slope of what Python's allocations hold (tracemalloc counts them to the byte); resident memory stands beside it,
  from a run of its own.
* A stream has to keep its text, for the result: as pieces, each a string and a place in a list. Beside it nothing grows with the
  events (`test_memory`).
* A conversation's baseline copies the containers of the history and shares its leaves (design rule 3). Beside the caller's own
  history a second set of containers grows.
* There is no target. Allocations do not depend on what else the machine does: one round is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.process import Case, told
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import LONG, ShortPeer

__all__ = ["Curve", "Point", "compare", "measured", "report", "slope"]

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
    """Run both, with each JSON library."""
    return report(measured(setting))


def measured(setting: Setting) -> Found:
    """The curves."""
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
    return found


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
A stream of {events:,} events, of which the caller keeps none. At the end the result is held:

{in_streams}

A conversation of {turns:,} turns, each with half a kilobyte that is asked and a short answer:

{in_conversations}"""
    return Section("Memory of long streams and conversations", text, _charts(found), rounds=1)


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
