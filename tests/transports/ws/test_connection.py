"""One connection and its threads: who reads, what an interrupt leaves behind, and what takes no lock."""

from __future__ import annotations

import ast
import functools
import gc
import linecache
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec

import pytest

import pixir_sync.transports.ws
from pixir_sync import Cancelled, ConnectionLost, Keepalive, user
from pixir_sync.deadline import Deadline
from pixir_sync.protocol.frames import FrameParser
from pixir_sync.transports.ws import connection as connection_module
from pixir_sync.transports.ws import inbox, keepalive
from pixir_sync.transports.ws.connection import Connection
from pixir_sync.transports.ws.lanes import Lane
from tests.support.events import text_response
from tests.support.ws_peer import ClientGone, WebSocketPeer, Wire, answering
from tests.transports.http.helpers import in_thread, wait_until
from tests.transports.ws.conftest import PeerOf, ProviderOf
from tests.transports.ws.connection_helpers import begun, connected, multiplexed, no_role_is_held, open_descriptor, receive, send

ROOM = Path(pixir_sync.transports.ws.__file__).parent
PATIENT = Keepalive(interval=20, timeout=10_000)
MESSAGE = {"type": "response.created", "response": {"id": "resp_1"}}


def holding(wire: Wire) -> None:
    wire.hold()


def chatting(wire: Wire) -> None:
    """Each request gets two messages, with pings between."""
    while True:
        wire.read_message(30)
        with suppress(OSError):  # of a client that was interrupted
            for _ in range(2):
                wire.ping(b"x")
                wire.send(MESSAGE)


# Locks.


def calls_in(module: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("module", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_locks_are_plain_and_entered_by_with(module: Path) -> None:
    """An interrupt between ``acquire()`` and ``try`` leaves a lock held, and conditions lose wake-ups: neither occurs here.

    What is acquired by hand is a private lock that somebody parks on.
    """
    for call in calls_in(module):
        name = ast.unparse(call.func)
        assert name not in {f"threading.{kind}" for kind in ("Condition", "RLock", "Semaphore", "Event", "Barrier")}, name
        if name.endswith(".acquire"):
            assert name.split(".")[-2] in ("lock", "step", "turn", "over", "parked"), name


# Interrupts.


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupts:
    """Raises at one line of this package's room, the n-th time that it is reached by this thread; or only counts the lines."""

    def __init__(self, connection: Connection, at: tuple[str, int, int] | None = None) -> None:
        self.reached: Counter[tuple[str, int]] = Counter()
        self.raised = False
        self._locks = (connection._state, connection._wire._io_lock)
        self._at = at

    def __enter__(self) -> Interrupts:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *args: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent != ROOM:
            return None
        if event == "line" and not self.raised:
            self._line(path.name, frame.f_lineno, linecache.getline(str(path), frame.f_lineno))
        return self._trace

    def _line(self, name: str, number: int, text: str) -> None:
        if text.strip().startswith(("try:", "with self._")) and any(lock.locked() for lock in self._locks):
            return  # on the way in or out of a lock, where no signal is looked at
        self.reached[name, number] += 1
        if self._at is not None and self._at == (name, number, self.reached[name, number]):
            self.raised = True
            raise Interrupt


Work = Callable[[Connection], object]
P = ParamSpec("P")


def turn(connection: Connection) -> None:
    """A whole stream: begin, a request that does not fit into the buffers, the answer, its end; and the keepalive's visit."""
    connection.response_id = "resp_1"  # what is left over of an interrupted stream is nobody's
    lane = Lane()
    try:
        assert connection.begin(lane, Deadline(5))
        assert send(connection, lane, b"x" * 50_000) == "done"
        assert receive(connection, lane, 2)
    finally:
        connection.end(lane)
    keepalive.visit(connection, time.monotonic() + 60, PATIENT.timeout, readable=True)  # it is time for a ping


def in_a_thread_of_its_own(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in a thread that ends with it.

    An exception that a trace function raises inside of an ``except`` can leave its thread with a handled exception for ever
    (CPython 3.11), and with all that this one's traceback holds.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(test, *args, **kwargs).result()

    return run


def lines_of(peer: WebSocketPeer, work: Work) -> list[tuple[str, int, int]]:
    """The lines that this work goes through; each once, and the second time."""
    with connected(peer, keepalive=PATIENT, send_buffer=8192) as connection, Interrupts(connection) as interrupts:
        work(connection)
    found = [(*line, time) for line, count in interrupts.reached.items() for time in range(1, min(count, 2) + 1)]
    assert len(found) > 60
    return found


@in_a_thread_of_its_own
def test_an_interrupt_at_any_line_leaves_no_role(peer_of: PeerOf) -> None:
    """Wherever it strikes: nobody reads or writes afterwards, no lock is held; the connection works, or is dead and closed."""
    peer = peer_of(chatting, receive_buffer=8192)
    ends: Counter[str] = Counter()
    for at in lines_of(peer, turn):
        with connected(peer, keepalive=PATIENT, send_buffer=8192) as connection:
            with Interrupts(connection, at) as interrupts:
                try:
                    turn(connection)
                except Interrupt:
                    assert no_role_is_held(connection), at
            if not interrupts.raised:
                continue  # the line was reached by chance
            if connection.alive:
                turn(connection)
            else:
                lane = Lane()
                with pytest.raises(ConnectionLost):
                    connection.begin(lane, Deadline(5))
                assert connection.fileno == -1, at
            ends["alive" if connection.alive else "dead"] += 1
    assert ends["alive"] > 20 and ends["dead"] > 20, ends


@in_a_thread_of_its_own
def test_an_interrupt_while_the_connection_ends_leaves_nobody_waiting(peer_of: PeerOf) -> None:
    """It strikes while the close frame is read: whoever asks afterwards gets an error, and the descriptor goes."""

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError):
            wire.send(MESSAGE)
            wire.close(1001)
        wire.expect_closed()

    def ended(connection: Connection) -> None:
        lane = begun(connection)
        send(connection, lane)
        with pytest.raises(ConnectionLost):
            receive(connection, lane, 2)

    peer = peer_of(script)
    for at in lines_of(peer, ended):
        with connected(peer) as connection:
            with Interrupts(connection, at):
                try:
                    ended(connection)
                except Interrupt:
                    assert no_role_is_held(connection), at
            if None in connection.lanes:
                with pytest.raises(ConnectionLost):
                    send(connection, connection.lanes[None])  # it may not have been sent
                    receive(connection, connection.lanes[None], 5)
            connection.retire()
            assert connection.fileno == -1, at


@pytest.mark.parametrize("first", ["parks", "reads"])
@in_a_thread_of_its_own
def test_an_interrupted_stream_hands_over(first: str, peer_of: PeerOf) -> None:
    """Two streams, one reads for both. Wherever the first is interrupted, the other gets its message or an error."""
    over, came, others = threading.Event(), threading.Event(), list[Lane]()

    def script(wire: Wire) -> None:
        while True:
            name = wire.read_message(30).decode()
            other = others[-1]
            wait_until(lambda: over.is_set() or other.parked is not None or came.is_set(), "both")  # noqa: B023
            wire.send({"type": "x", "stream_id": name})

    def reads(connection: Connection) -> None:
        lane = connection.lanes["a"]
        send(connection, lane, b"a")
        receive(connection, lane)

    def both(at: tuple[str, int, int] | None) -> tuple[Interrupts, object]:
        with multiplexed(peer) as connection:
            mine, other = begun(connection, "a"), begun(connection, "b")
            over.clear()
            came.clear()
            others.append(other)
            if first == "parks":
                with connection._state:
                    connection._reader = other  # for the time being

            def begins() -> object:
                wait_until(lambda: over.is_set() or (mine.parked is not None or connection._reader is mine), "the first")
                if first == "parks":
                    with connection._state:
                        connection._release()
                    came.set()
                return receive(connection, other, deadline=30)

            with Interrupts(connection, at) as interrupts:
                waiting = in_thread(begins)
                try:
                    reads(connection)
                except Interrupt:
                    assert connection._reader is not mine and connection.writer.holder is not mine and mine.parked is None, at
            over.set()
            if connection.alive:
                send(connection, mine, b"b")
            try:
                return interrupts, waiting.result(5)
            except ConnectionLost as error:
                return interrupts, error

    peer = peer_of(script)
    usual, got = both(None)
    assert got == [{"type": "x", "stream_id": "b"}]
    ends: Counter[str] = Counter()
    for line in usual.reached:
        _, got = both((*line, 1))
        assert got == [{"type": "x", "stream_id": "b"}] or isinstance(got, ConnectionLost), line
        ends[type(got).__name__] += 1
    assert ends["list"] > 20 and ends["ConnectionLost"] > 5, ends


# The interpreter drops an interrupt that comes in a weak reference's callback (threading has some): for pytest a failure.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread")
def test_real_signals_leave_no_role(peer_of: PeerOf) -> None:
    """Ctrl-C at random times, 60 of them: the same."""
    armed, chance = threading.Event(), random.Random(5)
    main = threading.main_thread().ident
    assert main is not None and threading.current_thread() is threading.main_thread()
    target: int = main

    def strike(number: int, frame: object) -> None:
        if armed.is_set():
            armed.clear()
            raise KeyboardInterrupt

    hits, peer = 0, peer_of(chatting)
    before = signal.signal(signal.SIGUSR1, strike)
    try:
        for _ in range(60):
            with connected(peer, keepalive=PATIENT, send_buffer=8192) as connection:
                pause = chance.random() * 0.004

                def kill(pause: float = pause) -> None:
                    time.sleep(pause)
                    signal.pthread_kill(target, signal.SIGUSR1)

                killer = in_thread(kill)
                try:
                    armed.set()
                    for _ in range(20):
                        turn(connection)
                    armed.clear()
                except KeyboardInterrupt:
                    hits += 1
                killer.result(5)
                assert no_role_is_held(connection)
                if connection.alive:
                    turn(connection)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert hits > 30


# Who wakes whom.


def test_a_message_wakes_its_own_stream_only(peer_of: PeerOf) -> None:
    """Sixteen streams wait, each on a lock of its own: what comes for one leaves the others asleep on the same locks."""
    go = threading.Event()

    def script(wire: Wire) -> None:
        wire.hold(until=go)
        wire.send({"type": "x", "stream_id": "7"})
        wire.hold()

    with multiplexed(peer_of(script)) as connection:
        lanes = [begun(connection, str(n)) for n in range(16)]
        waiting = [in_thread(lambda lane=lane: receive(connection, lane, deadline=30)) for lane in lanes]  # type: ignore[misc]
        wait_until(lambda: sum(lane.parked is not None for lane in lanes) == 15, "fifteen to park")
        reader = connection._reader
        before = {lane.name: lane.parked for lane in lanes if lane is not reader and lane.name != "7"}
        go.set()
        assert waiting[7].result(5) == [{"type": "x", "stream_id": "7"}]
        wait_until(lambda: connection._reader is not None, "somebody to read on")
        changed = [name for name, lock in before.items() if connection.lanes[name].parked is not lock]
        assert len(changed) <= (1 if reader is lanes[7] else 0)  # a new reader, where the old one has left
        connection.lose()
        for left in waiting[:7] + waiting[8:]:
            with pytest.raises(ConnectionLost):
                left.result(5)


def test_one_reads_for_all_and_the_next_takes_over(peer_of: PeerOf) -> None:
    """Eight streams, each on a thread, a hundred messages for each in a shuffled order: every one comes, in its own order."""
    plan = [str(n) for n in range(8)] * 100
    random.Random(3).shuffle(plan)

    def script(wire: Wire) -> None:
        for _ in range(8):
            wire.read_message()
        counts: Counter[str] = Counter()
        for name in plan:
            counts[name] += 1
            wire.send({"type": "x", "stream_id": name, "number": counts[name]})
        wire.hold()

    with multiplexed(peer_of(script)) as connection:

        lanes = [begun(connection, str(n)) for n in range(8)]

        def run(lane: Lane) -> list[int]:
            send(connection, lane)
            found = [data["number"] for data in receive(connection, lane, 100, 30)]
            connection.end(lane)
            return found

        running = [in_thread(lambda lane=lane: run(lane)) for lane in lanes]  # type: ignore[misc]
        assert [work.result(30) for work in running] == [list(range(1, 101))] * 8
        assert no_role_is_held(connection)


def test_a_flood_does_not_outlast_the_deadline(peer_of: PeerOf) -> None:
    """A server that pings without a pause: the wait for its next message ends in time all the same, and the answers stay few."""
    over = threading.Event()

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError, AssertionError, ClientGone):  # the client may stop reading, or be gone
            while not over.is_set():
                wire.ping(b"x" * 125)

    peer = peer_of(script)
    with connected(peer) as connection:
        lane = begun(connection)
        send(connection, lane)
        waiting = in_thread(lambda: connection.receive(lane, Deadline(0.5)))
        assert waiting.result(10) is None
        assert connection.inbox.received > 100_000 and len(connection.writer._pongs) <= 8
        over.set()


def test_a_large_message_in_small_pieces_is_joined_in_linear_time(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 MB, read 4 KB at a time: each piece is copied once."""
    monkeypatch.setattr(connection_module, "READ", 4096)

    def script(wire: Wire) -> None:
        wire.read_create()
        wire.send(b'{"type": "%s"}' % (b"a" * (32 << 20)))
        wire.hold()

    with connected(peer_of(script)) as connection:
        lane = begun(connection)
        send(connection, lane)
        assert len(receive(connection, lane, deadline=20)[0]["type"]) == 32 << 20


# Finalisers, forks, generators.


@pytest.mark.parametrize("read", ["one event", "the terminal event"])
def test_a_finaliser_takes_no_lock(read: str, peer_of: PeerOf, provider_of: ProviderOf) -> None:
    """A stream is dropped by a thread that holds every lock there is: that is what the garbage collector may do."""

    def script(wire: Wire) -> None:
        while True:
            create = wire.read_create(30)
            with suppress(OSError):
                wire.answer(to=create)

    provider = provider_of(peer_of(script))

    def drop() -> None:
        stream = provider.stream("Hi", session="s")
        events = iter(stream)
        while next(events).type != ("response.completed" if read == "the terminal event" else "response.created"):
            pass
        websocket: Any = provider._websocket
        (connection,) = websocket._pool.leased()
        writer, thread = connection.writer, websocket._keepalive
        with websocket._pool._lock, connection._state, connection._wire._io_lock, thread._lock, websocket._gate._lock:
            assert writer._state is connection._state
            del stream, events
            gc.collect()

    in_thread(drop).result(5)
    result = provider.complete("Hi", session="s")
    assert result.provider_metadata["connection_reused"] is (read == "the terminal event")


@pytest.mark.row("B21")
def test_a_child_closes_what_it_inherited_without_a_byte(peer_of: PeerOf) -> None:
    """After a fork the descriptor is closed there before anything runs; the parent and the server notice nothing."""
    peer = peer_of(chatting)
    with connected(peer, keepalive=PATIENT) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, which is what this is about
        turn(connection)
        (server,) = peer.connections
        server.wait_frames(4)
        before, number = server.wire_bytes, connection.fileno
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if not open_descriptor(number) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert server.wire_bytes == before and server.how is None
        turn(connection)


def test_an_interrupt_with_a_batch_in_hand_ends_the_stream(
    peer_of: PeerOf, provider_of: ProviderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is lost, so the stream is over: it does not go on with a gap, and the next turn has a fresh socket."""

    def script(wire: Wire) -> None:
        wire.read_create()
        with suppress(OSError):
            wire.send_all(text_response("Hel", "lo"))
        wire.expect_closed()

    peer = peer_of([script, answering()])
    provider = provider_of(peer)
    feed = FrameParser.feed

    def lost(parser: FrameParser, data: bytes) -> list[bytes]:
        monkeypatch.setattr(FrameParser, "feed", feed)
        assert feed(parser, data)
        raise KeyboardInterrupt

    stream = provider.stream([user("Hi")], session="s")
    monkeypatch.setattr(FrameParser, "feed", lost)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(Cancelled):
        stream.result()
    again = provider.complete([user("Hi")], session="s")
    assert again.text == "ok" and again.provider_metadata["continuation_reset_reason"] == "caller_cancelled"
    assert peer.connections[0].gone.wait(5)


def test_a_fault_of_our_own_ends_the_connection(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised with bytes in hand: they are lost, so the connection is dead, for everybody and with no role left."""
    go = threading.Event()

    def script(wire: Wire) -> None:
        wire.hold(until=go)
        wire.send(MESSAGE)
        wire.expect_closed()

    with multiplexed(peer_of(script)) as connection:
        first, second = begun(connection, "a"), begun(connection, "b")
        reading = in_thread(lambda: connection.receive(first, Deadline(30)))
        wait_until(lambda: connection._reader is first, "the reader")
        parked = in_thread(lambda: connection.receive(second, Deadline(30)))
        wait_until(lambda: second.parked is not None, "the other to park")

        def fail(*args: object) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(inbox.Inbox, "controls", fail)
        go.set()
        with pytest.raises(ZeroDivisionError):
            reading.result(5)
        with pytest.raises(ConnectionLost):
            parked.result(5)
        wait_until(lambda: connection.fileno == -1, "the descriptor")
        assert no_role_is_held(connection)
