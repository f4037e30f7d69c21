"""A batch of short requests that 8 threads share, each request answered by a few events.

Rules kept here:

* The provider has one WebSocket for each thread. The official SDK is asked over HTTP, for whole responses, as a batch would ask
  it: the others are compared with that. Its streamed responses and its WebSocket connections, one per thread, are shown too.
* Each thread is connected and has had an answer before the batch begins. Each takes the next prompt when it is free.
* There is no target. What the peer used is told, so that it can be seen that nobody waited for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from tests.benchmarks.peer import Peer
from tests.benchmarks.process import Case, interleaved, run
from tests.benchmarks.section import Chart, Section, Setting, table

__all__ = ["Batch", "batch_table", "compare"]

REQUESTS, THREADS, DELTAS = 2_000, 8, 4
_COMPARED = Case("official", "http")


class Batch(NamedTuple):
    """What one run used, in seconds; peer as a share of a core."""

    requests: int
    cpu: float
    wall: float
    peer: float = 0.0


Batches = Mapping[Case, Sequence[Batch]]


def batches(codecs: Sequence[str]) -> Iterator[Case]:
    """The cases: what is compared with, the provider, then the other ways of both."""
    yield _COMPARED
    for protocol in ("websocket", "sse"):
        for codec in codecs:
            yield Case("pixir", protocol, codec=codec)
        yield Case("official", protocol)


def compare(setting: Setting) -> Section:
    """All cases, as often as there are rounds, and three times at most."""
    requests = 40 if setting.quick else REQUESTS
    with Peer(DELTAS) as peer:

        def batch(case: Case) -> Batch:
            found = run(case, peer, setting, "--work=batch", f"--threads={THREADS}", f"--requests={requests}")
            expected = (requests, requests * peer.characters)
            assert (found["requests"], found.pop("characters")) == expected, f"{case.name}: {found}, not {expected}"
            return Batch(**found)

        found = interleaved("batch", batches(setting.codecs), setting.few, batch)
    used = max(sample.peer for samples in found.values() for sample in samples)
    text = (
        f"{requests:,} requests by {THREADS} threads, each answered by {DELTAS} deltas and the events around them:\n\n"
        f"{batch_table(found)}\n\nThe peer used at most {used:.0%} of a core."
    )
    series: dict[str, list[tuple[float | str, float]]] = {}
    for case, samples in found.items():
        series.setdefault(case.name, []).append((case.over, 1 / wall(samples)))
    chart = Chart("batch", f"A batch of {requests:,} short requests", "", "requests per second", "bars", series)
    return Section("A batch of short requests", text, [chart], rounds=setting.few)


def cpu(samples: Sequence[Batch]) -> float:
    """CPU seconds per request."""
    return median(sample.cpu / sample.requests for sample in samples)


def wall(samples: Sequence[Batch]) -> float:
    """Seconds per request."""
    return median(sample.wall / sample.requests for sample in samples)


def batch_table(found: Batches) -> str:
    """The figures, in Markdown; what is compared with is the official SDK over HTTP."""
    rows = []
    for case, samples in found.items():
        less, faster = cpu(found[_COMPARED]) / cpu(samples), wall(found[_COMPARED]) / wall(samples)
        spent = [f"{cpu(samples) * 1e6:,.0f}", f"{less:.1f}"]
        rows.append([case.over, case.name, *spent, f"{1 / wall(samples):,.0f}", f"{faster:.1f}"])
    return table(["over", "client", "CPU µs per request", "times less", "requests per second", "times"], rows)
