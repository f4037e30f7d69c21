"""Which models reason, and what is sent of a model that nobody knows."""

from __future__ import annotations

import pytest

from pixir_sync import Provider
from pixir_sync.catalog import reasons
from pixir_sync.local import LocalServer
from tests.support.fake import provider_for


@pytest.mark.parametrize(
    ("model", "wanted"),
    [("gpt-5.5", True), ("GPT-5", True), ("openai/o3-mini", True), ("o4-mini", True), ("grok-4", True), ("codex-mini", True),
     ("gpt-4.1", False), ("gpt-5-chat-latest", False), ("gpt-4o", False), ("local-model", False), ("", False)],
)  # fmt: skip
def test_models_that_reason_are_asked_for_their_reasoning(model: str, wanted: bool) -> None:
    """Only they: others answer such a request with 400. Without a listing, asking for an effort is a sign."""
    assert reasons(model) is wanted
    if model:
        with Provider(model=model) as provider:
            assert ("include" in provider.request_body_preview("Hi")) is wanted
            assert "include" in provider.request_body_preview("Hi", reasoning_effort="low")
            assert "include" not in provider.request_body_preview("Hi", reasoning_effort="low", store=True)


def test_an_unknown_model_is_sent_as_it_is() -> None:
    """The catalogue is knowledge that ages; the server decides, here that a model which does not reason is asked for nothing."""
    with LocalServer(reasoning_models=[]) as server, provider_for(server, model="brand-new") as provider:
        assert provider.complete("Hi").model == "brand-new"
