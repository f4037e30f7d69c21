"""The figures of streams: what runs of many events come to, in tables, charts and verdicts.

Rules kept here:

* Every figure is a median of the rounds; a ratio is one of medians, over the same protocol, plain to plain and TLS to TLS.
* A ratio is shown with its lowest and its highest round: differences smaller than that spread mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from tests.benchmarks.process import Case
from tests.benchmarks.section import Chart, table

__all__ = [
    "NO_TARGETS", "Sample", "Samples", "Targets", "bars", "bulk_table", "cpu", "missed", "p50", "paced_table", "peer_share",
    "wall",
]  # fmt: skip


class Sample(NamedTuple):
    """What one run of a client used, in seconds; p50 and p99 (delays) only where events were paced; peer as a share of a core."""

    events: int
    cpu: float
    wall: float
    p50: float = 0.0
    p99: float = 0.0
    peer: float = 0.0


Samples = Mapping[Case, Sequence[Sample]]
Targets = Mapping[tuple[str, str], tuple[float, float]]
"""By protocol and codec how many times the official SDK's events per CPU second are asked for, plain and over TLS."""

NO_TARGETS: Targets = {}


def cpu(samples: Iterable[Sample]) -> float:
    """CPU seconds per event."""
    return median(sample.cpu / sample.events for sample in samples)


def wall(samples: Iterable[Sample]) -> float:
    """Seconds per event."""
    return median(sample.wall / sample.events for sample in samples)


def p50(samples: Iterable[Sample]) -> float:
    """The median delay of an event, in seconds."""
    return median(sample.p50 for sample in samples)


def p99(samples: Iterable[Sample]) -> float:
    """The delay that one event of a hundred exceeds, in seconds."""
    return median(sample.p99 for sample in samples)


def peer_share(found: Samples) -> float:
    """The largest share of a core that the peer used in any run."""
    return max(sample.peer for samples in found.values() for sample in samples)


def ratio(case: Case, found: Samples) -> float:
    """How many times the official SDK's events per CPU second."""
    return cpu(found[case.official]) / cpu(found[case])


def _times(case: Case, found: Samples) -> str:
    """The same in words, with the lowest and the highest round."""
    if case == case.official:
        return "1"
    pairs = zip(found[case.official], found[case], strict=True)
    rounds = [cpu([theirs]) / cpu([ours]) for theirs, ours in pairs]
    return f"{ratio(case, found):.1f}" + (f" ({min(rounds):.1f} to {max(rounds):.1f})" if len(rounds) > 1 else "")


def _target(case: Case, targets: Targets) -> float | None:
    pair = targets.get((case.does, case.codec))
    return pair[case.secure] if pair else None


def _asked(case: Case, targets: Targets) -> list[str]:
    """The cells of the column that there is where there are targets."""
    asked = _target(case, targets)
    return ["" if asked is None else f"{asked:.0f}"] if targets else []


def bulk_table(found: Samples, targets: Targets = NO_TARGETS) -> str:
    """The figures of bulk answers, in Markdown."""
    rows = []
    for case, samples in found.items():
        spent, took = cpu(samples), wall(samples)
        faster = f"{wall(found[case.official]) / took:.1f}" if case != case.official else "1"
        ratios = [_times(case, found), *_asked(case, targets)]
        rows.append([case.way, case.name, f"{spent * 1e6:.2f}", f"{1 / spent:,.0f}", *ratios, f"{1 / took:,.0f}", faster])
    ratios = ["times the official", *(["target"] if targets else [])]
    return table(["way", "client", "CPU µs per event", "events per CPU second", *ratios, "events per second", "times"], rows)


def paced_table(found: Samples, targets: Targets = NO_TARGETS) -> str:
    """The figures of paced answers, in Markdown."""
    rows = []
    for case, samples in found.items():
        ratios = [_times(case, found), *_asked(case, targets)]
        delays = [f"{p50(samples) * 1e6:,.0f}", f"{p99(samples) * 1e6:,.0f}"]
        rows.append([case.way, case.name, f"{cpu(samples) * 1e6:.1f}", *ratios, *delays])
    ratios = ["times less", *(["target"] if targets else [])]
    return table(["way", "client", "CPU µs per event", *ratios, "delay p50 in µs", "delay p99 in µs"], rows)


def missed(work: str, found: Samples, targets: Targets) -> list[str]:
    """What falls short of its target; with what a raw socket reaches, where one was measured."""
    held = [(case, asked) for case in found if (asked := _target(case, targets)) is not None]
    short = [(case, got, asked) for case, asked in held if (got := ratio(case, found)) < asked]
    words = []
    for case, got, asked in short:
        raw = Case("raw", case.does, case.secure)
        limit = f" (a raw socket that decodes nothing: {ratio(raw, found):.1f})" if raw in found else ""
        words.append(f"{work}, {case.way}, {case.codec}: {got:.1f} times the official SDK, not {asked:.0f}{limit}")
    return words


def bars(name: str, title: str, unit: str, found: Samples, figure: Callable[[Sequence[Sample]], float]) -> Chart:
    """A chart with one bar for each case, grouped by the way."""
    series: dict[str, list[tuple[float | str, float]]] = {}
    for case, samples in found.items():
        series.setdefault(case.name, []).append((case.way, figure(samples)))
    return Chart(name, title, "", unit, "bars", series)
