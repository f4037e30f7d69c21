"""The clients that the streaming benchmark compares, each run as a process of its own; prints one line of JSON.

Run by its path, because the environment of the other SDK has nothing else of this project::

    python tests/benchmarks/clients.py pixir websocket http://127.0.0.1:8000/v1

Rules kept here:

* Each client is used as its documentation shows, with its defaults, and looks at the text of every event.
* What is measured is the streaming: the first answer on the connection is not, nor are imports and the connection itself.
* CPU time is that of the whole process, with every thread that a client starts.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["CLIENTS", "measure", "measure_paced"]

_PROMPT = "Tell me all of it."
_DELTA, _COMPLETED = "response.output_text.delta", "response.completed"

Stream = Callable[[str], Any]
"""Asks for the answer of a model and gives the iterable of its events."""
Count = tuple[int, int]


@contextmanager
def pixir_stream(transport: str, base_url: str) -> Iterator[Stream]:
    """This project's provider."""
    Provider = importlib.import_module("pixir_sync").Provider
    with Provider(api_key="sk-none", base_url=base_url, model="bulk", transport=transport) as provider:
        yield lambda model: provider.stream(_PROMPT, model=model)


@contextmanager
def official_websocket(base_url: str) -> Iterator[Stream]:
    """The official SDK's WebSocket mode: one connection, typed events."""
    with _official(base_url) as client, client.responses.connect() as connection:

        def stream(model: str) -> Any:
            connection.response.create(model=model, input=_PROMPT)
            return connection

        yield stream


@contextmanager
def official_sse(base_url: str) -> Iterator[Stream]:
    """The official SDK over HTTP: typed events of a streamed response."""
    with _official(base_url) as client:
        yield lambda model: client.responses.create(model=model, input=_PROMPT, stream=True)


def _official(base_url: str) -> Any:
    return importlib.import_module("openai").OpenAI(api_key="sk-none", base_url=base_url)


def count_pixir(events: Any) -> Count:
    """Read an answer to its end: its events, and the characters of its text."""
    number = characters = 0
    for event in events:
        number += 1
        characters += len(event.text)
    return number, characters


def count_official(events: Any) -> Count:
    """The same for the official SDK, whose connection goes on after an answer."""
    number = characters = 0
    for event in events:
        number += 1
        if event.type == _DELTA:
            characters += len(event.delta)
        elif event.type == _COMPLETED:
            break
    return number, characters


def delays_pixir(events: Any) -> list[int]:
    """Read a paced answer to its end: nanoseconds from the sending of each delta to its arrival here."""
    return [time.monotonic_ns() - int(event.text) for event in events if event.text]


def delays_official(events: Any) -> list[int]:
    """The same for the official SDK."""
    delays: list[int] = []
    for event in events:
        if event.type == _DELTA:
            delays.append(time.monotonic_ns() - int(event.delta))
        elif event.type == _COMPLETED:
            break
    return delays


def measure(stream: Stream, count: Callable[[Any], Count], seconds: float) -> dict[str, Any]:
    """Answers, events, characters, CPU and wall seconds of bulk answers, until so many seconds have passed.

    One answer before them is not counted.
    """
    count(stream("bulk"))
    gc.collect()
    answers = events = characters = 0
    began, cpu = time.perf_counter(), time.process_time()
    while not answers or time.perf_counter() - began < seconds:
        number, length = count(stream("bulk"))
        answers += 1
        events += number
        characters += length
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    return {"answers": answers, "events": events, "characters": characters, "cpu": cpu, "wall": wall}


def measure_paced(stream: Stream, count: Callable[[Any], Count], delays: Callable[[Any], list[int]]) -> dict[str, Any]:
    """Deltas, CPU seconds and the median and 99th percentile of the delay in seconds of one paced answer."""
    count(stream("bulk"))
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    found = delays(stream("paced"))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found.sort()
    middle, late = found[len(found) // 2], found[len(found) * 99 // 100]
    return {"events": len(found), "cpu": cpu, "wall": wall, "p50": middle / 1e9, "p99": late / 1e9}


CLIENTS: dict[tuple[str, str], tuple[Callable[[str], Any], Callable[[Any], Count], Callable[[Any], list[int]]]] = {
    ("pixir", "websocket"): (lambda url: pixir_stream("websocket", url), count_pixir, delays_pixir),
    ("pixir", "sse"): (lambda url: pixir_stream("http_sse", url), count_pixir, delays_pixir),
    ("official", "websocket"): (official_websocket, count_official, delays_official),
    ("official", "sse"): (official_sse, count_official, delays_official),
}
"""By client and protocol: what opens it, what counts its events, what takes their delays."""


def main() -> None:
    """Measure one client and print what was found."""
    parser = argparse.ArgumentParser(description="One client of the streaming benchmark.")
    parser.add_argument("client", choices=("pixir", "official"))
    parser.add_argument("protocol", choices=("websocket", "sse"))
    parser.add_argument("base_url")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long bulk answers are read")
    parser.add_argument("--paced", action="store_true", help="measure the paced answer")
    parser.add_argument("--no-orjson", action="store_true", help="let orjson not be importable")
    options = parser.parse_args()
    if options.no_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    opened, count, delays = CLIENTS[options.client, options.protocol]
    with opened(options.base_url) as stream:
        found = measure_paced(stream, count, delays) if options.paced else measure(stream, count, options.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
