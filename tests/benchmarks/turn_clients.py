"""The clients that `turns` compares, each run as a process of its own; prints one line of JSON.

Run by its path, because the environment of the other SDK has nothing else of this project::

    python tests/benchmarks/turn_clients.py pixir kept http://127.0.0.1:8000/v1 --size 1000000

Rules kept here:

* A turn is timed from the call to its last event: the history is there before, and what was answered is added after. CPU time is
  that of the whole process, all of its threads.
* The first turn only opens the connection. Where a delta is measured, one turn sends the history and is not timed; up to sixteen
  that are follow, each with one short message more; then the history is cut back to its size, and sent whole again.
* What the peer says of each request, how many bytes and items it had, is compared with what it must have been.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["WAYS", "history_of", "measure"]

Item = dict[str, Any]
Answer = tuple[list[Any], str, dict[str, str]]
"""What a turn gave: the output items, the id, what the peer told of the request."""
Take = Callable[[list[Any], str | None], Answer]
"""A turn: of a history and the id of the response before, if there was one."""

_IN_A_ROW = 16
_MESSAGE = 1_000  # bytes of an item's JSON, about
_WORDS = "Each message of the history holds about a kilobyte of text, with a letter beyond ASCII — here and there. "
_WHOLE = ("full", "http")
_COMPLETED = "response.completed"
_MODEL = "short"


def history_of(size: int) -> list[Item]:
    """A history whose JSON has about so many bytes: messages of the user and of the model in turn, each text of its own."""
    history: list[Item] = []
    for number in range(max(1, size // (2 * _MESSAGE))):
        text = (_WORDS * 8)[:840]
        question = {"type": "message", "role": "user", "content": f"Question {number}. {text}"}
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": f"Answer {number}. {text}"}
        identity = f"msg_{number:048x}"
        answer = {"id": identity, "type": "message", "status": "completed", "content": [part], "role": "assistant"}
        history += [question, answer]
    return history


def _question(number: int) -> Item:
    return {"type": "message", "role": "user", "content": f"And what follows from answer {number}?"}


@contextmanager
def pixir(base_url: str, continuation: str) -> Iterator[Take]:
    """This project's provider, with a session for the conversation."""
    Provider = importlib.import_module("pixir_sync").Provider
    options = {"base_url": base_url, "model": _MODEL, "transport": "websocket", "continuation": continuation}
    with Provider(api_key="sk-none", **options) as provider:

        def take(history: list[Any], before: str | None) -> Answer:
            with provider.stream(history, session="one") as stream:
                for _ in stream:
                    pass
            result = stream.result()
            return result.output_items, result.response_id, result.response["metadata"]

        yield take


@contextmanager
def official_websocket(base_url: str, *, delta: bool) -> Iterator[Take]:
    """The official SDK's WebSocket mode; with `delta`, its caller sends the last item on the last response."""
    with _official(base_url) as client, client.responses.connect() as connection:

        def take(history: list[Any], before: str | None) -> Answer:
            if delta and before is not None:
                connection.response.create(model=_MODEL, input=history[-1:], previous_response_id=before)
            else:
                connection.response.create(model=_MODEL, input=history)
            return _to_the_end(connection)

        yield take


@contextmanager
def official_http(base_url: str) -> Iterator[Take]:
    """The official SDK over HTTP, the whole history each time."""
    with _official(base_url) as client:
        yield lambda history, before: _to_the_end(client.responses.create(model=_MODEL, input=history, stream=True))


def _official(base_url: str) -> Any:
    return importlib.import_module("openai").OpenAI(api_key="sk-none", base_url=base_url)


def _to_the_end(events: Any) -> Answer:
    """Read an answer of the official SDK to its last event."""
    found: Answer | None = None
    for event in events:
        if event.type == _COMPLETED:
            response = event.response
            found = response.output, response.id, response.metadata
            if hasattr(events, "send"):  # a connection, which goes on
                break
    assert found is not None, "the answer has no end"
    return found


WAYS: dict[tuple[str, str], Callable[[str], Any]] = {
    ("pixir", "kept"): lambda url: pixir(url, "auto"),
    ("pixir", "rebuilt"): lambda url: pixir(url, "auto"),
    ("pixir", "full"): lambda url: pixir(url, "off"),
    ("official", "delta"): lambda url: official_websocket(url, delta=True),
    ("official", "full"): lambda url: official_websocket(url, delta=False),
    ("official", "http"): official_http,
}
"""By client and way: what opens it. The ways ``kept``, ``rebuilt`` and ``delta`` send only what is new."""


def measure(take: Take, way: str, size: int, turns: int, seconds: float) -> dict[str, Any]:
    """CPU and wall seconds of each timed turn: at least so many turns, and as many more as the seconds allow."""
    base, whole = history_of(size), way in _WHOLE
    cpu: list[float] = []
    wall: list[float] = []
    until, sent = time.monotonic() + seconds, 0
    take([_question(0)], None)
    while len(cpu) < turns or time.monotonic() < until:
        history, before = list(base), None
        for number in range(0 if not whole else 1, _IN_A_ROW + 1):
            history.append(_question(number))
            if way == "rebuilt":
                history = json.loads(json.dumps(history))
            began, used = time.perf_counter(), time.process_time()
            output, answered, told = take(history, before)
            used, took = time.process_time() - used, time.perf_counter() - began
            expected = len(history) if number == 0 or whole else 1
            assert int(told["items"]) == expected, f"{way}: the peer saw {told}, not {expected} items"
            history += output
            before, sent = answered, int(told["bytes"])
            if number:
                cpu.append(used)
                wall.append(took)
            if len(cpu) >= turns and time.monotonic() > until:
                break
    return {"cpu": cpu, "wall": wall, "bytes": sent}


def main() -> None:
    """Measure one client and print what was found."""
    parser = argparse.ArgumentParser(description="One client of the comparison of turns.")
    parser.add_argument("client", choices=("pixir", "official"))
    parser.add_argument("way", choices=sorted({way for _, way in WAYS}))
    parser.add_argument("base_url")
    parser.add_argument("--size", type=int, default=10_000, help="bytes of the history, as JSON")
    parser.add_argument("--turns", type=int, default=8, help="timed turns, at least")
    parser.add_argument("--seconds", type=float, default=0.0, help="go on for so long")
    parser.add_argument("--no-orjson", action="store_true", help="let orjson not be importable")
    options = parser.parse_args()
    if options.no_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    with WAYS[options.client, options.way](options.base_url) as take:
        print(json.dumps(measure(take, options.way, options.size, options.turns, options.seconds)))


if __name__ == "__main__":
    main()
