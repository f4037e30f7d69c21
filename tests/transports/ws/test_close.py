"""How a provider ends: under a crowd of streams, from a signal handler, a finaliser, at exit, with the interpreter (row B16)."""

from __future__ import annotations

import gc
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from pixir_sync import Keepalive, Network, PixirError, PoolOptions, Provider, ProviderClosed, RetryPolicy
from pixir_sync.local import LocalServer, faults
from tests.support.both import TransportName
from tests.support.fake import provider_for
from tests.support.own_process import ServerProcess
from tests.support.tls import authority
from tests.transports.http.helpers import descriptors, in_thread, linux, wait_until

pytestmark = [pytest.mark.row("B16"), linux]  # descriptors are counted in /proc


@pytest.fixture(params=["plain", "tls"])
def secure(request: pytest.FixtureRequest) -> bool:
    """Whether the server speaks TLS."""
    return bool(request.param == "tls")


@pytest.fixture(scope="module")
def processes() -> Iterator[Callable[[bool], ServerProcess]]:
    """The server in a process of its own, plain or with TLS, with no connection open."""
    with ExitStack() as stack:
        running: dict[bool, ServerProcess] = {}

        def make(secure: bool) -> ServerProcess:
            if secure not in running:
                running[secure] = stack.enter_context(ServerProcess(tls=secure))
            wait_until(lambda: running[secure].ask()["open"] == 0, "the sockets of earlier tests to be closed")
            return running[secure]

        yield make


def provider_of(server: LocalServer | ServerProcess, transport: str, secure: bool, **options: Any) -> Provider:
    bundle = server.ca_file if isinstance(server, ServerProcess) else authority().ca_file() if secure else None
    network = Network(ca_bundle=bundle, trust_env=False)
    return provider_for(server, **{"transport": transport, "retry": 0, "timeouts": 30, "network": network, **options})


def local_server(secure: bool) -> LocalServer:
    return LocalServer(ssl_context=authority().server_context() if secure else None)


def kind_of(work: Callable[[], object]) -> str:
    """How this ends: with the kind of an error, or well."""
    try:
        work()
    except PixirError as error:
        assert error.partial is not None or isinstance(error, ProviderClosed)
        return error.kind
    return "well"


@contextmanager
def nothing_left(*, threads_of: str = "pixir-keepalive") -> Iterator[None]:
    """After the block there are no descriptors more than before it, and no thread of ours."""
    wait_until(lambda: not named(threads_of), "the threads of earlier tests to end")
    gc.collect()
    files = descriptors()
    yield
    wait_until(lambda: not named(threads_of), "the keepalive thread to end")
    wait_until(lambda: descriptors() <= files, "the descriptors to be closed")


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


# Fifty streams.


def test_close_under_fifty_streams(
    transport: TransportName, secure: bool, processes: Callable[[bool], ServerProcess]
) -> None:
    """20 wait for their first event, 20 are in the middle, 5 wait for a place or behind a session, 5 until they may try again.

    Each ends in `ProviderClosed` within a second; then there is no thread, no descriptor and no socket at the server.
    """
    pooled, server = transport == "websocket", processes(secure)
    retry, before = RetryPolicy(max_retries=2), server.ask()["requests"]
    with nothing_left():
        provider = provider_of(server, transport, secure, pool=PoolOptions(max_size=40), retry=retry)
        calls: list[Future[str]] = []

        def begin(text: str, session: str | None) -> None:
            calls.append(in_thread(lambda: kind_of(lambda: provider.complete(text, session=session))))

        for number in range(5):
            begin("wait for another try", f"later {number}")
        wait_until(lambda: provider.stats()["replays"] != {} and sum(provider.stats()["replays"].values()) == 5, "the tries")
        for number in range(20):
            begin("mute", f"mute {number}")
            begin("half", None if number % 2 else f"half {number}")
        wait_until(lambda: server.ask()["requests"] == before + 45, "the streams to run")
        for number in range(5):
            begin("mute", f"mute {number}" if number % 2 else None)
        if pooled:
            wait_until(lambda: provider.stats()["websocket"]["pool"]["waiting"] == 5, "the calls to wait")
        else:
            wait_until(lambda: server.ask()["requests"] == before + 50, "the calls to run")
        began = time.monotonic()
        provider.close()
        ended = [call.result(5) for call in calls]
        took = time.monotonic() - began
        assert Counter(ended) == {"closed": 50} and took < 1.0, took
        assert provider.stats()["connections"]["live"] == 0 and provider.stats()["errors"] == {"closed": 50}
        wait_until(lambda: server.ask()["open"] == 0, "the server's sockets")


# After the end.


def test_a_closed_provider_refuses_everything_else(transport: TransportName, secure: bool) -> None:
    """Every way to call it raises `ProviderClosed` at once and opens nothing; what only tells still tells."""
    with local_server(secure) as server:
        with provider_of(server, transport, secure) as provider:
            unstarted = provider.stream("never begun")
            assert provider.complete("Hi", session="s").text == "Heard: Hi (context: 1)"
            connections = server.connections
        ways: list[Callable[[], object]] = [
            lambda: provider.stream("x"), lambda: provider.complete("x"), lambda: provider.warm_up("x", session="s"),
            provider.probe, lambda: provider.request_body_preview("x"), lambda: provider.compact("x"),
            lambda: provider.retrieve("resp_1"), lambda: provider.delete("resp_1"), lambda: provider.cancel_response("resp_1"),
            lambda: provider.input_items("resp_1"), provider.models, lambda: provider.model_supported("m"),
            lambda: next(unstarted), unstarted.result,
        ]  # fmt: skip
        for way in ways:
            with pytest.raises(ProviderClosed):
                way()
        assert not provider.has_session("s") and provider.default_model() == "gpt-5.5" and "closed" in repr(provider)
        provider.release("s")
        provider.drop_connections()
        provider.close()
        assert provider.stats()["connections"] == {"opened": 1, "reused": 0, "live": 0}
        with Provider(config=provider.config) as anew:
            assert anew.complete("Hi").text == "Heard: Hi (context: 1)"
        assert server.connections == connections + 1


# From a signal handler.


@contextmanager
def handling(work: Callable[[], object]) -> Iterator[None]:
    """A handler of SIGUSR1 that does this."""
    before = signal.signal(signal.SIGUSR1, lambda number, frame: work())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class Interrupted:
    """A lock under which a signal comes, the first time that it is taken by this thread, from the n-th on."""

    def __init__(self, lock: Any, nth: int) -> None:
        self.lock, self.left, self.struck, self.me = lock, nth, False, threading.get_ident()

    def __enter__(self) -> None:
        self.lock.acquire()
        if threading.get_ident() == self.me:
            self.left -= 1
            if self.left == 0:
                self.struck = True
                signal.raise_signal(signal.SIGUSR1)

    def __exit__(self, *ended: object) -> None:
        self.lock.release()

    def locked(self) -> bool:
        return bool(self.lock.locked())


@pytest.mark.parametrize("which", ["pool", "retiring", "state", "io", "stats", "engine"])
def test_a_signal_under_each_lock(which: str, secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler closes while its own thread holds a lock, whichever, the first time or the tenth: nothing waits for itself."""
    monkeypatch.setattr("pixir_sync.transports.ws.transport._CLOSING", (0.05, 0.02))  # it cannot wait for its own thread
    ended: Counter[str] = Counter()
    with local_server(secure) as server, nothing_left():
        for nth in range(1, 40):
            provider: Any = provider_of(server, "websocket", secure)
            for session in ("s", "other"):
                provider.complete("Hi", session=session)
            pool = provider._websocket._pool
            connection = pool._ledger.sessions[None, "s"].connection
            owner, name = {
                "pool": (pool, "_lock"), "retiring": (pool, "_retiring"), "state": (connection, "_state"),
                "io": (connection._wire, "_io_lock"), "stats": (provider._engine.stats, "_lock"),
                "engine": (provider._engine, "_rate_lock"),
            }[which]  # fmt: skip
            lock = Interrupted(getattr(owner, name), nth)
            setattr(owner, name, lock)
            with handling(provider.close):
                ended[kind_of(lambda: provider.complete("again", session="s"))] += 1  # noqa: B023
                ended[kind_of(lambda: provider.complete("and a third", session="third"))] += 1  # noqa: B023
                provider.stats()
                provider.close()
                lock.left = 0  # no more
            wait_until(lambda: not named("pixir-keepalive"), "the keepalive thread to end")
            assert provider.stats()["connections"]["live"] == 0
            if not lock.struck:
                break
    assert set(ended) <= {"closed", "well"} and ended["well"] >= 2


def test_a_signal_in_the_http_pool(secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the middle of urllib3's queue of idle connections, whose lock the thread then holds."""
    came: list[object] = []

    def interrupted(self: queue.LifoQueue[Any]) -> Any:
        if not came:
            came.append(self)
            signal.raise_signal(signal.SIGUSR1)
        return taken(self)

    with local_server(secure) as server, nothing_left():
        provider = provider_of(server, "http_sse", secure)
        provider.complete("Hi")
        taken = queue.LifoQueue._get
        monkeypatch.setattr(queue.LifoQueue, "_get", interrupted)
        with handling(provider.close):
            assert kind_of(lambda: provider.complete("again")) == "closed"
        assert came
        came.clear()


def test_a_signal_at_any_time(transport: TransportName, secure: bool) -> None:
    """A real one, in the middle of calls, 25 times: they end in ProviderClosed, never in anything else, and nothing is left."""
    rng = random.Random(7)
    with local_server(secure) as server, nothing_left():
        for _ in range(25):
            provider = provider_of(server, transport, secure)
            provider.complete("Hi", session="s")
            main, delay = threading.get_ident(), rng.random() * 0.02
            with handling(provider.close):
                killer = threading.Timer(delay, lambda: signal.pthread_kill(main, signal.SIGUSR1))  # noqa: B023
                killer.start()
                with pytest.raises(ProviderClosed):
                    while True:
                        provider.complete("on and on", session="s" if rng.random() < 0.5 else None)
                killer.join()
            assert provider.stats()["connections"]["live"] == 0
        assert not server.failures


def test_a_signal_while_a_stream_waits(transport: TransportName, secure: bool) -> None:
    """The usual one: SIGTERM's handler closes, and the thread that waits for the next event gets ProviderClosed at once."""
    with local_server(secure) as server, nothing_left():
        with server.fault(faults.Stall(after=4)) as placed, provider_of(server, transport, secure) as provider:
            main = threading.get_ident()

            def kill() -> None:
                placed.wait()
                time.sleep(0.1)
                signal.pthread_kill(main, signal.SIGUSR1)

            killer = in_thread(kill)
            began = time.monotonic()
            with handling(provider.close), pytest.raises(ProviderClosed) as caught:
                provider.complete("Hi", session="s")
            killer.result(5)
            assert time.monotonic() - began < 2
            assert caught.value.partial is not None and caught.value.request_sent


# From finalisers.


class Owner:
    """An object of a program that closes its provider when it is forgotten."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.me = self  # so that only the collector ends it, on whichever thread it runs

    def __del__(self) -> None:
        self.provider.close()


def test_close_from_a_finaliser(transport: TransportName, secure: bool) -> None:
    """The collector runs it on any thread, in the middle of anything: the calls of four threads go on."""
    before = gc.get_threshold()
    with local_server(secure) as server, nothing_left(), provider_of(server, transport, secure) as other:
        stop = threading.Event()

        def work(number: int) -> int:
            turns = 0
            while not stop.is_set():
                assert other.complete(f"call {number}", session=f"s{number}").text == f"Heard: call {number} (context: 1)"
                turns += 1
            return turns

        calls = [in_thread(lambda n=number: work(n)) for number in range(4)]  # type: ignore[misc]
        closed = []
        gc.set_threshold(30)
        try:
            for number in range(12):
                owned = provider_of(server, transport, secure)
                owned.complete("Hi", session=f"s{number}")
                closed.append(owned._engine)
                Owner(owned)
                del owned
            wait_until(lambda: all(engine is not None and engine.closed for engine in closed), "the finalisers")
        finally:
            gc.set_threshold(*before)
            stop.set()
        assert all(call.result(10) > 0 for call in calls)


def test_close_on_the_keepalive_thread(secure: bool) -> None:
    """A finaliser may run there, in the middle of a visit: it does not wait for the thread, which closes at its next visit."""
    with local_server(secure) as server, nothing_left():
        provider: Any = provider_of(server, "websocket", secure, keepalive=Keepalive(interval=0.1, timeout=10))
        provider.complete("Hi", session="s")
        connection = provider._websocket._pool._ledger.sessions[None, "s"].connection
        lock, done = connection._state, threading.Event()

        class Collecting:
            """A lock under which the keepalive thread comes upon garbage that closes the provider."""

            def __enter__(self) -> None:
                lock.acquire()
                if threading.current_thread().name == "pixir-keepalive" and not done.is_set():
                    provider.close()
                    done.set()

            def __exit__(self, *ended: object) -> None:
                lock.release()

        connection._state = connection.writer._state = Collecting()  # it takes it in order to ping
        assert done.wait(5), "no visit took the lock"
        wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the end")


# The end of the interpreter.

PROGRAM = """
import atexit, os, signal, sys, threading
from pixir_sync import Network, Provider, ProviderClosed
url, key, bundle, transport, how = sys.argv[1:]
def make():
    network = Network(ca_bundle=bundle or None, trust_env=False)
    return Provider(model="m", api_key=key, base_url=url, transport=transport, network=network, retry=0)
provider = make()
for n in range(3):
    provider.complete("x", session=f"s{n}")
streams = [provider.stream("half", session=f"s{n}") for n in range(2)]
for stream in streams:
    while not next(stream).text:
        pass
def consume(stream):
    try:
        stream.result()
    except ProviderClosed:
        sys.stdout.write("closed\\n")
if how == "atexit":
    atexit.register(provider.close)
elif how == "closed":
    provider.close()
elif how == "finaliser":
    class Owner:
        def __init__(self): self.provider, self.me = provider, self
        def __del__(self): self.provider.close()
    owner = Owner()
elif how == "threads":
    atexit.register(provider.close)
    for stream in streams:
        threading.Thread(target=consume, args=(stream,), daemon=True).start()
elif how == "joined":
    for stream in streams:
        threading.Thread(target=consume, args=(stream,)).start()
    threading.Timer(0.1, provider.close).start()
elif how == "signal":
    def handler(number, frame):
        provider.close()
        print("left", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, handler)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    streams[0].result()
elif how == "forked":
    pid = os.fork()
    if pid == 0:
        del streams, stream
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print("left", flush=True)
"""
WAYS = ["names", "atexit", "closed", "finaliser", "threads", "joined", "signal", "forked"]


@pytest.mark.parametrize("way", WAYS)
def test_the_interpreters_end_is_quiet(transport: TransportName, way: str, processes: Callable[[bool], ServerProcess]) -> None:
    """Two streams in the middle, three sessions: the status is 0, nothing is said on stderr, the server has no socket left."""
    server = processes(way in ("names", "signal", "threads"))
    strict = [] if way == "finaliser" else ["-W", "error", "-X", "dev"]  # a cycle at exit: Python itself tells of sockets
    command = [sys.executable, *strict, "-c", PROGRAM, server.base_url, server.api_key, server.ca_file or "", transport, way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    said = Counter(done.stdout.split())
    assert said["left"] == 1 and said["closed"] in {"joined": [2], "threads": [0, 1, 2]}.get(way, [0])
    wait_until(lambda: server.ask()["open"] == 0, "the server's sockets")


def test_many_threads_close_at_once(transport: TransportName, secure: bool) -> None:
    """16 threads close while 16 others call: each call ends well or as closed, each close returns, and nothing is left."""
    with local_server(secure) as server, nothing_left(), ExitStack() as stack:
        for _ in range(5):
            provider = stack.enter_context(provider_of(server, transport, secure, pool=PoolOptions(max_size=4)))
            provider.complete("Hi")
            start = threading.Barrier(32)

            def call(number: int, provider: Provider = provider, start: threading.Barrier = start) -> str:
                start.wait(10)
                return kind_of(lambda: provider.complete("x", session=f"s{number % 6}"))

            def close(provider: Provider = provider, start: threading.Barrier = start) -> str:
                start.wait(10)
                provider.close()
                return "well"

            calls = [in_thread(lambda n=number: call(n)) for number in range(16)]  # type: ignore[misc]
            closes = [in_thread(close) for _ in range(16)]
            assert {future.result(10) for future in calls} <= {"well", "closed"}
            assert {future.result(10) for future in closes} == {"well"}
            wait_until(lambda: provider.stats()["connections"]["live"] == 0, "the connections")  # noqa: B023
