"""A request is checked by `stream()` and read once, when it is first sent: what may have changed since is read then."""

from __future__ import annotations

from typing import Any

import pytest

from pixir_sync import InvalidRequest, Provider, user
from pixir_sync.local import LocalServer

Json = dict[str, Any]


class Keys:
    """A key that counts how often it is asked for."""

    def __init__(self, key: str) -> None:
        self.key, self.asked = key, 0

    def __call__(self) -> str:
        self.asked += 1
        return self.key


@pytest.mark.parametrize("transport", ["websocket", "http_sse"])
def test_fields_that_may_change_are_read_at_the_first_event(transport: str) -> None:
    """Those of a mapping, of a list, and beside them those that cannot."""
    metadata: Json = {"turn": "1"}
    tools: list[Json] = [{"name": "add", "parameters": {"type": "object", "properties": {}}}]
    with (
        LocalServer() as server,
        Provider(model="m", api_key=server.api_key, base_url=server.base_url, transport=transport) as provider,
    ):
        stream = provider.stream("Hi", metadata=metadata, tools=tools, temperature=0.5)
        assert stream._turn._outline.fields == {}, "kept although it is made anew"
        metadata["turn"] = "2"
        tools[0]["name"] = "subtract"
        stream.result()
        body = server.requests[-1].body
    assert (body["metadata"], body["tools"][0]["name"], body["temperature"]) == ({"turn": "2"}, "subtract", 0.5)


def test_fields_that_cannot_change_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check's reading serves."""
    with LocalServer() as server, Provider(model="m", api_key=server.api_key, base_url=server.base_url) as provider:
        stream = provider.stream([user("Hi")], temperature=0.5, instructions="Be brief.")
        with monkeypatch.context() as patched:
            patched.setattr("pixir_sync.engine.outline", pytest.fail)
            stream.result()
        body = server.requests[-1].body
    assert (body["temperature"], body["instructions"]) == (0.5, "Be brief.")


def test_what_is_new_of_a_history_is_refused_before_anything_is_done() -> None:
    """No credential is read, no connection leased, no attempt counted; the place is that in the input."""
    with LocalServer() as server:
        keys = Keys(server.api_key)
        with Provider(model="m", api_key=keys, base_url=server.base_url, transport="websocket") as provider:
            history: list[Any] = [user("Hi")]
            history += provider.complete(history, session="s").output_items
            asked, reused = keys.asked, provider.stats()["connections"]["reused"]
            stream = provider.stream([*history, {"type": "item_reference", "id": "msg_1"}, user("And?")], session="s")
            with pytest.raises(InvalidRequest, match=r"input\[2\] is an item_reference") as caught:
                next(stream)
            assert (keys.asked, provider.stats()["connections"]["reused"]) == (asked, reused)
            assert caught.value.partial is not None
            facts = caught.value.partial.provider_metadata
            assert (facts["attempts"], facts["active_transport"], caught.value.phase) == (0, None, "shape")
            assert provider.complete([*history, user("And?")], session="s").provider_metadata["used_previous_response_id"]
