"""What the tests of the HTTP transport share: a wire (plain or TLS), scripts for peers, and waits with a deadline."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pixir_sync import Network, Provider, RetryPolicy
from tests.support.events import text_response
from tests.support.peer import Conn, Script, ScriptedPeer

DEADLINE = 5.0
KEY = "sk-test-0123456789"
DATA = Path(__file__).parents[2] / "data" / "wire"
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux shows in /proc, or fills a Linux backlog")

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Wire:
    """A way to speak to a peer: plain, or TLS with an authority of the test's own."""

    name: str
    server: ssl.SSLContext | None
    bundle: str | None

    def peer(self, script: Script | Sequence[Script]) -> ScriptedPeer:
        return ScriptedPeer(script, ssl_context=self.server)

    def provider(self, url: str, *, trust_env: bool = False, proxy: str | None = None, **options: Any) -> Provider:
        """A provider that trusts the peer's authority and, unless told otherwise, retries without waiting."""
        network = Network(ca_bundle=self.bundle, trust_env=trust_env, proxy=proxy)
        settings: Json = {"api_key": KEY, "model": "m", "transport": "sse", "network": network, "retry": quick()}
        return Provider(base_url=url, **{**settings, **options})

    def url(self, port: int) -> str:
        return f"{'https' if self.server else 'http'}://127.0.0.1:{port}/v1"


def quick(retries: int = 2, **settings: Any) -> RetryPolicy:
    """A retry policy whose own delays are short."""
    return RetryPolicy(max_retries=retries, initial_delay=0.01, **settings)


def answer(conn: Conn, *deltas: str, id: str = "resp_1") -> None:
    """Read one request and answer it with a whole response."""
    conn.read_request()
    conn.start_sse()
    for event in text_response(*(deltas or ("hi",)), id=id):
        conn.sse(event)
    conn.finish()


def answers(conn: Conn) -> None:
    """Answer every request that comes."""
    while True:
        answer(conn)


def begin(conn: Conn, *deltas: str, chunked: bool = True) -> None:
    """Read one request, begin its answer and send these deltas: the response stays open."""
    conn.read_request()
    conn.start_sse(chunked=chunked)
    for event in text_response(*deltas)[: 4 + len(deltas)]:
        conn.sse(event)


def refuse(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Script:
    """A script that refuses one request, and then answers those that follow."""

    def script(conn: Conn) -> None:
        conn.read_request()
        conn.respond(status, body, headers)
        answers(conn)

    return script


def in_thread(work: Callable[[], T]) -> Future[T]:
    """The outcome of work that runs on a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="test-work", daemon=True).start()
    return future


def pause(seconds: float) -> None:
    """Let a moment pass, of less than 0.3 seconds."""
    time.sleep(seconds)


def wait_until(holds: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    until = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.005)


def descriptors() -> int:
    """How many files this process holds open."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_left() -> Iterator[None]:
    """At the end of the block there are no more threads and no more open files than at its start."""
    threads, files = threading.active_count(), descriptors()
    yield
    wait_until(lambda: threading.active_count() <= threads, "the threads to end")
    wait_until(lambda: descriptors() <= files, "the descriptors to be closed")


@contextmanager
def took(least: float, most: float) -> Iterator[None]:
    """The block takes so many seconds. The upper bound leaves room for a loaded machine."""
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    assert least <= seconds <= most, f"took {seconds:.3f} s, not {least} to {most}"


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that accepts nothing and has no room left: the system drops what wants to connect."""
    waiting: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        try:
            while True:
                sock = socket.socket()
                waiting.append(sock)
                sock.settimeout(0.1)
                sock.connect(("127.0.0.1", port))
        except TimeoutError:
            yield port
        finally:
            for sock in waiting:
                sock.close()


@contextmanager
def mute_listener() -> Iterator[int]:
    """The port of a listener that lets clients connect and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        yield listener.getsockname()[1]


def drip(conn: Conn, data: Iterable[bytes], wait: float = 0.02) -> None:
    """Send pieces one after the other, with a pause, until the client has gone."""
    with suppress(OSError):
        for piece in data:
            conn.send(piece)
            time.sleep(wait)


def request_body(given: Any) -> Json:
    body = given.json
    assert isinstance(body, dict)
    return body
