"""The clients that `idle` compares, each run as a process of its own; prints one line of JSON. Linux only: it reads /proc.

Run by its path, because the environment of the other SDK has nothing else of this project::

    python tests/benchmarks/idle_clients.py pixir http://127.0.0.1:8000/v1 --counts 200 1000

Rules kept here:

* Each connection of ours has taken one short turn, and is kept as a session: with what continues a conversation. Those of the
  official SDK are opened and no more (over TLS not every first turn of so many ends), which is in its favour.
* Memory is the process's resident memory after a collection, with what the C library holds free given back.
* While the connections are idle the main thread sleeps in one call: what the process uses then is its other threads'.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["measure"]

_PROMPT = "Hi"
_SETTLE = 0.3  # seconds in which threads of an opened connection come to rest

Open = Callable[[int], None]
"""Opens the connection of this number."""


@contextmanager
def pixir(base_url: str, most: int) -> Iterator[Open]:
    """One provider of this project's, with a session for each connection."""
    package = importlib.import_module("pixir_sync")
    pool = package.PoolOptions(max_size=most)
    with package.Provider(api_key="sk-none", base_url=base_url, model="short", transport="websocket", pool=pool) as provider:
        yield lambda number: provider.complete(_PROMPT, session=f"session-{number}")


@contextmanager
def official(base_url: str, most: int) -> Iterator[Open]:
    """One client of the official SDK, with so many connections."""
    client = importlib.import_module("openai").OpenAI(api_key="sk-none", base_url=base_url)
    with client, ExitStack() as stack:

        def opened(number: int) -> None:
            """Open one more."""
            stack.enter_context(client.responses.connect())

        yield opened


_CLIENTS: dict[str, Callable[[str, int], Any]] = {"pixir": pixir, "official": official}


def measure(opened: Open, counts: list[int], seconds: float, traced: bool) -> dict[str, Any]:
    """Memory in bytes at each count; then the threads, and CPU seconds and wake-ups of the whole process while all is quiet."""
    memory = []
    for count, last in zip(counts, [0, *counts], strict=False):
        for number in range(last, count):
            opened(number)
        time.sleep(_SETTLE)
        memory.append((count, _traced() if traced else _resident()))
    threads = len(os.listdir("/proc/self/task")) - 1
    woken, cpu, began = _woken(), time.process_time(), time.monotonic()
    time.sleep(seconds)
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    return {"memory": memory, "threads": threads, "cpu": cpu, "seconds": took, "woken": _woken() - woken}


def _resident() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss")


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _woken() -> int:
    """How often the threads other than the main one have slept and were woken."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            status = Path(f"/proc/self/task/{task}/status").read_text()
            count += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return count


def main() -> None:
    """Measure one client and print what was found."""
    parser = argparse.ArgumentParser(description="One client of the comparison of idle connections.")
    parser.add_argument("client", choices=sorted(_CLIENTS))
    parser.add_argument("base_url")
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the connections are idle")
    parser.add_argument("--traced", action="store_true", help="memory is what Python's allocations hold, not what is resident")
    parser.add_argument("--no-orjson", action="store_true", help="let orjson not be importable")
    options = parser.parse_args()
    if options.no_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    most = max(options.counts) + 8
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.traced:
        tracemalloc.start()
    with _CLIENTS[options.client](options.base_url, most) as opened:
        print(json.dumps(measure(opened, options.counts, options.seconds, options.traced)), flush=True)
        if options.client == "official":
            os._exit(0)  # a thousand closing handshakes, one after the other, are not what is measured


if __name__ == "__main__":
    main()
