"""64 threads of one process that stream at once, in bulk and paced.

Rules kept here:

* A client is used as a synchronous program with threads would use it: they share the provider, or the official SDK's client; over
  the latter's WebSocket mode each thread has a connection of its own.
* Each thread is connected and has read an answer before the measurement begins. It ends with the last thread's last answer.
* There is no target. What the peer used is told, so that it can be seen that nobody waited for it.
"""

from __future__ import annotations

from tests.benchmarks.answers import OTHER_EVENTS
from tests.benchmarks.figures import Sample, bars, bulk_table, p50, paced_table, peer_share, wall
from tests.benchmarks.peer import Peer
from tests.benchmarks.process import Case, cases, interleaved, run
from tests.benchmarks.section import Section, Setting

__all__ = ["compare"]

THREADS = 64
DELTAS = 500
"""Of a bulk answer: few enough for each of the slowest client's threads to end one in a few seconds."""
PACE, PACED_DELTAS = 0.02, 100
"""Fifty events per second for each thread, as a model writes."""


def compare(setting: Setting) -> Section:
    """All cases in bulk, then all of them paced."""
    todo = list(cases(("websocket", "sse"), setting.codecs))
    threads, deltas, paced_deltas, seconds = THREADS, DELTAS, PACED_DELTAS, setting.seconds
    if setting.quick:
        threads, deltas, paced_deltas, seconds = 4, 20, 5, 0.05
    with Peer(deltas, paced_deltas, pace=PACE) as peer:

        def bulk(case: Case) -> Sample:
            found = run(case, peer, setting, f"--threads={threads}", f"--seconds={seconds}")
            answers, characters = found.pop("answers"), found.pop("characters")
            expected = (answers * (deltas + OTHER_EVENTS), answers * peer.characters)
            assert (found["events"], characters) == expected, f"{case.name}: {found}, not {expected}"
            return Sample(**found)

        def paced(case: Case) -> Sample:
            found = Sample(**run(case, peer, setting, f"--threads={threads}", "--work=paced"))
            assert found.events == threads * paced_deltas, f"{case.name}: {found}"
            return found

        in_bulk = interleaved(f"{threads} threads in bulk", todo, setting.few, bulk)
        one_by_one = interleaved(f"{threads} threads, paced", todo, setting.few, paced)
    text = (
        f"In bulk, answers of {deltas:,} deltas, one after the other in each thread:\n\n{bulk_table(in_bulk)}\n\n"
        f"Paced, {1 / PACE:.0f} events per second in each thread, {threads / PACE:,.0f} in all:\n\n{paced_table(one_by_one)}\n\n"
        f"The peer used at most {peer_share(in_bulk):.0%} of a core in bulk and {peer_share(one_by_one):.0%} paced."
    )
    charts = [
        bars("threads-bulk", f"{threads} threads in bulk", "events per second", in_bulk, lambda samples: 1 / wall(samples)),
        bars("threads-delay", f"Median delay of {threads} paced threads", "µs", one_by_one, lambda samples: p50(samples) * 1e6),
    ]
    return Section(f"{threads} threads at once", text, charts, rounds=setting.few)
