"""The warm-up: a turn without an answer (``generate: false``) that leaves the session's connection open and its context in place.

Rules kept here: it has a limit of its own, it never raises for the network, and what it did not finish harms no later turn: its
connection goes, and the next turn opens one and sends everything.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from pixir_sync.cancellation import CancelToken
from pixir_sync.deadline import Deadline
from pixir_sync.engine import Engine, log
from pixir_sync.protocol.errors import PixirError
from pixir_sync.protocol.events import IGNORED
from pixir_sync.protocol.request import Outline
from pixir_sync.protocol.result import Evidence, Usage
from pixir_sync.transports.base import Call, Transport

__all__ = ["LIMIT", "warm_up"]

LIMIT = 8.0
"""The longest that a warm-up may take, in seconds, whatever the timeouts are."""

_numbers = count()


def warm_up(engine: Engine, transport: Transport, outline: Outline, session: str, scope: str | None) -> bool:
    """Whether the server prepared this request on the session's connection. Raises `InvalidRequest` for a wrong request only."""
    body = engine.snapshot(outline, transport.known(session, scope))
    body = replace(body, fields=body.fields | {"generate": False})
    secrets: list[str] = []
    call = Call(
        body=body, timeouts=engine.config.timeouts, deadline=Deadline(LIMIT), cancel=CancelToken(),
        evidence=Evidence(transport_preference=engine.preference), authorize=lambda: engine.authorize(secrets),
        origin_of=engine.origins, identity=engine.identity, session=session, scope=scope, secrets=secrets,
    )  # fmt: skip
    call.full_input()
    number = ("warm-up", next(_numbers))
    engine.live[number] = call.cancel
    try:
        for batch in transport.attempt(call):
            for data in batch:
                kind = data.get("type") if isinstance(data, dict) else None
                if call.assembler.terminal is None and isinstance(kind, str) and kind not in IGNORED:
                    call.assembler.add(data)
                    call.assembler.events += 1  # the transport sees by it that the wait for the next one begins
        done = call.assembler.status == "completed"
        how = call.assembler.status
    except PixirError as error:
        done, how = False, error.kind
    finally:
        engine.live.pop(number, None)
        engine.count_attempt(call.evidence)
    if not done:
        log.warning("the warm-up did not succeed: %s", how)
    engine.stats.note(f"warm_ups.{'succeeded' if done else 'failed'}")
    usage = Usage.read(call.assembler.response.get("usage"))
    if usage is not None:
        engine.stats.note("warm_ups.input_tokens", usage.input_tokens)
    return done
