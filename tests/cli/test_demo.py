"""``pixir-sync demo``: it passes where all is right, and fails where anything is not."""

from __future__ import annotations

import json
import time
from typing import Any

from pixir_sync import Provider
from pixir_sync.cli.conversation import CALLS, SCRIPT
from pixir_sync.cli.demo import run_demo
from pixir_sync.local import HttpError, LocalServer, Pause
from tests.cli.conftest import Command
from tests.cli.support import Terminal, completed, created, delta


def provider_of(server: LocalServer, **options: Any) -> Provider:
    return Provider(base_url=server.base_url, api_key=server.api_key, model=server.model, **options)


def test_it_passes_without_a_key_in_a_pipe(command: Command) -> None:
    """Twenty calls with tools over a WebSocket that is lost once, each checked; a plain table, the totals, within 15 seconds."""
    began = time.monotonic()
    done = command("demo", OPENAI_API_KEY="")
    assert time.monotonic() - began < 15
    assert (done.status, done.err) == (0, "")
    head, *rows, totals = done.out.splitlines()
    assert head.split() == ["#", "what", "transport", "continuation", "bytes", "of", "full", "first", "ms", "check"]
    assert [row.split()[0] for row in rows] == [str(n) for n in range(1, 21)]
    assert all(row.endswith(" ok") and " websocket " in row and "% " in row for row in rows)
    assert [number for number, row in enumerate(rows, 1) if " delta " not in row] == [1, 11]
    assert " no_previous_response " in rows[0] and " websocket_reconnected " in rows[10]
    assert totals.startswith("20 model calls, 5 tool calls, 18 continued, ")
    assert totals.endswith(": all right")


def test_with_a_key_it_still_spends_nothing(here: Command) -> None:
    """A key in the environment does not send the demo to a real server."""
    assert here("demo", "--json", key="sk-somebody").status == 0


def test_json_is_a_summary(here: Command) -> None:
    """One line with the totals and every call."""
    done = here("demo", "--json")
    summary = json.loads(done.out)
    assert summary["ok"] is True
    assert (summary["model_calls"], summary["tool_calls"], summary["connections"]) == (20, 5, 2)
    assert (summary["continued"], summary["turns"][10]["input"]) == (18, "websocket_reconnected")
    assert summary["bytes_sent"] < 0.4 * summary["full_bytes"] == 0.4 * sum(t["bytes_sent"] for t in summary["http_turns"])
    assert [t["text"] for t in summary["turns"]] == [t["text"] for t in summary["http_turns"]]
    assert [turn["problem"] for turn in summary["turns"] + summary["http_turns"]] == [""] * 40
    assert all(turn["bytes_sent"] > 0 and turn["first_event_ms"] <= turn["total_ms"] for turn in summary["turns"])


def test_the_conversation_is_what_a_program_would_send(server: LocalServer) -> None:
    """Twenty requests over HTTP, each with the whole history: every text, every call and every output so far."""
    with provider_of(server, transport="http_sse") as provider:
        assert run_demo(provider, exact=True, limit=15, show=False)["ok"]
    assert len(server.requests) == CALLS == 20
    last = server.requests[-1].body["input"]
    assert sum(item.get("role") == "user" for item in last) == len(SCRIPT)
    outputs = [item["output"] for item in last if item.get("type") == "function_call_output"]
    assert len(outputs) == len(set(outputs)) == 5


def test_a_server_that_miscounts_fails_it(command: Command, server: LocalServer) -> None:
    """One wrong count in one answer, and the demo says where and exits with 1."""

    def lying(body: dict[str, Any]) -> Any:
        if body["input"][-1].get("content") != "First I go to the north.":
            return None
        text = "Heard: First I go to the north. (context: 3)"
        return [created(), delta(text), completed(text)]

    server.scenario = lying
    done = command("demo", "--base-url", server.base_url, "--model", "local-model")
    assert done.failed_with("the demo failed: 1 of 20 calls; call 2: 'Heard: First I go to the north. (context: 3)' where")
    assert "WRONG" in done.out.splitlines()[2]
    assert done.out.splitlines()[-1].endswith("something is wrong")


def test_a_text_that_differs_from_its_pieces_fails_it(server: LocalServer) -> None:
    """What was streamed must be what the result holds."""
    text = "Heard: Hello, I plan a journey. (context: 1)"
    server.scenario = lambda body: [created(), delta("something else"), completed(text)] if len(body["input"]) == 1 else None
    with provider_of(server, transport="http_sse") as provider:
        summary = run_demo(provider, exact=True, limit=15, show=False)
    assert summary["problem"] == "1 of 20 calls; call 1: the text that was streamed is not the text of the result"


def test_a_tool_that_is_not_called_fails_it(server: LocalServer) -> None:
    """A model that answers where it should call."""
    server.scenario = lambda body: [created(), delta("no"), completed("no")] if "Oslo" in str(body["input"][-1]) else None
    with provider_of(server) as provider:
        summary = run_demo(provider, exact=True, limit=15, show=False)
    assert not summary["ok"]
    assert "call 3: called no tool where get_weather was expected" in summary["problem"]


def test_a_failed_call_ends_it(here: Command, server: LocalServer) -> None:
    """After an error nothing is as expected: the calls so far are shown, and the error."""
    server.scenario = lambda body: [HttpError(400, {"error": {"message": "enough"}})] if len(body["input"]) > 5 else None
    done = here("demo", "--base-url", server.base_url, "--model", "local-model")
    assert done.failed_with("enough")
    assert "WRONG" in done.out


def test_a_server_that_hangs_fails_it_in_time(server: LocalServer) -> None:
    """The limit for the whole demo bounds each call."""
    pause = Pause()
    server.scenario = lambda body: [created(), pause]
    began = time.monotonic()
    with provider_of(server) as provider:
        summary = run_demo(provider, exact=True, limit=0.2, show=False)
    assert time.monotonic() - began < 5
    assert "total_timeout" in summary["problem"]


def test_against_another_model_the_words_are_free(server: LocalServer) -> None:
    """Where the model is not the local one, only answers and tool calls are asked for."""
    server.scenario = lambda body: None if "get_" in str(body["input"][-1]) else [created(), delta("Yes."), completed("Yes.")]
    with provider_of(server, transport="http_sse") as provider:
        assert run_demo(provider, exact=False, limit=15, show=False)["ok"]
        assert not run_demo(provider, exact=True, limit=15, show=False)["ok"]


def test_on_a_terminal_it_is_a_table_with_check_marks(keyless: dict[str, str]) -> None:
    """Twenty marks, and no line longer than the terminal is wide."""
    with Terminal(keyless, "demo") as terminal:
        terminal.until("all right")
        assert terminal.status() == 0
    assert terminal.shown.count("✓") == 20


def test_without_a_websocket_it_fails(server: LocalServer) -> None:
    """Where every call falls back to HTTP the texts are right, and the demo still says that this is not what it shows."""
    with provider_of(server, websocket_url="ws://127.0.0.1:1/v1/responses") as provider:
        summary = run_demo(provider, exact=True, limit=15, show=False)
    assert summary["problem"] == "call 1 went over http_sse, and again over http_sse"
    assert [turn["problem"] for turn in summary["turns"]] == [""] * CALLS


def test_without_continuation_it_fails(server: LocalServer) -> None:
    """Where everything is sent every time the demo fails."""
    with provider_of(server, continuation="off") as provider:
        summary = run_demo(provider, exact=True, limit=15, show=False)
    assert summary["problem"] == "only 0 of 20 calls were continued"
