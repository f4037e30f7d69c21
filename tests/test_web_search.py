"""Web search from end to end: what is asked for, and what the evidence keeps of it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from pixir_sync import InvalidRequest
from pixir_sync.local import Answer, HostedCall, LocalServer, Text
from tests.support.both import TransportName
from tests.support.fake import provider_for

FOUND = {"type": "search", "query": "SENTINEL", "queries": ["SENTINEL", "more"],
         "sources": [{"type": "url", "url": f"https://{n}.example"} for n in range(150)]}  # fmt: skip
CITED = {"type": "url_citation", "url": "https://0.example", "title": "Zero", "start_index": 0, "end_index": 4}


@pytest.mark.row("A9", "A27")
def test_a_search_leaves_counts_sources_and_citations(transport: TransportName, caplog: pytest.LogCaptureFixture) -> None:
    """The tool and the include go out; of the answer 100 sources are kept, the citations, and no query anywhere."""
    caplog.set_level(logging.DEBUG)
    answer = Answer(HostedCall("web_search_call", action=FOUND), Text("Zero, it says", annotations=[CITED] * 101))
    with LocalServer(scenario=lambda request: answer) as server, provider_for(server, transport=transport) as provider:
        result = provider.complete("Hi", web_search={"sources": True, "user_location": {"country": "DE"}})
        body = server.requests.only.body
        shown: list[Any] = [result.web_search, result.provider_hosted_tools, result.provider_metadata]
        shown += [provider.stats(), repr(result)]
    assert body["tools"] == [{"type": "web_search", "user_location": {"type": "approximate", "country": "DE"}}]
    assert "web_search_call.action.sources" in body["include"]
    found = result.web_search
    assert found["calls"] == 1 and found["sources"] == [f"https://{n}.example" for n in range(100)]
    assert found["annotations"] == [{name: CITED[name] for name in ("url", "title", "start_index", "end_index")}] * 100
    assert result.output_items[0]["action"] == FOUND  # the caller's own copy is whole
    assert "SENTINEL" not in json.dumps(shown) + caplog.text


@pytest.mark.row("A9")
@pytest.mark.parametrize(
    "wrong", [{"web_search": {"size": "low"}}, {"web_search": {"filters": {"allow": []}}}, {"hosted_tools": [{"kind": "mcp"}]}]
)
def test_a_wrong_field_is_refused_before_any_network(transport: TransportName, wrong: dict[str, Any]) -> None:
    """At the call itself, with the field's name."""
    with LocalServer() as server, provider_for(server, transport=transport) as provider:
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            provider.stream("Hi", **wrong)
        assert not server.connections
