"""The figures of a file of turn records: read, counted, summed up. Knows nothing of how they are shown.

Rules kept here:

* A line that is no record is skipped and counted: the last one may be torn, and nothing in a file is trusted to have its type.
* Percentiles are nearest ranks: each is a time that was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pixir_sync.protocol.codec import CodecError, loads

__all__ = ["CANCELLED", "OTHERS", "Figures", "Step", "edges", "folded", "percentile", "ranked", "read", "timeline"]

CANCELLED = "cancelled"
"""The error kind of a turn that its caller cancelled or left: it is no failure."""

OTHERS = ("others", "")
"""The series of those that are too few to be shown by themselves; no record makes it."""

_SHOWN = 50  # series, and names of one kind
_SUMS = ("bytes_sent_total", "input_bytes_held", "attempts")
_TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_WORD = 100  # characters of a name that are shown
_MOST = 10**15  # more than any honest count or time
_LATEST = 10**11  # a time that a calendar still has


@dataclass
class Figures:
    """What a file of turns comes to.

    Attributes:
        skipped: the lines that are no records.
        started: for each series the times at which its turns began, in seconds since the epoch. A series is a transport with what
            was sent: ``("websocket", "delta")``.
        first_event_ms: for each series the times to the first event.
        sums: bytes and attempts. tokens: summed up over the turns whose server told.
        ends: how the turns ended that are no failures. errors, replays, fallbacks, resets, models: how many turns, by name;
            ``replays`` counts attempts, ``resets`` the turns that sent everything.
    """

    skipped: int = 0
    started: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    first_event_ms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    sums: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    replays: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)

    @property
    def turns(self) -> int:
        return sum(map(len, self.started.values()))

    @property
    def failed(self) -> int:
        return self.errors.total()

    @property
    def period(self) -> tuple[float, float]:
        """When the first and the last turn began. There must be one."""
        times = [time for times in self.started.values() for time in times]
        return min(times), max(times)

    def add(self, row: dict[str, Any]) -> None:
        """Count a record, whose ``started_at`` is known to be a time."""
        series = _text(row, "active_transport") or "none", _text(row, "continuation") or "nothing sent"
        self.started.setdefault(series, []).append(float(row["started_at"]))
        if (first := _number(row, "first_event_ms")) is not None:
            self.first_event_ms.setdefault(series, []).append(first)
        for name in _SUMS:
            self.sums[name] += int(_number(row, name) or 0)
        usage = row.get("usage")
        if isinstance(usage, dict):
            for name in _TOKENS:
                self.tokens[name] += int(_number(usage, name) or 0)
        self._count(row)

    def _count(self, row: dict[str, Any]) -> None:
        kind = _text(row, "error_kind")
        if kind is None or kind == CANCELLED:
            self.ends[kind or _text(row, "finish_reason") or "unknown"] += 1
        else:
            self.errors[kind] += 1
        counters = {"fallback_reason": self.fallbacks, "model": self.models}
        if row.get("continuation") == "full":
            counters["continuation_reset_reason"] = self.resets
        for name, counter in counters.items():
            if (value := _text(row, name)) is not None:
                counter[value] += 1
        replays = row.get("replays")
        if isinstance(replays, dict):
            for reason in replays:
                self.replays[reason[:_WORD]] += int(_number(replays, reason) or 0)


def read(lines: Iterable[bytes]) -> Figures:
    """The figures of a file's lines."""
    found = Figures()
    for line in lines:
        try:
            row = loads(line)
        except CodecError:
            found.skipped += bool(line.strip())
            continue
        if isinstance(row, dict) and 0 < (_number(row, "started_at") or 0) < _LATEST:
            found.add(row)
        else:
            found.skipped += 1
    return found


def folded(figures: Figures) -> Figures:
    """The same turns, and only the largest series by themselves: the rest are one, `OTHERS`."""
    by_size = sorted(figures.started, key=lambda series: (-len(figures.started[series]), series))
    if len(by_size) <= _SHOWN:
        return figures
    kept = set(by_size[:_SHOWN])
    made = replace(figures, started={}, first_event_ms={})
    for of, into in ((figures.started, made.started), (figures.first_event_ms, made.first_event_ms)):
        for series, values in of.items():
            into.setdefault(series if series in kept else OTHERS, []).extend(values)
    return made


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The names by how often they came, the most frequent first; the last row is for all that are too few to be shown."""
    rows = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    shown, rest = rows[:_SHOWN], rows[_SHOWN:]
    return [*shown, (f"{len(rest):,} others", sum(count for _, count in rest))] if rest else shown


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted values that so large a share is not above. There must be one."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def edges(values: Iterable[float]) -> list[float]:
    """Upper bounds of classes, 1, 2, 5, 10, ...: the first above the least value, the last above all. There must be a value."""
    ordered = sorted(values)
    low, high = max(ordered[0], 0.01), max(ordered[-1], 0.01)
    steps = (step * 10.0**power for power in range(math.floor(math.log10(low)), 17) for step in (1, 2, 5))
    above = (edge for edge in steps if edge > low)
    found = [next(above)]
    while found[-1] <= high:
        found.append(next(above))
    return found


_STEPS = (1, 10, 60, 300, 900, 3_600, 21_600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
_COLUMNS = 40


@dataclass(frozen=True)
class Step:
    """A part of the time: when it begins, and how many turns of each series began in it."""

    at: int
    counts: dict[tuple[str, str], int]


def timeline(figures: Figures) -> tuple[int, list[Step]]:
    """The turns over time: the length of a step in seconds, and the steps, the empty ones too; at most some forty."""
    first, last = figures.period
    length = next((step for step in _STEPS if (last - first) / step < _COLUMNS), math.ceil((last - first) / _COLUMNS))
    begin = int(first // length)
    counts = {series: Counter(int(at // length) for at in times) for series, times in figures.started.items()}
    places = range(begin, int(last // length) + 1)
    return length, [Step(place * length, {series: count[place] for series, count in counts.items()}) for place in places]


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST else None


def _text(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value[:_WORD] if isinstance(value, str) and value else None
