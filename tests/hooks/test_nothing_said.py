"""No key, no prompt, no answer, no tool's argument is in a record, a line, a span or the report: they are searched for there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pixir_sync import Network, PixirError, TurnRecord, user
from pixir_sync.cli.figures import read
from pixir_sync.cli.page import page
from pixir_sync.hooks import JsonLines, OpenTelemetry
from pixir_sync.local import Close, HttpError, Step
from tests.support.both import Peer, TransportName
from tests.support.events import Json, failed, function_call_response, text_response

KEY, TOKEN, PROMPT, ANSWER = "sk-" + "quagga" * 3, "tok-" + "okapi" * 3, "prompt-" + "numbat" * 2, "answer-" + "bilby" * 2
SESSION, QUERY = "session-" + "dugong" * 2, "query-" + "tapir" * 2
WORDS = ("quagga", "okapi", "numbat", "bilby", "dugong", "tapir")

REQUEST: Json = {"system_prompt": PROMPT, "developer_context": PROMPT, "metadata": {"a": PROMPT}, "user": PROMPT,
                 "tools": [{"name": "f", "description": PROMPT}], "extra_body": {"x": PROMPT}}  # fmt: skip
ECHO: Json = {"error": {"message": f"{KEY} {PROMPT}", "code": PROMPT, "type": PROMPT, "param": KEY}}
WHOLE = text_response(ANSWER)
REPLIES: Mapping[str, list[Step]] = {
    "text": [*WHOLE],
    "call": [*function_call_response(ANSWER, {"a": ANSWER})],
    "no object of arguments": [*function_call_response("f", ANSWER)],
    "refused": [HttpError(400, ECHO)],
    "refused again and again": [HttpError(500, ECHO)],
    "failed": [*WHOLE[:-1], failed(PROMPT, KEY)],
    "lost": [*WHOLE[:5], Close(1011, ANSWER)],
}


@pytest.mark.row("A26")
@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("left", [False, True], ids=["read", "left"])
def test_nothing_that_was_said_is_told(transport: TransportName, tmp_path: Path, reply: str, left: bool) -> None:
    """Whatever the end, and also of a server that quotes everything in its errors."""
    told: list[TurnRecord] = []
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    path = tmp_path / "turns.jsonl"
    network = Network(trust_env=False, headers={"X-Api-Key": KEY})
    with JsonLines(path) as lines, Peer(transport, REPLIES[reply], api_key=KEY) as peer:
        options: dict[str, Any] = {"hooks": [told.append, lines, OpenTelemetry(tracers)], "network": network, "api_key": KEY}
        with peer.provider(base_url=f"{peer.server.base_url}?key={QUERY}", **options) as provider:
            stream = provider.stream([user(PROMPT)], headers={"X-Key": TOKEN}, session=SESSION, scope=SESSION, **REQUEST)
            try:
                for _ in stream:
                    if left:
                        break
                stream.close()
            except PixirError:
                pass
        assert PROMPT in str(peer.bodies) and len(told) == 1
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    written = path.read_bytes()
    shown = [repr(told), json.dumps(told[0].to_dict()), written.decode(), spans, page(read(written.splitlines()), path.name)]
    assert all(len(text) > 500 for text in shown)
    assert [word for word in WORDS for text in shown if word in text] == []
