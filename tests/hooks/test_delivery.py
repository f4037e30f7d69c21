"""Each stream that was begun is told to each hook once, whatever its end, and no hook harms a turn."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest

from pixir_sync import (
    Call,
    ConnectionLost,
    InvalidRequest,
    PixirError,
    Provider,
    ProviderClosed,
    RateLimited,
    ResponseStream,
    TurnRecord,
)
from pixir_sync.hooks import JsonLines
from pixir_sync.local import Close, HttpError, LocalServer, Pause
from tests.support.both import Peer, Reply, TransportName
from tests.support.children import in_child
from tests.support.events import completed, created, failed, incomplete, text_response
from tests.support.fake import QUICK, FakeTransport, provider_for

WHOLE = text_response("Hel", "lo")
REFUSAL = HttpError(400, {"error": {"message": "no", "code": "bad"}})

Drive = Callable[[Provider, ResponseStream], object]


def to_text(stream: ResponseStream) -> None:
    """Read on to the first piece of text."""
    assert any(event.text for event in iter(stream.__next__, None))


def finish(provider: Provider, stream: ResponseStream) -> None:
    """Read to the end, as often as one likes."""
    for _ in range(2):
        try:
            stream.result()
        except PixirError as error:
            assert error.kind == stream_kind(stream)


def stream_kind(stream: ResponseStream) -> str:
    ended = stream._turn.outcome
    assert isinstance(ended, PixirError)
    return ended.kind


def cancel(provider: Provider, stream: ResponseStream) -> None:
    to_text(stream)
    stream.cancel()
    finish(provider, stream)


def cancel_first(provider: Provider, stream: ResponseStream) -> None:
    stream.cancel()
    finish(provider, stream)


def close_the_provider(provider: Provider, stream: ResponseStream) -> None:
    to_text(stream)
    provider.close()
    finish(provider, stream)


def leave(provider: Provider, stream: ResponseStream) -> None:
    with stream:
        for event in stream:
            if event.text:
                break


def leave_at_the_end(provider: Provider, stream: ResponseStream) -> None:
    with stream:
        for event in stream:
            if event.type == "response.completed":
                break


def close(provider: Provider, stream: ResponseStream) -> None:
    to_text(stream)
    for _ in range(2):
        stream.close()


def throw(provider: Provider, stream: ResponseStream) -> None:
    to_text(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())
    finish(provider, stream)


def nothing(provider: Provider, stream: ResponseStream) -> None:
    to_text(stream)  # the caller drops it


# name: (what the server answers, what the consumer does, how it ends, whether at once or when somebody asks).
ENDS: dict[str, tuple[Reply | None, Drive, tuple[str | None, str | None], bool]] = {
    "result": (WHOLE, finish, ("stop", None), True),
    "incomplete": ([incomplete()], finish, ("length", None), True),
    "provider error": ([REFUSAL], finish, (None, "provider_http_error"), True),
    "failed": ([created(), failed()], finish, (None, "response_failed"), True),
    "lost": ([*WHOLE[:5], Close()], finish, (None, "connection_lost"), True),
    "cancelled": (None, cancel, (None, "cancelled"), True),
    "cancelled before it began": (None, cancel_first, (None, "cancelled"), True),
    "provider closed": (None, close_the_provider, (None, "closed"), True),
    "break": (None, leave, (None, "cancelled"), False),
    "break at the end": (WHOLE, leave_at_the_end, ("stop", None), False),
    "close": (None, close, (None, "cancelled"), False),
    "interrupt": (None, throw, (None, "cancelled"), False),
    "dropped": (None, nothing, (None, "cancelled"), False),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", ENDS)
def test_each_end_is_told_once(transport: TransportName, name: str, no_collector: None) -> None:
    """Neither twice nor never, with the collector off; what was left early is told with the next ``stats()``."""
    reply, drive, ended, at_once = ENDS[name]
    pause = Pause()
    told: list[TurnRecord] = []
    others: list[TurnRecord] = []
    with Peer(transport, reply or [*WHOLE[:5], pause]) as peer:
        with peer.provider(hooks=[told.append, others.append], retry=0) as provider:
            stream = provider.stream("Hi")
            assert told == []
            drive(provider, stream)
            del stream
            assert len(told) == at_once
            provider.stats()
            assert len(told) == 1
        assert [(record.finish_reason, record.error_kind) for record in told] == [ended] and others == told
        assert told[0].active_transport == (None if name == "cancelled before it began" else transport)
        assert told[0].total_ms is not None and told[0].total_ms > 0
        pause.event.set()


def test_a_stream_that_was_never_begun_is_no_turn(transport: TransportName) -> None:
    """Made and closed, made and dropped: nothing ran."""
    told: list[TurnRecord] = []
    with Peer(transport, WHOLE) as peer, peer.provider(hooks=told.append) as provider:
        provider.stream("Hi").close()
        provider.stream("Hi")
    assert told == []


def test_many_threads_leave_and_finish(transport: TransportName) -> None:
    """Whoever tells of whose turn: each is told once."""
    told: list[float] = []
    threads, calls = 8, 25
    with LocalServer() as server:

        def hook(record: TurnRecord) -> None:
            told.append(record.started_at)

        with provider_for(server, transport=transport, hooks=hook, timeouts=20) as provider:

            def work(number: int) -> None:
                for turn in range(calls):
                    with provider.stream(f"{number} {turn}") as stream:
                        for event in stream:
                            if event.text and (turn + number) % 3 == 0:
                                break

            with ThreadPoolExecutor(threads) as crowd:
                list(crowd.map(work, range(threads)))
        assert len(told) == len(set(told)) == threads * calls


@pytest.mark.parametrize("asked", ["call", "stats", "close"])
def test_what_was_left_early_is_told_with_the_next_call(transport: TransportName, asked: str) -> None:
    """A call, before it begins, ``stats()`` and ``close()``."""
    told: list[str | None] = []
    with Peer(transport, WHOLE) as peer, peer.provider(hooks=lambda record: told.append(record.error_kind)) as provider:
        with provider.stream("Hi") as stream:
            next(stream)
        assert told == []
        ask: dict[str, Callable[[], Any]] = {
            "call": lambda: provider.complete("Hi"), "stats": provider.stats, "close": provider.close,
        }  # fmt: skip
        ask[asked]()
        assert told == (["cancelled", None] if asked == "call" else ["cancelled"])


def test_the_collector_runs_no_hook() -> None:
    """A stream in somebody's cycle ends on a thread that holds the pool's lock: the hook, which takes it, comes later."""
    told: list[dict[str, Any]] = []

    class Cycle:
        def __init__(self, stream: ResponseStream) -> None:
            self.me, self.stream = self, stream

    with LocalServer() as server:
        provider: Provider = provider_for(server, transport="websocket", hooks=lambda record: told.append(provider.stats()))
        with provider:
            cycle = Cycle(provider.stream("Hi"))
            next(cycle.stream)
            with provider._websocket._pool._lock:  # type: ignore[union-attr]
                del cycle
                gc.collect()
            assert told == []
            provider.complete("Hi")
            assert len(told) == 2


def test_a_hook_may_ask_and_close(transport: TransportName) -> None:
    """No hook is called within a hook: what waits is told after it, and each once."""
    depths: list[int] = []
    depth = 0

    def hook(record: TurnRecord) -> None:
        nonlocal depth
        depth += 1
        depths.append(depth)
        provider.stats()
        if len(depths) == 3:
            provider.close()
        depth -= 1

    with Peer(transport, WHOLE) as peer, peer.provider(hooks=hook) as provider:
        streams = [provider.stream("Hi") for _ in range(4)]
        for stream in streams:
            next(stream)
        for stream in streams:
            stream.close()
        provider.stats()
    assert depths == [1, 1, 1, 1]


def test_a_close_in_the_middle_of_a_call_runs_no_hook() -> None:
    """As a signal handler may do it, wherever the call stands: the record waits until the library is at nothing."""
    told: list[str | None] = []

    class Closing(FakeTransport):
        def attempt(self, call: Call) -> Iterator[list[dict[str, Any]]]:
            yield WHOLE[:2]
            provider.close()
            during.extend(told)
            yield WHOLE[2:4]

    during: list[object] = []
    with Provider(transport=Closing(), model="m", hooks=lambda record: told.append(record.error_kind)) as provider:
        left, stream = provider.stream("Hi"), provider.stream("Hi")
        next(left)
        next(stream)
        left.close()
        with pytest.raises(ProviderClosed):
            stream.result()
    assert during == [] and told == ["closed", "cancelled"]


@pytest.mark.parametrize("raised", [KeyError("zebra"), RateLimited("zebra", retryable=True), StopIteration("zebra")])
def test_what_a_hook_raises_harms_nothing(
    transport: TransportName, raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a result nor an error; the type is logged once, without the message, and each failure is counted."""

    def bad(record: TurnRecord) -> None:
        raise raised

    told: list[TurnRecord] = []
    caplog.set_level(logging.DEBUG, "pixir_sync")
    with Peer(transport, WHOLE, WHOLE, [REFUSAL]) as peer, peer.provider(hooks=[bad, told.append]) as provider:
        assert [provider.complete("Hi").text for _ in range(2)] == ["Hello"] * 2
        with pytest.raises(PixirError, match="^no$"):
            provider.complete("Hi")
        assert provider.stats()["hook_failures"] == 3 and len(peer.bodies) == 3
    assert [record.error_kind for record in told] == [None, None, "provider_http_error"]
    lines = [(line.levelname, line.getMessage()) for line in caplog.records if "hook" in line.getMessage()]
    name = f"the hook {bad.__qualname__} failed with {type(raised).__name__}; no call is harmed, and this is said once"
    assert lines == [("WARNING", name)] and "zebra" not in caplog.text


def test_each_hook_and_each_type_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each pair, whichever of them fails first."""
    errors: list[Exception] = [KeyError(), ValueError(), KeyError(), ValueError()]

    def first(record: TurnRecord) -> None:
        raise errors.pop(0)

    class Second:
        def __call__(self, record: TurnRecord) -> None:
            raise KeyError

    with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=(first, Second())) as provider:
        for _ in range(4):
            provider.complete("Hi")
        assert provider.stats()["hook_failures"] == 8
    said = [line.getMessage().split("; ")[0].rsplit(".", 1)[-1] for line in caplog.records]
    assert said == ["first failed with KeyError", "Second failed with KeyError", "first failed with ValueError"]


@pytest.mark.parametrize("good", [True, False], ids=["result", "error"])
def test_an_interrupt_in_a_hook_goes_on(transport: TransportName, good: bool) -> None:
    """It reaches the consumer; the end of the stream is kept, and whom it kept from being told is told later, once."""
    told: list[str] = []

    def first(record: TurnRecord) -> None:
        told.append("first")
        if told == ["first"]:
            raise KeyboardInterrupt

    hooks = [first, lambda record: told.append("second")]
    with Peer(transport, WHOLE if good else [REFUSAL]) as peer, peer.provider(hooks=hooks) as provider:
        stream = provider.stream("Hi")
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert told == ["first"]
        if good:
            assert stream.result().text == "Hello"
        else:
            with pytest.raises(PixirError, match="^no$"):
                stream.result()
        assert provider.stats()["hook_failures"] == 0
    assert told == ["first", "second"]


def test_a_hook_that_fails_sends_nothing_again() -> None:
    """Not even with an error that the replay table would try again, after an answer without output."""

    def hook(record: TurnRecord) -> None:
        raise RateLimited("the hook's own", retryable=True)

    fake = FakeTransport([[created(), completed()]])
    with Provider(transport=fake, model="m", hooks=hook, retry=QUICK) as provider:
        assert provider.complete("Hi").finish_reason == "stop"
    assert len(fake.calls) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_tells_of_its_own_turns(transport: TransportName) -> None:
    """Not of the stream that it inherited, nor of one that waits to be told: those are its parent's."""
    told: list[str | None] = []
    pause = Pause()
    with Peer(transport, WHOLE, [*WHOLE[:5], pause, *WHOLE[5:]], WHOLE) as peer:
        with peer.provider(hooks=lambda record: told.append(record.finish_reason or record.error_kind)) as provider:
            with provider.stream("left") as left:
                next(left)
            stream = provider.stream("goes on")
            next(stream)
            provider.stats()
            with provider.stream("left again") as left:
                next(left)
            before = list(told)

            def child() -> list[str | None]:
                with pytest.raises(ConnectionLost, match="forked"):
                    stream.result()
                provider.stats()
                assert told == before
                provider.complete("of the child")
                return told[len(before) :]

            assert in_child(child) == ["stop"]
            pause.event.set()
            assert stream.result().text == "Hello"
        assert told == ["cancelled", "stop", "cancelled"] or told == ["cancelled", "cancelled", "stop"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("left", [False, True], ids=["at the end", "left early"])
def test_a_hook_that_forks_tells_nobody_twice(left: bool) -> None:
    """It comes back in both processes: whom it kept from being told is told by the parent, and by no child."""
    told: list[str] = []
    child: list[int] = []
    gone, said = os.pipe()

    def forks(record: TurnRecord) -> None:
        if not told:
            child.append(os.fork())
            if child == [0]:
                told.append("child")

    def second(record: TurnRecord) -> None:
        told.append("second")

    try:
        with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=[forks, second, second]) as provider:
            with provider.stream("Hi") as stream:
                next(stream) if left else stream.result()
            provider.stats()
        if child == [0]:
            os.write(said, " ".join(told).encode())
    finally:
        if child == [0]:
            os._exit(0)
    os.waitpid(child[0], 0)
    os.close(said)
    with os.fdopen(gone) as pipe:
        assert (pipe.read(), told) == ("child", ["second"] * 2)


def test_no_hook_sees_what_another_does_to_its_record() -> None:
    """Each has dicts of its own, also of a turn that was left early."""
    told: list[dict[str, Any]] = []

    def spoils(record: TurnRecord) -> None:
        record.output_items.clear()
        record.rate_limits.clear()
        (record.usage or {}).clear()
        record.replays["mine"] = 5

    hooks = [spoils, lambda record: told.append(record.to_dict())]
    with LocalServer() as server, provider_for(server, hooks=hooks) as provider:
        provider.complete("Hi")
        with provider.stream("Hi") as stream:
            next(stream)
    assert [row["replays"] for row in told] == [{}, {}]
    assert told[0]["output_items"] == {"message": 1} and told[0]["usage"]["output_tokens"] > 0


class Bound:
    """A hook that wants to know where a turn was asked for."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []
        self.fails = False

    def begin_turn(self) -> Callable[[TurnRecord], None]:
        if self.fails:
            raise KeyError("no")
        thread = threading.current_thread().name
        return lambda record: self.told.append((thread, record.model))

    def __call__(self, record: TurnRecord) -> None:
        self.told.append(("", record.model))


def test_a_hook_may_know_where_a_turn_was_asked_for() -> None:
    """``begin_turn`` is called by ``stream()``, and what it gives gets the record; where it fails the hook itself does."""
    hook = Bound()
    with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=hook) as provider:
        stream = provider.stream("Hi")
        reader = threading.Thread(target=stream.result, name="reader")
        reader.start()
        reader.join()
        hook.fails = True
        provider.complete("Hi")
        assert provider.stats()["hook_failures"] == 1
    assert hook.told == [(threading.current_thread().name, "m"), ("", "m")]


def test_a_begin_turn_that_gives_nothing_to_call_has_failed() -> None:
    """As one that raises: the hook itself is told."""
    told: list[str | None] = []

    class Forgets:
        def begin_turn(self) -> None: ...

        def __call__(self, record: TurnRecord) -> None:
            told.append(record.finish_reason)

    with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=Forgets()) as provider:
        provider.complete("Hi")
        assert provider.stats()["hook_failures"] == 1 and told == ["stop"]


def test_a_mock_is_a_hook() -> None:
    """It has every attribute that one asks for, and is called like any other."""
    mock = Mock()
    with Provider(transport=FakeTransport([WHOLE]), model="m", hooks=mock) as provider:
        provider.complete("Hi")
    mock.assert_called_once()


def test_hooks_are_callables() -> None:
    """One, or several; anything else is said where the provider is made."""
    for wrong in (5, "print", [print, None]):
        with pytest.raises(InvalidRequest, match="hooks must be"):
            Provider(hooks=wrong, model="m")
    for forgotten in (JsonLines, [print, JsonLines]):
        with pytest.raises(InvalidRequest, match=r"hooks must be .*, not a class: give JsonLines\(\.\.\.\)"):
            Provider(hooks=forgotten, model="m", transport=FakeTransport([WHOLE]))
