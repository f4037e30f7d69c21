"""`Message`: what a turn sends on a connection: only what is new where that is the same, else everything.

Rules kept here:

* It is decided from what the connection holds, before anything is opened: a request too large for a frame costs no connection.
* What the evidence says of continuation is said here, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pixir_sync.endpoints import FRAME_LIMIT
from pixir_sync.protocol.checks import encoded
from pixir_sync.protocol.codec import CodecError, dumps
from pixir_sync.protocol.continuation import Delta, Draft, Full, Mode, plan
from pixir_sync.protocol.errors import FrameTooLarge
from pixir_sync.transports.base import Call

if TYPE_CHECKING:
    from pixir_sync.transports.ws.connection import Connection

__all__ = ["FRAME_LIMIT", "Message", "worded"]


class Message(NamedTuple):
    """One ``response.create``.

    Attributes:
        data: its JSON. draft: what becomes the baseline, None where none is kept.
        size: the bytes of input that the connection holds after it.
    """

    data: bytes
    draft: Draft | None
    size: int

    def __repr__(self) -> str:
        return f"<Message bytes={len(self.data)}>"


def worded(call: Call, mode: Mode, held: Connection | None, reset: str | None, limit: int) -> Message:
    """The message of a call on a connection that stands, or on one that is to be opened.

    ``reset``: why the session begins anew, if known. ``limit``: the bytes that the endpoint takes at most.

    Raises `FrameTooLarge`, and `InvalidRequest` for what has no JSON form.
    """
    body, evidence = call.body, call.evidence
    baseline = held.baseline if held is not None else None
    given, matched = body.after(baseline.input) if baseline is not None else (body.items, 0)
    chosen = plan(body.fields, given, baseline, mode, require_reasoning=call.session is None, matched=matched)
    items: list[dict[str, Any]] = []
    previous: str | None = None
    if isinstance(chosen, Delta):
        items = body.for_wire(chosen.input, call.origin_of)
        previous = chosen.previous_response_id
        if not items:
            chosen = Full("empty_delta")  # nothing of it may travel
    if isinstance(chosen, Delta):
        evidence.continuation_attempted = evidence.used_previous_response_id = True
        evidence.websocket_stored_previous_response_id = previous
        evidence.continuation_reset_reason = None
    else:
        reason: str = chosen.reason
        if reason == "no_previous_response":
            before = held or cast("Connection | None", call.preferred)  # without a session nobody else remembers the last one
            reason = (before.reset_reason if before is not None else None) or reset or reason
        evidence.continuation_reset_reason = evidence.continuation_reset_reason or reason
        items, previous = call.full_input()["input"], None
    data, size = _encoded(body.fields, items, previous)
    evidence.input_items_sent, evidence.input_items_total = len(items), body.count
    evidence.input_bytes_held = held.retained if held is not None and isinstance(chosen, Delta) else 0
    limit = min(limit, FRAME_LIMIT)
    if len(data) > limit:
        raise FrameTooLarge(f"the request has {len(data)} bytes, a WebSocket message may have {limit}", phase="send",
                            code="message_too_large")  # fmt: skip
    if held is not None and isinstance(chosen, Delta):
        size += held.retained
    kept = mode != "off" and not body.caller_managed
    if not isinstance(chosen, Delta):
        given, matched = body.items, 0
    return Message(data, Draft(body.fields, given, baseline, chosen, matched=matched) if kept else None, size)


def _encoded(fields: dict[str, Any], items: list[dict[str, Any]], previous: str | None) -> tuple[bytes, int]:
    """The JSON of the message, and how many bytes of it are the items."""
    fields = {"type": "response.create", **fields}
    if previous is not None:
        fields["previous_response_id"] = previous
    try:
        head, body = dumps(fields), dumps(items)
    except CodecError:
        return encoded({**fields, "input": items}), 0  # which says what is wrong with it
    return b"".join((head[:-1], b',"input":', body, b"}")), len(body)
