"""What an event costs, in bulk and paced, over WebSocket and SSE, plain and over TLS.

Rules kept here:

* Both clients stream the same answers from the same peer, for the same time.
* `BULK` and `PACED` have what is asked for; paced SSE is shown and held to nothing.
* Where events are paced, a raw socket that decodes nothing shows what the system takes of any client, and so what can be reached.
"""

from __future__ import annotations

from tests.benchmarks.answers import OTHER_EVENTS
from tests.benchmarks.figures import Sample, Targets, bars, bulk_table, cpu, missed, p50, paced_table, peer_share
from tests.benchmarks.peer import DELTAS, PACED_DELTAS, Peer
from tests.benchmarks.process import Case, cases, interleaved, run
from tests.benchmarks.section import Section, Setting

__all__ = ["BULK", "PACED", "compare"]

BULK: Targets = {
    ("websocket", "orjson"): (20, 20), ("websocket", "json"): (12, 12), ("sse", "orjson"): (10, 10), ("sse", "json"): (7, 7),
}  # fmt: skip
PACED: Targets = {("websocket", "orjson"): (7, 5), ("websocket", "json"): (6, 4)}


def compare(setting: Setting) -> Section:
    """All cases in bulk, then all of them paced."""
    protocols, secure = ("websocket", "sse"), (False, True)
    deltas, paced_deltas, seconds = (500, 50, 0.05) if setting.quick else (DELTAS, PACED_DELTAS, setting.seconds)
    with Peer(deltas, paced_deltas) as peer:

        def bulk(case: Case) -> Sample:
            found = run(case, peer, setting, f"--seconds={seconds}")
            answers, characters = found.pop("answers"), found.pop("characters")
            expected = (answers * (deltas + OTHER_EVENTS), answers * peer.characters)
            assert (found["events"], characters) == expected, f"{case.name}: {found}, not {expected}"
            return Sample(**found)

        def paced(case: Case) -> Sample:
            found = Sample(**run(case, peer, setting, "--work=paced"))
            assert found.events == paced_deltas, f"{case.name}: {found}"
            return found

        todo = cases(protocols, setting.codecs, secure=secure)
        in_bulk = interleaved("streaming in bulk", todo, setting.rounds, bulk)
        todo = cases(protocols, setting.codecs, secure=secure, raw=True)
        one_by_one = interleaved("streaming, paced", todo, setting.rounds, paced)
    text = (
        f"In bulk, {deltas:,} deltas and the events around them:\n\n{bulk_table(in_bulk, BULK)}\n\n"
        f"Paced, {paced_deltas:,} deltas half a millisecond apart:\n\n{paced_table(one_by_one, PACED)}\n\n"
        f"The peer used at most {peer_share(in_bulk):.0%} of a core in bulk and {peer_share(one_by_one):.0%} paced."
    )
    charts = [
        bars("streaming-bulk", "Bulk answers", "events per CPU second", in_bulk, lambda samples: 1 / cpu(samples)),
        bars("streaming-paced", "CPU of paced answers", "µs per event", one_by_one, lambda samples: cpu(samples) * 1e6),
        bars("streaming-delay", "Median delay of paced answers", "µs", one_by_one, lambda samples: p50(samples) * 1e6),
    ]
    return Section("Events, in bulk and paced", text, charts, missed("bulk", in_bulk, BULK) + missed("paced", one_by_one, PACED))
