"""The clients that the comparisons run, each as a process of its own; prints one line of JSON.

Run by its path, because the environment of the other SDK has nothing else of this project::

    python tests/benchmarks/clients.py pixir websocket http://127.0.0.1:8000/v1 --work bulk

Rules kept here:

* Each client is used as its documentation shows, with its defaults, and looks at the text of every event.
* What is measured is the work: the first answer on each connection is not, nor are imports and the connections themselves.
* CPU time is that of the whole process, with every thread that a client starts.
* Threads share what they may share: the provider, the official client; a WebSocket connection of the latter is one thread's.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CLIENTS", "Client", "measure", "measure_batch", "measure_paced", "measure_paced_threads", "measure_threads"]

_PROMPT = "Tell me all of it."
_DELTA, _COMPLETED = "response.output_text.delta", "response.completed"
_DEADLINE = 240.0
_READ = 65_536
_UPGRADE = (
    b"GET %b/responses HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_RAW_DELTA = b'"delta":"'

Stream = Callable[..., Any]
"""Asks for the answer of a model, to a prompt or to the usual one, and gives what is read: the iterable of its events."""
Open = Callable[[], AbstractContextManager[Stream]]
"""What a thread calls to have a `Stream` of its own."""
Count = tuple[int, int]
Found = dict[str, Any]


@contextmanager
def pixir(transport: str, base_url: str) -> Iterator[Open]:
    """This project's provider."""
    Provider = importlib.import_module("pixir_sync").Provider
    with Provider(api_key="sk-none", base_url=base_url, model="bulk", transport=transport) as provider:
        yield lambda: nullcontext(lambda model, prompt=_PROMPT: provider.stream(prompt, model=model))


@contextmanager
def official_websocket(base_url: str) -> Iterator[Open]:
    """The official SDK's WebSocket mode: a connection per thread, typed events."""
    with _official(base_url) as client:

        @contextmanager
        def connected() -> Iterator[Stream]:
            with client.responses.connect() as connection:

                def stream(model: str, prompt: str = _PROMPT) -> Any:
                    connection.response.create(model=model, input=prompt)
                    return connection

                yield stream

        yield connected


@contextmanager
def official_http(base_url: str, **options: Any) -> Iterator[Open]:
    """The official SDK over HTTP: the whole response, or with ``stream=True`` the typed events of a streamed one."""
    with _official(base_url) as client:
        create = client.responses.create
        yield lambda: nullcontext(lambda model, prompt=_PROMPT: create(model=model, input=prompt, **options))


@contextmanager
def raw_socket(base_url: str) -> Iterator[Open]:
    """No client: a socket that is read without decoding anything, which is what every client pays at least. Plain or TLS."""
    address = urlsplit(base_url)

    @contextmanager
    def connected() -> Iterator[Stream]:
        with ExitStack() as stack:
            sock: socket.socket = stack.enter_context(socket.create_connection((address.hostname, address.port), _DEADLINE))
            if address.scheme == "https":
                sock = stack.enter_context(ssl.create_default_context().wrap_socket(sock, server_hostname=address.hostname))
            sock.settimeout(None)  # one call to the kernel per read; whoever runs this has a deadline
            sock.sendall(_UPGRADE % (address.path.encode(), address.netloc.encode()))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(_READ)

            def stream(model: str, prompt: str = _PROMPT) -> Iterator[bytes]:
                body = json.dumps({"type": "response.create", "model": model, "input": prompt}).encode()
                sock.sendall(bytes((0x81, 0x80 | len(body))) + bytes(4) + body)  # masked by zeros
                return _payloads(sock)

            yield stream

    yield connected


def _payloads(sock: socket.socket) -> Iterator[bytes]:
    """The payloads of the frames of an answer."""
    data, at = b"", 0
    while True:
        size, start = (data[at + 1], at + 2) if len(data) - at >= 10 else (0, len(data) + 1)
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : start], "big")
        if start + size > len(data):
            received = sock.recv(_READ)
            if not received:
                raise ConnectionError("the peer has gone")
            data, at = data[at:] + received, 0
            continue
        at = start + size
        yield data[start:at]
        if data.startswith(b'{"type":"response.completed"', start):
            return


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


def count_whole(response: Any) -> Count:
    """The same for a response that was not streamed: one event."""
    return 1, len(response.output_text)


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


def count_raw(payloads: Iterator[bytes]) -> Count:
    """The same for a raw socket, whose text nobody looks at."""
    return sum(1 for _ in payloads), 0


def delays_raw(payloads: Iterator[bytes]) -> list[int]:
    """The same for a raw socket: the time is found without decoding."""
    delays = []
    for payload in payloads:
        at = payload.find(_RAW_DELTA)
        if at > 0:
            delays.append(time.monotonic_ns() - int(payload[at + len(_RAW_DELTA) : at + len(_RAW_DELTA) + 20]))
    return delays


def delays_whole(response: Any) -> list[int]:
    """A response that was not streamed has none."""
    return []


@dataclass(frozen=True)
class Client:
    """One client: what opens it, what counts the events of an answer, takes their delays, and gives the length of the text."""

    opened: Callable[[str], AbstractContextManager[Open]]
    count: Callable[[Any], Count]
    delays: Callable[[Any], list[int]]
    text: Callable[[Any], int]


def _text_official(events: Any) -> int:
    return count_official(events)[1]


CLIENTS: dict[tuple[str, str], Client] = {
    ("pixir", "websocket"): Client(
        lambda url: pixir("websocket", url), count_pixir, delays_pixir, lambda stream: len(stream.result().text)
    ),
    ("pixir", "sse"): Client(
        lambda url: pixir("http_sse", url), count_pixir, delays_pixir, lambda stream: len(stream.result().text)
    ),
    ("official", "websocket"): Client(official_websocket, count_official, delays_official, _text_official),
    ("official", "sse"): Client(
        lambda url: official_http(url, stream=True), count_official, delays_official, _text_official
    ),
    ("official", "http"): Client(official_http, count_whole, delays_whole, lambda response: len(response.output_text)),
    ("raw", "websocket"): Client(raw_socket, count_raw, delays_raw, lambda payloads: count_raw(payloads)[1]),
}
"""By client and protocol."""


def measure(client: Client, url: str, seconds: float) -> Found:
    """Answers, events, characters, CPU and wall seconds of bulk answers, until so many seconds have passed.

    One answer before them is not counted.
    """
    with client.opened(url) as opened, opened() as stream:
        client.count(stream("bulk"))
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        found = _for_seconds(client, stream, seconds)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {**found, "cpu": cpu, "wall": wall}


def _for_seconds(client: Client, stream: Stream, seconds: float) -> Found:
    answers = events = characters = 0
    end = time.perf_counter() + seconds
    while not answers or time.perf_counter() < end:
        number, length = client.count(stream("bulk"))
        answers += 1
        events += number
        characters += length
    return {"answers": answers, "events": events, "characters": characters}


def measure_paced(client: Client, url: str) -> Found:
    """Deltas, CPU and wall seconds, and the median and 99th percentile of the delay in seconds of one paced answer."""
    with client.opened(url) as opened, opened() as stream:
        client.count(stream("bulk"))
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        delays = client.delays(stream("paced"))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu, "wall": wall, **_percentiles(delays)}


def _percentiles(delays: list[int]) -> Found:
    delays.sort()
    middle, late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    return {"events": len(delays), "p50": middle / 1e9, "p99": late / 1e9}


def measure_threads(client: Client, url: str, threads: int, seconds: float) -> Found:
    """As `measure`, by so many threads at once."""
    found, spent = _at_once(client, url, threads, lambda stream: _for_seconds(client, stream, seconds))
    return {name: sum(one[name] for one in found) for name in found[0]} | spent


def measure_paced_threads(client: Client, url: str, threads: int) -> Found:
    """As `measure_paced`, by so many threads at once; the percentiles are those of all delays."""
    found, spent = _at_once(client, url, threads, lambda stream: client.delays(stream("paced")))
    return _percentiles(sum(found, [])) | spent


def measure_batch(client: Client, url: str, threads: int, requests: int) -> Found:
    """Requests, the characters of their answers, CPU and wall seconds of a batch that so many threads share."""
    left = iter(range(requests))

    def work(stream: Stream) -> list[int]:
        return [client.text(stream("bulk", f"Tell me about number {number}.")) for number in left]

    found, spent = _at_once(client, url, threads, work)
    answers: list[int] = sum(found, [])
    return {"requests": len(answers), "characters": sum(answers)} | spent


def _at_once(client: Client, url: str, threads: int, work: Callable[[Stream], Any]) -> tuple[list[Any], Found]:
    """What each thread gave, and the CPU and wall seconds from the first one's beginning to the last one's end.

    Each has its connection, and has read an answer on it, before any of them begins.
    """
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        gc.collect()
        marks.append((time.process_time(), time.perf_counter()))

    together = threading.Barrier(threads, mark, timeout=_DEADLINE)

    def run(opened: Open) -> Any:
        try:
            with opened() as stream:
                client.count(stream("bulk"))
                together.wait()
                found = work(stream)
                together.wait()
                return found
        except BaseException:
            together.abort()
            raise

    with client.opened(url) as opened, ThreadPoolExecutor(threads) as pool:
        started = [pool.submit(run, opened) for _ in range(threads)]
        for failed in filter(None, (future.exception() for future in started)):
            if not isinstance(failed, threading.BrokenBarrierError):  # which is what the others met
                raise failed
        found = [future.result() for future in started]
    (cpu, wall), (cpu_end, wall_end) = marks
    return found, {"cpu": cpu_end - cpu, "wall": wall_end - wall}


def main() -> None:
    """Measure one client and print what was found."""
    parser = argparse.ArgumentParser(description="One client of a comparison.")
    parser.add_argument("client", choices=("pixir", "official", "raw"))
    parser.add_argument("protocol", choices=("websocket", "sse", "http"))
    parser.add_argument("base_url")
    parser.add_argument("--work", choices=("bulk", "paced", "batch"), default="bulk", help="what to measure")
    parser.add_argument("--threads", type=int, default=0, help="threads that do it at once (default: the main thread does it)")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long bulk answers are read")
    parser.add_argument("--requests", type=int, default=2_000, help="the size of the batch")
    parser.add_argument("--no-orjson", action="store_true", help="let orjson not be importable")
    options = parser.parse_args()
    if options.no_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    client, url, threads = CLIENTS[options.client, options.protocol], options.base_url, options.threads
    if options.work == "batch":
        found = measure_batch(client, url, threads or 1, options.requests)
    elif options.work == "paced":
        found = measure_paced_threads(client, url, threads) if threads else measure_paced(client, url)
    else:
        found = measure_threads(client, url, threads, options.seconds) if threads else measure(client, url, options.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
