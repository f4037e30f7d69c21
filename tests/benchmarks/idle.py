"""What idle connections cost: memory, threads, and the time of keeping them alive, against the official SDK. Linux only.

Rules kept here:

* The peer is a process of its own (`short_peer`); so is each client (`idle_clients`).
* Memory per connection is the slope between two counts of connections: what the imports, the first connection and the size of
  the allocator's arenas take is in both, and goes out.
* The time in which nothing happens is as long as a keepalive interval, so that every connection is pinged once in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.process import Case, cases, interleaved, told
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import ShortPeer

__all__ = ["PLAIN_TARGET", "THREADS_TARGET", "TLS_TARGET", "Idle", "compare", "measured", "missed", "report"]

PLAIN_TARGET, TLS_TARGET = 4.0, 33.0
"""KB (1,024 bytes) of memory for each connection, at most."""
THREADS_TARGET = 1

_SCRIPT = Path(__file__).with_name("idle_clients.py")
_COUNTS, _QUICK_COUNTS = (200, 1_000), (20, 60)
_QUIET, _QUICK_QUIET = 21.0, 0.5  # seconds; the first is an interval of pings, and a little
_TICK = 0.5  # seconds between two visits of the keepalive thread, with its defaults


class Idle(NamedTuple):
    """One run: connections, KB of memory for each, threads; of the idle time the share of a core and wake-ups per second.

    ``kb`` is resident memory; ``traced`` is what Python's own allocations hold, None where that was not looked at.
    """

    connections: int
    kb: float
    threads: int
    share: float
    woken: float
    traced: float | None = None


Found = Mapping[Case, Idle]


def compare(setting: Setting) -> Section:
    """Measure plain and over TLS. Memory and threads do not depend on what else the machine does: one round is enough."""
    todo = cases(("websocket",), setting.codecs, secure=(False, True))
    with ShortPeer() as peer:
        found = interleaved("idle connections", todo, 1, lambda case: measured(case, setting, peer))
    return report({case: idle for case, (idle,) in found.items()})


def measured(case: Case, setting: Setting, peer: ShortPeer) -> Idle:
    """One run; of ours another, which counts what Python's allocations hold."""
    counts, quiet = (_QUICK_COUNTS, _QUICK_QUIET) if setting.quick else (_COUNTS, _QUIET)
    url = peer.tls if case.secure else peer.plain
    found = told(_SCRIPT, case, peer, setting, url, f"--seconds={quiet}", "--counts", *counts)
    traced = None
    if case.codec:
        fewer = [count // 2 for count in counts]  # exact to the byte, and slow
        traced = _slope(told(_SCRIPT, case, peer, setting, url, "--traced", "--seconds=0", "--counts", *fewer))
    share, woken = found["cpu"] / found["seconds"], found["woken"] / found["seconds"]
    return Idle(counts[-1], _slope(found), found["threads"], share, woken, traced)


def _slope(found: Mapping[str, Sequence[Sequence[int]]]) -> float:
    """KB for each connection."""
    (few, less), (many, more) = found["memory"]
    return (more - less) / (many - few) / 1024


def report(found: Found) -> Section:
    """The section: one table and a chart."""
    rows = []
    series: dict[str, list[tuple[float | str, float]]] = {}
    for case, idle in found.items():
        asked = [f"{TLS_TARGET if case.secure else PLAIN_TARGET:.0f}", str(THREADS_TARGET)] if case.codec else ["", ""]
        kb, held = f"{idle.kb:.1f}", "" if idle.traced is None else f"{idle.traced:.1f}"
        visit = f"{idle.share * _TICK * 1e6:,.0f}" if case.codec else ""
        share, woken = f"{idle.share * 100:.2f}", f"{idle.woken:,.1f}"
        rows.append([_over(case), case.name, kb, asked[0], held, f"{idle.threads:,}", asked[1], share, visit, woken])
        series.setdefault(case.name, []).append((_over(case), idle.kb))
    head = ["over", "client", "KB each", "target", "Python's", "threads", "target", "CPU %", "µs per visit", "wake-ups per s"]
    most = max(idle.connections for idle in found.values())
    text = f"{most:,} connections that wait for their next turn:\n\n{table(head, rows)}"
    chart = Chart("idle", "Idle connections", "", "KB of memory per connection", "bars", series)
    return Section("Idle connections", text, [chart], missed(found), rounds=1)


def _over(case: Case) -> str:
    return "TLS 1.3" if case.secure else "plain"


def missed(found: Found) -> list[str]:
    """What falls short of the targets; both of them are absolute, and only ours are held to them."""
    short = []
    for case, idle in ((case, idle) for case, idle in found.items() if case.codec):
        target, name = TLS_TARGET if case.secure else PLAIN_TARGET, f"{_over(case)}, {case.name}"
        if idle.kb > target:
            short.append(f"idle connections, {name}: {idle.kb:.1f} KB each, not {target:.0f}")
        if idle.threads > THREADS_TARGET:
            short.append(f"idle connections, {name}: {idle.threads} threads, not {THREADS_TARGET}")
    return short
