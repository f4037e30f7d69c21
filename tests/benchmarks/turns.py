"""What a turn costs while the history grows, against the official SDK: our delta and full replay, its delta and its full replays.

Rules kept here:

* All ways answer the same conversation from the same peer, in turn, each run in a fresh process (`turn_clients`).
* What is held to the targets is CPU time: the peer's reading of a long request is in the wall time of who sent it.
* The caller's history is a list that it keeps and extends (``kept``), or one that was read from JSON for the turn (``rebuilt``),
  as where every request loads its conversation. The reading of that JSON is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.fresh import Client, clients, run
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import SHORT, ShortPeer

__all__ = ["DELTA_TARGET", "GROWTH_TARGET", "REPLAY_TARGET", "Case", "Turn", "compare", "missed", "report"]

REPLAY_TARGET = 1_000.0
"""How many times our delta the official SDK's full replay is to cost, at `HELD` bytes of history."""
DELTA_TARGET = 8.0
"""How many times our delta its own delta is to cost there."""
GROWTH_TARGET = 15.0
"""Less than this is the growth of our delta's cost to be, from the shortest history to the longest."""
HELD = 1_000_000

_SCRIPT = Path(__file__).with_name("turn_clients.py")
_SIZES, _QUICK_SIZES = (10_000, 100_000, 1_000_000, 10_000_000), (10_000, 100_000)
_NAMES = {"kept": "delta, list kept", "rebuilt": "delta, list rebuilt", "full": "full replay", "delta": "delta by hand",
          "http": "full replay, HTTP"}  # fmt: skip
_SLOW = 10_000_000  # what the official SDK replays in seconds, and so in one round only
_ROUNDS = 3


class Case(NamedTuple):
    """One way to take a turn."""

    client: Client
    way: str

    @property
    def names(self) -> list[str]:
        return [self.client.name, _NAMES[self.way]]


class Turn(NamedTuple):
    """The medians of one run's turns, in seconds, and the bytes of the last request."""

    cpu: float
    wall: float
    sent: int


Found = Mapping[Case, Mapping[int, Sequence[Turn]]]


def compare(setting: Setting) -> Section:
    """Measure all ways at all sizes."""
    sizes = _QUICK_SIZES if setting.quick else _SIZES
    rounds = 1 if setting.quick else min(setting.rounds, _ROUNDS)
    cases = list(_cases(setting))
    found: dict[Case, dict[int, list[Turn]]] = {case: {size: [] for size in sizes} for case in cases}
    with ShortPeer() as peer:
        for number in range(rounds):
            for size in sizes:
                for case in cases:
                    if number == 0 or not _is_slow(case, size):
                        found[case][size].append(_measured(case, size, setting, peer))
    return report(found, rounds)


def _cases(setting: Setting) -> Iterator[Case]:
    for client in clients(setting):
        for way in ("kept", "rebuilt", "full") if client.codec else ("delta", "full", "http"):
            yield Case(client, way)


def _is_slow(case: Case, size: int) -> bool:
    return not case.client.codec and case.way != "delta" and size >= _SLOW


def _measured(case: Case, size: int, setting: Setting, peer: ShortPeer) -> Turn:
    slow = not case.client.codec and case.way != "delta"
    seconds = 0.0 if setting.quick or slow else setting.seconds
    turns = 1 if _is_slow(case, size) else 4 if setting.quick or slow else 8
    options = (case.way, peer.plain, f"--size={size}", f"--turns={turns}", f"--seconds={seconds}")
    told = run(_SCRIPT, case.client, setting, peer.authority, *options)
    return Turn(median(told["cpu"]), median(told["wall"]), told["bytes"])


def _cpu(turns: Sequence[Turn]) -> float:
    return median(turn.cpu for turn in turns)


def report(found: Found, rounds: int) -> Section:
    """The section: two tables and a chart."""
    sizes = list(next(iter(found.values())))
    text = f"""\
A turn adds one short message to a history and reads the {SHORT} events of a short answer. The history is made of messages of
about a kilobyte each, the user's and the model's in turn, every text its own. The peer reads and parses each request to its
end, and tells what it saw: a delta must have been one item. CPU time is the whole process's, for one turn from the call to the
last event; medians of many turns in each of {rounds} rounds (the official SDK replays the longest history in one round only).

CPU microseconds per turn:

{_table(found, sizes, lambda turns: _cpu(turns) * 1e6)}

Wall microseconds per turn; of a full replay that is the peer's reading, too:

{_table(found, sizes, lambda turns: median(turn.wall for turn in turns) * 1e6)}

{_ratios(found, sizes)}"""
    series = {
        ", ".join(case.names): [(size / 1000, _cpu(turns) * 1e6) for size, turns in of.items()] for case, of in found.items()
    }
    chart = Chart("turns", "A turn over a growing history", "KB of history", "CPU µs per turn", "lines", series, logarithmic=True)
    return Section("Turns", text, [chart], missed(found))


def _table(found: Found, sizes: Sequence[int], figure: Callable[[Sequence[Turn]], float]) -> str:
    rows = [[*case.names, *(f"{figure(of[size]):,.0f}" for size in sizes)] for case, of in found.items()]
    return table(["client", "turn", *(_size(size) for size in sizes)], rows)


def _size(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} KB"


def _ratios(found: Found, sizes: Sequence[int]) -> str:
    """How much less our delta costs than each of the official SDK's ways, and how it grows."""
    official = [case for case in found if not case.client.codec]
    held = HELD if HELD in sizes else sizes[-1]
    rows = []
    for case in (case for case in found if case.way in ("kept", "rebuilt")):
        of = found[case]
        growth = f"{_cpu(of[sizes[-1]]) / _cpu(of[sizes[0]]):.1f}"
        rows.append([*case.names, *(f"{_cpu(found[other][held]) / _cpu(of[held]):,.1f}" for other in official), growth])
    heads = [f"official, {_NAMES[case.way]}" for case in official]
    text = f"CPU of the official SDK's turns at {_size(held)}, in times of ours, and how ours grows:"
    return f"{text}\n\n{table(['client', 'turn', *heads, f'growth {_size(sizes[0])} to {_size(sizes[-1])}'], rows)}"


def missed(found: Found) -> list[str]:
    """What falls short of the targets: of the delta with the list kept, at `HELD` bytes, and from the shortest to the longest."""
    short = []
    for case in (case for case in found if case.way == "kept"):
        of, name = found[case], case.client.name
        for way, target in (("full", REPLAY_TARGET), ("delta", DELTA_TARGET)):
            other = found.get(Case(Client("official"), way))
            if other is not None and HELD in of and (times := _cpu(other[HELD]) / _cpu(of[HELD])) < target:
                short.append(
                    f"a turn at {_size(HELD)}, {name}: the official SDK's {_NAMES[way]} costs {times:.1f} times our delta, "
                    f"not {target:,.0f}"
                )
        first, last = min(of), max(of)
        if (growth := _cpu(of[last]) / _cpu(of[first])) >= GROWTH_TARGET:
            short.append(
                f"a turn from {_size(first)} to {_size(last)}, {name}: grows {growth:.1f} times, "
                f"not less than {GROWTH_TARGET:.0f}"
            )
    return short


if __name__ == "__main__":
    from tests.benchmarks.alone import main

    main(compare)
