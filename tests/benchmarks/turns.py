"""What a turn costs while the history grows, against the official SDK: our delta and full replay, its delta and its full replays.

Rules kept here:

* All ways answer the same conversation from the same peer, in turn, each run in a fresh process (`turn_clients`).
* What is held to the targets is CPU time: the peer's reading of a long request is in the wall time of who sent it.
* The caller's history is a list that it keeps and extends (``kept``), or one that was read from JSON for the turn (``rebuilt``),
  as where every request loads its conversation. The reading of that JSON is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.benchmarks.process import Case, interleaved, told
from tests.benchmarks.section import Chart, Section, Setting, table
from tests.benchmarks.short_peer import SHORT, ShortPeer

__all__ = ["DELTA_TARGET", "GROWTH_TARGET", "REPLAY_TARGET", "Turn", "compare", "measured", "missed", "report", "ways"]

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
_REPLAYS = (Case("official", "full"), Case("official", "http"))  # few turns of them: one of the longest takes seconds
_KEPT = "kept"
_SECONDS = 0.3


class Turn(NamedTuple):
    """The medians of one run's turns, in seconds, and the bytes of the last request."""

    cpu: float
    wall: float
    sent: int


Found = Mapping[tuple[Case, int], Sequence[Turn]]
"""By case and bytes of the history."""


def compare(setting: Setting) -> Section:
    """Measure all ways at all sizes."""
    sizes = _QUICK_SIZES if setting.quick else _SIZES
    with ShortPeer() as peer:
        todo = [(case, size) for size, case in product(sizes, ways(setting.codecs))]
        found = interleaved("turns", todo, setting.few, lambda key: measured(*key, setting, peer))
    return report(found)._replace(rounds=setting.few)


def ways(codecs: Sequence[str]) -> Iterator[Case]:
    """All ways to take a turn: ours with each JSON library, then the official SDK's."""
    for codec in codecs:
        yield from (Case("pixir", way, codec=codec) for way in (_KEPT, "rebuilt", "full"))
    yield from (Case("official", "delta"), *_REPLAYS)


def measured(case: Case, size: int, setting: Setting, peer: ShortPeer) -> Turn:
    """One run."""
    slow = case in _REPLAYS
    seconds = 0.0 if setting.quick or slow else _SECONDS
    turns = max(1, min(4, 2 * HELD // size)) if slow else 4 if setting.quick else 8
    options = (case.does, peer.plain, f"--size={size}", f"--turns={turns}", f"--seconds={seconds}")
    found = told(_SCRIPT, case, peer, setting, *options)
    return Turn(median(found["cpu"]), median(found["wall"]), found["bytes"])


def _cpu(turns: Sequence[Turn]) -> float:
    return median(turn.cpu for turn in turns)


def report(found: Found) -> Section:
    """The section: three tables and a chart."""
    text = f"""\
A turn adds one short message to the history and reads the {SHORT} events of a short answer. CPU microseconds per turn:

{_table(found, lambda turns: _cpu(turns) * 1e6)}

Wall microseconds per turn; in a full replay that is the peer's reading, too:

{_table(found, lambda turns: median(turn.wall for turn in turns) * 1e6)}

{_ratios(found)}"""
    series: dict[str, list[tuple[float | str, float]]] = {}
    for (case, size), turns in found.items():
        series.setdefault(", ".join(_names(case)), []).append((size / 1000, _cpu(turns) * 1e6))
    chart = Chart("turns", "A turn over a growing history", "KB of history", "CPU µs per turn", "lines", series, logarithmic=True)
    return Section("Turns over a growing history", text, [chart], missed(found))


def _names(case: Case) -> list[str]:
    return [case.name, _NAMES[case.does]]


def _sizes(found: Found) -> list[int]:
    return sorted({size for _, size in found})


def _table(found: Found, figure: Callable[[Sequence[Turn]], float]) -> str:
    sizes, cases = _sizes(found), dict.fromkeys(case for case, _ in found)
    rows = [[*_names(case), *(f"{figure(found[case, size]):,.0f}" for size in sizes)] for case in cases]
    return table(["client", "turn", *map(_size, sizes)], rows)


def _size(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1_000} KB"


def _ratios(found: Found) -> str:
    """How much less our delta costs than each of the official SDK's ways, and how it grows; each with its target."""
    sizes = _sizes(found)
    held = HELD if HELD in sizes else sizes[-1]
    official = [case for case, size in found if case.client == "official" and size == held]
    rows = []
    for case in (case for case, size in found if case.does in (_KEPT, "rebuilt") and size == held):
        times = [f"{_times(found, other, case, held):,.1f}" for other in official]
        rows.append([*_names(case), *times, f"{_growth(found, case):.1f}"])
    asked = {"full": f"{REPLAY_TARGET:,.0f}", "delta": f"{DELTA_TARGET:.0f}"}
    rows.append(["target", _NAMES[_KEPT], *(asked.get(case.does, "") for case in official), f"less than {GROWTH_TARGET:.0f}"])
    growth = f"growth {_size(sizes[0])} to {_size(sizes[-1])}"
    head = ["client", "turn", *(f"official, {_NAMES[case.does]}" for case in official), growth]
    return f"CPU of the official SDK's turns at {_size(held)}, in times of ours, and how ours grows:\n\n{table(head, rows)}"


def _times(found: Found, other: Case, case: Case, size: int) -> float:
    return _cpu(found[other, size]) / _cpu(found[case, size])


def _growth(found: Found, case: Case) -> float:
    sizes = _sizes(found)
    return _cpu(found[case, sizes[-1]]) / _cpu(found[case, sizes[0]])


def missed(found: Found) -> list[str]:
    """What falls short of the targets: of the delta with the list kept, at `HELD` bytes, and from the shortest to the longest."""
    short, sizes = [], _sizes(found)
    for case in dict.fromkeys(case for case, _ in found if case.does == _KEPT):
        for way, target in (("full", REPLAY_TARGET), ("delta", DELTA_TARGET)):
            if (case, HELD) in found and (times := _times(found, Case("official", way), case, HELD)) < target:
                words = f"the official SDK's {_NAMES[way]} costs {times:.1f} times our delta, not {target:,.0f}"
                short.append(f"a turn at {_size(HELD)}, {case.name}: {words}")
        if (growth := _growth(found, case)) >= GROWTH_TARGET:
            of = f"a turn from {_size(sizes[0])} to {_size(sizes[-1])}, {case.name}"
            short.append(f"{of}: grows {growth:.1f} times, not less than {GROWTH_TARGET:.0f}")
    return short
