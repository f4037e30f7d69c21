"""What `memory` measures, each as a process of its own; prints one line of JSON. Linux only: it reads /proc.

Run by its path: ``python tests/benchmarks/memory_clients.py pixir stream http://127.0.0.1:8000/v1``.

Rules kept here:

* ``held`` is what Python's own allocations hold after a collection (tracemalloc), less what they held before the first event or
  turn; ``resident`` is the resident memory of the process, from a run without tracemalloc, which needs memory itself.
* What the caller has is counted object by object, each once, with ``sys.getsizeof``.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["conversation", "sizes", "stream"]

Point = tuple[int, int, int, int]
"""How many events or turns, the memory then, and what the caller has (a text; a history), the whole and its containers."""

_LINE = "Question {} of a conversation. " + "What is asked takes half a kilobyte, every text its own. " * 8
_SLOT = 9
"""Bytes for an element of a list that grows: a pointer, and what the list keeps in reserve (an eighth)."""


def stream(provider: Any, every: int, memory: Callable[[], int]) -> list[Point]:
    """Read the long answer. The text counts as its pieces, each a string in a list; at the last point the result is left."""
    events = text = 0
    points: list[Point] = []
    start = memory()
    running = provider.stream("All of it.", model="long")
    for event in running:
        events += 1
        if event.text:
            text += sys.getsizeof(event.text) + _SLOT
        if events % every == 0:
            points.append((events, memory() - start, text, 0))
    result = running.result()
    del event, running
    points.append((events, memory() - start, sys.getsizeof(result.text), 0))
    return points


def conversation(provider: Any, turns: int, every: int, memory: Callable[[], int], counted: bool) -> list[Point]:
    """Take so many turns of one session, with a history that grows by all that is said; ``counted``: its bytes, too.

    Counting needs memory that stays resident.
    """
    history: list[Any] = []
    points: list[Point] = []
    provider.complete("Hi", session="another")
    start = memory()
    for turn in range(1, turns + 1):
        history.append({"type": "message", "role": "user", "content": _LINE.format(turn)})
        history += provider.complete(history, session="one").output_items
        if turn % every == 0:
            points.append((turn, memory() - start, *(sizes(history) if counted else (0, 0))))
    assert provider.stats()["turns"]["websocket"] == {"delta": turns - 1, "full": 2}
    return points


def sizes(value: Any) -> tuple[int, int]:
    """Bytes of a value with all that is in it, each object once; and of its containers alone."""
    whole = containers = 0
    seen: set[int] = set()
    rest = [value]
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        whole += sys.getsizeof(one)
        if isinstance(one, (dict, list)):
            containers += sys.getsizeof(one)
            inner: Iterable[Any] = [*one, *one.values()] if isinstance(one, dict) else one
            rest += inner
    return whole, containers


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss")


def main() -> None:
    """Measure and print what was found."""
    parser = argparse.ArgumentParser(description="One run of the measurement of memory.")
    parser.add_argument("client", choices=("pixir",))
    parser.add_argument("what", choices=("stream", "conversation"))
    parser.add_argument("base_url")
    parser.add_argument("--turns", type=int, default=2_000, help="of the conversation")
    parser.add_argument("--every", type=int, default=50_000, help="events or turns between two points of the curve")
    parser.add_argument("--resident", action="store_true", help="resident memory, not what Python's allocations hold")
    parser.add_argument("--no-orjson", action="store_true", help="let orjson not be importable")
    options = parser.parse_args()
    if options.no_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    Provider = importlib.import_module("pixir_sync").Provider
    memory = _resident if options.resident else _held
    if not options.resident:
        tracemalloc.start()
    with Provider(api_key="sk-none", base_url=options.base_url, model="short", transport="websocket") as provider:
        if options.what == "stream":
            points = stream(provider, options.every, memory)
        else:
            points = conversation(provider, options.turns, options.every, memory, not options.resident)
    print(json.dumps(points))


if __name__ == "__main__":
    main()
