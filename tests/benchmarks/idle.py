"""What idle connections cost: memory, threads, and the time of keeping them alive, against the official SDK. Linux only.

Rules kept here:

* The peer is a process of its own (`short_peer`); so is each client (`idle_clients`).
* Memory per connection is the slope between two counts of connections: what the imports, the first connection and the size of
  the allocator's arenas take is in both, and goes out.
* The time in which nothing happens is as long as a keepalive interval, so that every connection is pinged once in it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.fresh import Client, clients, run
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import ShortPeer

__all__ = ["PLAIN_TARGET", "THREADS_TARGET", "TLS_TARGET", "Case", "Idle", "compare", "missed", "report"]

PLAIN_TARGET, TLS_TARGET = 4.0, 33.0
"""KB (1,024 bytes) of memory for each connection, at most."""
THREADS_TARGET = 1

_SCRIPT = Path(__file__).with_name("idle_clients.py")
_COUNTS, _QUICK_COUNTS = (200, 1_000), (20, 60)
_QUIET, _QUICK_QUIET = 21.0, 0.5  # seconds; the first is an interval of pings, and a little
_TICK = 0.5  # seconds between two visits of the keepalive thread, with its defaults
_DEADLINE = 120.0
_FEWER, _TRIES, _SOON = (20, 100), 4, 40.0
"""For the official SDK over TLS: two of its threads use one TLS socket at once, and one handshake in some hundreds never ends."""
_ROUNDS = 3


class Case(NamedTuple):
    """A client, plain or over TLS."""

    client: Client
    secure: bool

    @property
    def names(self) -> list[str]:
        return ["TLS 1.3" if self.secure else "plain", self.client.name]


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


Found = Mapping[Case, Sequence[Idle]]


def compare(setting: Setting) -> Section:
    """Measure plain and over TLS, in turn."""
    rounds = 1 if setting.quick else min(setting.rounds, _ROUNDS)
    cases = list(_cases(setting))
    found: dict[Case, list[Idle]] = {case: [] for case in cases}
    with ShortPeer() as peer:
        for _ in range(rounds):
            for case in cases:
                found[case] += _measured(case, setting, peer)
    return report(found, rounds)


def _cases(setting: Setting) -> Iterator[Case]:
    for secure in (False, True):
        for client in clients(setting):
            yield Case(client, secure)


def _measured(case: Case, setting: Setting, peer: ShortPeer) -> list[Idle]:
    """One run, or nothing where the official SDK did not end in time."""
    counts = _QUICK_COUNTS if setting.quick else _COUNTS
    quiet = _QUICK_QUIET if setting.quick else _QUIET
    options: list[Any] = [peer.tls if case.secure else peer.plain, f"--seconds={quiet}", "--counts"]
    traced = None
    if case.client.codec:
        told = run(_SCRIPT, case.client, setting, peer.authority, *options, *counts, deadline=_DEADLINE)
        options[1] = "--seconds=0"
        traced = _slope(run(_SCRIPT, case.client, setting, peer.authority, *options, *counts, "--traced", deadline=_DEADLINE))
    elif not case.secure:
        told = run(_SCRIPT, case.client, setting, peer.authority, *options, *counts, deadline=_DEADLINE)
    else:
        told = _tried(case, setting, peer, [*options, *min(counts, _FEWER)])
        if told is None:
            return []
    share, woken = told["cpu"] / told["seconds"], told["woken"] / told["seconds"]
    return [Idle(told["memory"][-1][0], _slope(told), told["threads"], share, woken, traced)]


def _tried(case: Case, setting: Setting, peer: ShortPeer, options: Sequence[Any]) -> dict[str, Any] | None:
    """A run that may hang, a few times; None where it always did."""
    for _ in range(_TRIES):
        try:
            told: dict[str, Any] = run(_SCRIPT, case.client, setting, peer.authority, *options, deadline=_SOON)
        except subprocess.TimeoutExpired:
            print(f"{', '.join(case.names)}: not all connections were there after {_SOON:.0f} seconds", file=sys.stderr)
        else:
            return told
    return None


def _slope(told: Mapping[str, Any]) -> float:
    """KB for each connection."""
    (few, less), (many, more) = told["memory"]
    return float((more - less) / (many - few) / 1024)


def report(found: Found, rounds: int) -> Section:
    """The section: one table and a chart."""
    rows = []
    for case, runs in found.items():
        if not runs:
            rows.append([*case.names, *["—"] * 7])
            continue
        share = median(run.share for run in runs)
        traced = [run.traced for run in runs if run.traced is not None]
        tick = f"{share * _TICK * 1e6:,.0f}" if case.client.codec else "—"
        kb, held = f"{_kb(runs):.1f}", f"{median(traced):.1f}" if traced else "—"
        woken, threads = f"{median(run.woken for run in runs):.1f}", str(max(run.threads for run in runs))
        rows.append([*case.names, f"{runs[0].connections:,}", kb, held, threads, f"{share * 100:.2f}", tick, woken])
    head = ["way", "client", "connections", "KB each", "of it Python's", "threads", "CPU %", "µs per visit", "wake-ups per s"]
    text = f"""\
Connections that wait for their next turn. Memory is the growth of the client's resident memory for each connection, after a
garbage collection, and beside it what Python's own allocations are of that (tracemalloc, in a run of its own); OpenSSL's and
the C library's are the rest. Ours hold a session with a conversation of one short turn, the official SDK's are only open; over
TLS there are fewer of those, because one of some hundreds of its handshakes never ends. The CPU time is that of all threads
but the main one, which sleeps meanwhile, with one ping of each connection in it; the keepalive thread makes a visit every
{_TICK} seconds. Medians of {rounds} rounds.

{table(head, rows)}"""
    series: dict[str, list[tuple[float | str, float]]] = {}
    for case, runs in found.items():
        if runs:
            series.setdefault(case.client.name, []).append((case.names[0], _kb(runs)))
    chart = Chart("idle", "Idle connections", "way", "KB of memory per connection", "bars", series)
    return Section("Idle connections", text, [chart], missed(found))


def _kb(runs: Sequence[Idle]) -> float:
    return median(run.kb for run in runs)


def missed(found: Found) -> list[str]:
    """What falls short of the targets; both of them are absolute, and only ours are held to them."""
    short = []
    for case, runs in found.items():
        if not case.client.codec:
            continue
        target, name = TLS_TARGET if case.secure else PLAIN_TARGET, ", ".join(case.names)
        if (kb := _kb(runs)) > target:
            short.append(f"idle connections, {name}: {kb:.1f} KB each, not {target:.0f}")
        if (threads := max(run.threads for run in runs)) > THREADS_TARGET:
            short.append(f"idle connections, {name}: {threads} threads, not {THREADS_TARGET}")
    return short


if __name__ == "__main__":
    from tests.benchmarks.alone import main

    main(compare)
