"""What is left after a provider: no thread, no descriptor, no socket at the server, no memory (rows B10, B15, B16)."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any, cast

import pytest

from pixir_sync import Network, PixirError, PoolOptions, Provider, ResponseStream, RetryPolicy
from pixir_sync.local import LocalServer, faults
from tests.support.both import TransportName
from tests.support.fake import provider_for
from tests.support.own_process import ServerProcess
from tests.transports.http.helpers import descriptors, in_thread, linux, wait_until

pytestmark = linux


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(tls=request.param == "tls") as running:
        yield running


plain = pytest.mark.parametrize("server", ["plain"], indirect=True)


@pytest.fixture(params=["gc on", "gc off"])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With the garbage collector, and without it."""
    gc.collect()
    if request.param == "gc off":
        gc.disable()
    yield request.param == "gc on"
    gc.enable()


def provider_of(server: ServerProcess, transport: str, **options: Any) -> Provider:
    network = Network(ca_bundle=server.ca_file, trust_env=False)
    quick = RetryPolicy(max_retries=1, initial_delay=0.001)
    return provider_for(server, **{"transport": transport, "retry": quick, "network": network, "timeouts": 20, **options})


@contextmanager
def nothing_left(server: ServerProcess) -> Iterator[None]:
    """After the block the threads, the descriptors and the server's sockets are those that were there before it."""
    gc.collect()
    wait_until(lambda: server.ask()["open"] == 0, "the sockets of earlier tests to be closed")
    threads, files = set(threading.enumerate()), descriptors()
    yield
    wait_until(lambda: set(threading.enumerate()) <= threads, "the threads to end")
    wait_until(lambda: descriptors() <= files, "the descriptors to be closed")
    wait_until(lambda: server.ask()["open"] == 0, "the server's sockets to be closed")


def to_half(provider: Provider, **options: Any) -> ResponseStream:
    """A stream of which the first word came, and no more will."""
    stream = provider.stream("half", **options)
    while not next(stream).text:
        pass
    return stream


def fails(provider: Provider, how: str, session: str | None = None) -> None:
    """A call that ends with an error: ``fail``, ``lose``, or ``half`` (cancelled)."""
    try:
        if how == "half":
            stream = to_half(provider, session=session)
            stream.cancel()
            stream.result()
        else:
            provider.complete(how, session=session)
    except PixirError:
        return
    raise AssertionError("it did not fail")


def used(provider: Provider) -> None:
    """Everything that happens to a provider: calls that end well, that fail, that are lost, cancelled and left."""
    for number in range(3):
        assert provider.complete(f"call {number}", session=f"s{number}").text
        assert provider.complete(f"call {number}").text
        for how in ("fail", "lose", "half"):
            fails(provider, how, f"s{number}")
    with to_half(provider):
        pass  # left in the middle
    to_half(provider, session="dropped")


# A provider that is closed, and one that is forgotten.


@pytest.mark.row("B16")
def test_close_leaves_nothing(server: ServerProcess, transport: TransportName) -> None:
    """Also while streams are held in the middle, and with calls that failed before."""
    with nothing_left(server):
        provider = provider_of(server, transport)
        used(provider)
        held = [to_half(provider, session=f"held {number}") for number in range(10)]
        assert server.ask()["open"] >= 10
        provider.close()
        assert provider.stats()["connections"]["live"] == 0 or transport == "http_sse"
        del held


@pytest.mark.row("B16")
def test_a_forgotten_provider_leaves_nothing(server: ServerProcess, transport: TransportName, collecting: bool) -> None:
    """With the last reference everything goes, after whatever it was used for, and without the garbage collector too."""
    with nothing_left(server):
        provider = provider_of(server, transport)
        used(provider)
        gone = weakref.ref(provider)
        del provider
        assert gone() is None


@pytest.mark.row("B16")
def test_twenty_forgotten_providers(server: ServerProcess, transport: TransportName, collecting: bool) -> None:
    """Made, used and dropped one after the other: they do not add up."""
    with nothing_left(server):
        most = 0
        for number in range(20):
            provider = provider_of(server, transport)
            assert [provider.complete(f"call {n}", session=f"s{n}").text for n in range(3)]
            fails(provider, ("fail", "lose", "half")[number % 3])
            del provider
            most = max(most, sum(thread.name == "pixir-keepalive" for thread in threading.enumerate()))
        assert most <= 20


# Calls that end badly.


@pytest.mark.row("B15")
@pytest.mark.parametrize("how", ["half", "fail", "lose"])
def test_two_hundred_calls_that_end_badly(server: ServerProcess, transport: TransportName, how: str) -> None:
    """Cancelled, failed or lost, on eight threads: what is left is at most the idle connections, and every thread has ended."""
    with nothing_left(server), provider_of(server, transport, retry=0, pool=PoolOptions(max_size=8)) as provider:
        provider.complete("warm")
        threads, files = set(threading.enumerate()), descriptors()

        def work(number: int) -> None:
            for turn in range(25):
                fails(provider, how, f"s{number}" if turn % 2 else None)

        for future in [in_thread(lambda n=number: work(n)) for number in range(8)]:  # type: ignore[misc]
            future.result(40)
        wait_until(lambda: set(threading.enumerate()) <= threads, "the threads to end")
        stats = provider.stats()
        assert sum(stats["errors"].values()) == 200, stats
        # A failed response leaves its connection in order; a lost or a cancelled one does not.
        idle = 8 if how == "fail" else 1
        assert stats["connections"]["live"] <= idle
        wait_until(lambda: server.ask()["open"] <= idle, "the server's sockets")
        wait_until(lambda: descriptors() <= files + 2 * idle, "the descriptors")  # over HTTP each has a duplicate, to wake it
        assert provider.complete("and on").text == "Heard: and on (context: 1)"


WAYS: dict[str, Callable[[Provider], object]] = {
    "complete": lambda provider: provider.complete("x", session="s"),
    "result": lambda provider: provider.stream("x", session="s").result(),
    "loop": lambda provider: list(provider.stream("x")),
    "block": lambda provider: in_block(provider),
    "twice": lambda provider: twice(provider),
}
FAILURES: dict[str, Callable[[], faults.Fault]] = {
    "refused": lambda: faults.Refuse(status=400), "failed": lambda: faults.Refuse(status=400, shape="failed", after=3),
    "lost": lambda: faults.Drop(after=5), "reset": lambda: faults.Drop(after=0, reset=True),
    "silent": lambda: faults.Stall(after=3), "retried": lambda: faults.Refuse(status=500),
}  # fmt: skip


def in_block(provider: Provider) -> None:
    with provider.stream("x", session="s") as stream:
        for _ in stream:
            pass


def twice(provider: Provider) -> None:
    """The error that was asked for once more is the same object, as long as somebody has it."""
    stream = provider.stream("x")
    with pytest.raises(PixirError) as first:
        stream.result()
    with pytest.raises(PixirError) as again:
        stream.result()
    assert first.value is again.value
    shown = repr(first.value)
    del first, again
    try:
        stream.result()
    except PixirError as error:
        assert repr(error) == shown and error.partial is not None
        raise


@pytest.mark.row("B15")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_call_is_no_cycle(transport: TransportName, failure: str, way: str) -> None:
    """Once its error is forgotten all of it goes, without the collector: the frames in the traceback, the call, the provider."""

    def fail(provider: Provider) -> tuple[Any, ...]:
        error: PixirError | None = None
        with local.fault(FAILURES[failure]()):
            try:
                WAYS[way](provider)
            except PixirError as found:
                error = found
        try:
            assert error is not None and error.__traceback__ is not None
            return weakref.ref(error), weakref.ref(provider._engine), weakref.ref(provider)
        finally:
            del error

    with LocalServer() as local:
        gc.collect()
        gc.disable()
        try:
            retry = RetryPolicy(max_retries=1, initial_delay=0.001)
            left = fail(provider_for(local, transport=transport, retry=retry, timeouts={"idle": 0.2}))
            assert [reference() for reference in left] == [None] * 3
        finally:
            gc.enable()


def test_an_error_that_is_kept_does_not_hold_a_connection(server: ServerProcess, transport: TransportName) -> None:
    """A program that collects its errors keeps their tracebacks, and no socket of a call that is over."""
    kept = []
    with nothing_left(server), provider_of(server, transport) as provider:
        for number in range(20):
            try:
                provider.complete(("fail", "lose")[number % 2])
            except PixirError as error:
                kept.append(error)
        assert len(kept) == 20
        wait_until(lambda: server.ask()["open"] <= 1, "the server's sockets")


# Memory.

RISE = 600  # bytes a round of a dozen calls or more: less than one object kept of each


def curve(rounds: int, work: Callable[[int], object]) -> list[int]:
    """The bytes that Python has in use after each round, from the first on, when whatever is garbage was collected."""
    found = []
    tracer: Any = threading.gettrace()
    threading.settrace(cast(Any, None))  # coverage keeps something of every thread that there was
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(rounds):
            work(number)
            gc.collect()
            found.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        threading.settrace(tracer)
    return found


def rise(found: list[int]) -> float:
    """The bytes that each round adds, once the first third is over: what three rounds add in the middle case.

    So a table that grows once, of whomever, is no leak; what every third round leaves behind is.
    """
    later = found[len(found) // 3 :]
    return median(after - before for before, after in zip(later, later[3:], strict=False)) / 3


def test_the_rise_of_a_curve() -> None:
    """The yardstick itself: a kilobyte more each round is seen, three in every third too; noise and one step are not."""
    assert rise([number * 1000 for number in range(15)]) == 1000
    assert rise([number // 3 * 3000 for number in range(15)]) == 1000
    assert rise([number * 30 + 5000 * (number > 9) for number in range(15)]) == 30
    assert abs(rise([100_000 + (number * 7919) % 3000 for number in range(15)])) < 500


@plain
@pytest.mark.row("B15")
def test_memory_does_not_grow_with_calls(server: ServerProcess, transport: TransportName) -> None:
    """One provider, 15 rounds of calls that end well, fail, are lost, cancelled and left, in sessions that come back."""

    def work(number: int) -> None:
        used(provider)
        provider.stats()  # which adds up the notes of what happened

    with provider_of(server, transport, pool=PoolOptions(max_size=4)) as provider:
        found = curve(15, work)
    assert rise(found) < RISE, found


@plain
def test_memory_does_not_grow_with_providers(server: ServerProcess, transport: TransportName) -> None:
    """15 rounds of three providers each, closed, forgotten and forgotten in the middle of a stream."""

    def work(number: int) -> None:
        with provider_of(server, transport) as closed:
            closed.complete("Hi", session="s")
        provider_of(server, transport).complete("Hi", session="s")
        left = to_half(provider_of(server, transport))
        with suppress(PixirError):
            provider_of(server, transport).complete("lose")
        del left
        wait_until(lambda: not any(thread.name == "pixir-keepalive" for thread in threading.enumerate()), "the threads")

    found = curve(15, work)
    assert rise(found) < RISE, found


IDLE = 4_400  # bytes; 3,700 are measured, with orjson and without


@plain
def test_an_idle_session_takes_little(server: ServerProcess) -> None:
    """What Python holds for each connection that waits for its next turn, with a conversation of one: the slope of a hundred."""

    def work(number: int) -> None:
        for each in range(25):
            provider.complete("Hi", session=f"{number}, {each}")
        provider.stats()  # which adds up the notes of what happened

    with provider_of(server, "websocket", pool=PoolOptions(max_size=256)) as provider:
        found = curve(5, work)
        assert provider.stats()["connections"]["live"] == 125
    assert (found[-1] - found[0]) / 100 < IDLE, found
