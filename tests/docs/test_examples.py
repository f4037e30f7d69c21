"""The programs of docs/examples run, and print what the documentation says."""

from __future__ import annotations

import runpy
import threading
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PRINTED = {
    "cancel_from_a_thread": "Half | cancelled, kept: 'Half '\n",
    "errors_and_retries": (
        "retry after attempt 1\n"
        "Heard: Hello (context: 1) | attempts: 2\n"
        "quota_exceeded: No credit left. (retryable: False)\n"
    ),
    "first_conversation": "Heard: Good morning (context: 1)\nHeard: What did I say? (context: 2)\n",
    "offline_test": "passed\n",
    "own_credential": "refreshed\nHeard: Hello (context: 1)\n",
    "sessions": (
        "Heard: Good morning (context: 1) | 1 of 1 items sent\n"
        "Heard: What did I say? (context: 2) | 1 of 3 items sent\n"
        "Heard: And now? (context: 3) | websocket_reconnected\n"
    ),
    "structured_output": "City(name='Graz', people=300000)\n",
    "time_limits": "first_event_timeout in phase first_event; a TimeoutError: True\n",
    "tool_call": 'called: get_weather\nTool answered: "{"city": "city", "sky": "clear"}" (context: 1)\n',
}


def test_every_example_is_here() -> None:
    """A new example needs its line above."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_an_example_prints_what_it_should(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each runs without a key and without a network, and leaves no thread behind."""
    before = set(threading.enumerate())
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out == PRINTED[name]
    until = time.monotonic() + 5
    while set(threading.enumerate()) - before:  # the keepalive thread ends as soon as it sees that its provider was closed
        assert time.monotonic() < until
        time.sleep(0.005)
