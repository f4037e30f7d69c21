"""Laws of the turn engine, over a transport that plays any script."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixir_sync import ConnectionLost, InvalidResponse, PixirError, Provider, RateLimited, Result, RetryPolicy, Terminal
from tests.support.events import Json, function_call_response, text_response
from tests.support.fake import FakeTransport
from tests.test_turn_engine import ENDS

TEXT = "response.output_text.delta"
ODD = [{"type": "response.brand_new"}, {"type": "keepalive"}, {"type": 5}, {}, {"type": TEXT, "delta": None}]
POOL = [*text_response("Hel", "lo")[:-1], *function_call_response("f", "{}")[2:-1], *ODD, *(row[1] for row in ENDS)]
ERRORS = (ConnectionLost("lost", phase="stream"), InvalidResponse("odd"), RateLimited("slow", retryable=True, retry_after=0.0))
scripts = st.tuples(st.lists(st.lists(st.sampled_from(POOL), max_size=4), max_size=6), st.sampled_from([None, *ERRORS]))


def running(provider: Provider) -> int:
    """How many calls run."""
    assert provider._engine is not None
    return len(provider._engine.live)


def playing(batches: list[list[Json]], then: PixirError | None) -> Any:
    def play(call: Any) -> Iterator[list[Json]]:
        yield from batches
        if then is not None:
            raise type(then)(then.message, retryable=then.retryable, retry_after=then.retry_after, phase=then.phase)

    return play


@pytest.mark.row("A20")
@given(st.lists(scripts, min_size=1, max_size=3), st.integers(0, 2))
def test_every_stream_ends_exactly_once(attempts: list[tuple[list[list[Json]], PixirError | None]], retries: int) -> None:
    """Whatever a transport brings: a Result or one PixirError, the same again when asked, and nothing after it."""
    fake = FakeTransport(*[playing(*attempt) for attempt in attempts])
    policy = RetryPolicy(max_retries=retries, initial_delay=0)
    with Provider(transport=fake, model="m", retry=policy) as provider:
        stream = provider.stream("Hi")
        ended: Any = None
        terminals = 0
        try:
            while True:
                terminals += isinstance(next(stream), Terminal)
        except StopIteration as stop:
            ended = stop.value
            assert isinstance(ended, Result) and stream.result() is ended and terminals == 1
        except PixirError as raised:
            ended = raised
            assert ended.partial is not None
            with pytest.raises(type(raised)) as again:
                stream.result()
            assert again.value is raised
        with pytest.raises(StopIteration):
            next(stream)
        stats = provider.stats()
        assert sum(stats["errors"].values()) == isinstance(ended, PixirError)
        assert running(provider) == 0 and fake.left == len(fake.calls) <= 1 + retries


@st.composite
def chunked_texts(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.text(max_size=5), min_size=1, max_size=12))


@pytest.mark.row("C2")
@given(chunked_texts(), st.lists(st.integers(1, 5), max_size=20))
def test_batches_and_pieces_do_not_matter(pieces: list[str], sizes: list[int]) -> None:
    """The same events in any batches give the same events; the same text in any pieces gives the same answer."""
    whole = text_response(*pieces)
    batches, rest = [], list(whole)
    for size in sizes:
        batches.append(rest[:size])
        rest = rest[size:]
    batches.append(rest)
    with Provider(transport=FakeTransport(batches), model="m") as provider:
        stream = provider.stream("Hi")
        assert [event.data for event in stream] == whole
        result = stream.result()
    with Provider(transport=FakeTransport([text_response("".join(pieces))]), model="m") as provider:
        joined = provider.complete("Hi")
    assert result.text == joined.text == "".join(pieces) and result.output_items == joined.output_items


def test_concurrent_calls_take_numbers_of_their_own() -> None:
    """Calls that run at once are counted as live, each once, and not afterwards."""
    hold, inside = threading.Event(), threading.Barrier(5)

    def play(call: Any) -> Iterator[list[Json]]:
        inside.wait(5)
        hold.wait(5)
        yield text_response("ok")

    with Provider(transport=FakeTransport(play), model="m") as provider:
        threads = [threading.Thread(target=provider.complete, args=("Hi",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        inside.wait(5)
        assert running(provider) == 4
        hold.set()
        for thread in threads:
            thread.join(5)
        assert running(provider) == 0
